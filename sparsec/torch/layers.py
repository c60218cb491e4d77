"""Which layers of a torch module are linear, which weights they share, and where each one hangs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sparsec.ir.codes import Code
from sparsec.ir.errors import UsageError


def listed(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    """Return an option of several values; one text alone is not taken for its letters.

    Raises
    ------
    UsageError
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(f"{name}: needed a list, got {values!r}; write [{values!r}]")
    return tuple(values)


@dataclasses.dataclass(slots=True)
class LinearLayer:
    """A layer that computes ``x @ W.T + bias``, whatever way it stores W.

    Parameters
    ----------
    name : str
        Path of the module, as in ``named_modules``.
    module : nn.Module
    parameter : Tensor
        The weight as stored.
    transposed : bool
        The weight is stored [in, out], as ``Conv1D`` of Hugging Face's GPT-2 has it.
    places : list of (parent, attribute)
        Where the module hangs; more than one if the same module is used in several places.
    """

    name: str
    module: nn.Module
    parameter: Tensor
    transposed: bool
    places: list[tuple[nn.Module, str]]

    @property
    def matrix(self) -> Tensor:
        """W as [out, in]: a view."""
        weight = self.parameter.detach()
        return weight.t() if self.transposed else weight

    @property
    def bias(self) -> Tensor | None:
        """The bias [out], if there is one."""
        bias = getattr(self.module, "bias", None)
        return bias.detach() if isinstance(bias, Tensor) else None

    def replace(self, module: nn.Module) -> None:
        """Hang ``module`` in the layer's places."""
        for parent, attribute in self.places:
            setattr(parent, attribute, module)
            if isinstance(parent, nn.TransformerEncoderLayer):
                # Its fused path reads the weights of its children; this switches it off.
                parent.activation_relu_or_gelu = 0


def end_fused_paths(root: nn.Module) -> None:
    """Let no encoder convert to nested tensors for layers that do not take its fused path any more."""
    for module in root.modules():
        if isinstance(module, nn.TransformerEncoder) and any(
            isinstance(layer, nn.TransformerEncoderLayer) and not layer.activation_relu_or_gelu
            for layer in module.layers
        ):
            module.use_nested_tensor = False


@contextlib.contextmanager
def no_nested_tensors(root: nn.Module) -> Iterator[None]:
    """Let encoders hand their layers plain tensors for a while."""
    encoders = [m for m in root.modules() if isinstance(m, nn.TransformerEncoder)]
    before = [encoder.use_nested_tensor for encoder in encoders]
    try:
        for encoder in encoders:
            encoder.use_nested_tensor = False
        yield
    finally:
        for encoder, used in zip(encoders, before, strict=True):
            encoder.use_nested_tensor = used


def linear_layers(root: nn.Module) -> list[LinearLayer]:
    """Return the linear layers under ``root``, each module once, in order.

    Subclasses of Linear are not among them, see :func:`obstacle`.
    """
    found: dict[int, LinearLayer] = {}
    for path, parent in root.named_modules():
        for attribute, module in parent._modules.items():  # named_children() drops repeats
            if module is None:
                continue
            transposed = _is_conv1d(module)
            if type(module) is not nn.Linear and not transposed:
                continue
            if id(module) not in found:
                name = f"{path}.{attribute}" if path else attribute
                weight = module.weight
                assert isinstance(weight, Tensor)
                found[id(module)] = LinearLayer(name, module, weight, transposed, [])
            found[id(module)].places.append((parent, attribute))
    return list(found.values())


def like_linear(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that derive from Linear and may compute something else."""
    for name, module in root.named_modules():
        if isinstance(module, nn.Linear) and type(module) is not nn.Linear:
            yield name, module


def readers(root: nn.Module) -> dict[int, list[nn.Module]]:
    """Return, for the ``id`` of every parameter, the modules that hold it."""
    held: dict[int, list[nn.Module]] = {}
    for module in root.modules():
        for parameter in module.parameters(recurse=False):
            held.setdefault(id(parameter), []).append(module)
    return held


def obstacle(layer: LinearLayer, held: dict[int, list[nn.Module]]) -> tuple[Code, str] | None:
    """Return why a layer cannot be replaced whatever its weights are, or None."""
    for module in held.get(id(layer.parameter), ()):
        if type(module) is not nn.Linear and not _is_conv1d(module):
            kind = type(module).__name__
            return Code.SHARED, f"its weight is also that of a {kind}, which reads it by rows"
        if _is_conv1d(module) != layer.transposed:
            kind = type(module).__name__
            return Code.SHARED, f"its weight is also that of a {kind}, which reads it transposed"
    if not layer.parameter.is_floating_point():
        return Code.NOT_FLOAT, f"its weight is {layer.parameter.dtype}"
    if layer.parameter.is_meta:
        return Code.NOT_CONSTANT, "its weight is on the meta device: load the weights first"
    module = layer.module
    hooks = module._forward_pre_hooks, module._forward_hooks
    if any((*hooks, module._backward_pre_hooks, module._backward_hooks)):
        return Code.NOT_CONSTANT, "hooks hang on it (weight_norm, an adapter), and may read it"
    if "forward" in vars(module):
        return Code.NOT_CONSTANT, "it has a forward of its own, put in place of its class's"
    if layer.parameter.numel() < 2 or layer.matrix.shape[1] < 2:
        return Code.TOO_SMALL, "it has fewer than two inputs"
    return None


def _is_conv1d(module: nn.Module) -> bool:
    """Whether it is the Conv1D of Hugging Face: a Linear whose weight is stored [in, out]."""
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__ == "Conv1D"
        and not isinstance(module, nn.Conv1d)
        and isinstance(getattr(module, "nf", None), int)
        and isinstance(weight, torch.Tensor)
        and weight.ndim == 2
        and weight.shape[1] == module.nf
    )
