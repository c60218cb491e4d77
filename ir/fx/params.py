"""Parameters of an imported graph: which constants train, and what they are called in torch.

A float constant becomes an :class:`torch.nn.Parameter`, in the layout of the graph, unless
training must not move it; everything else that is no small literal becomes a buffer. The importer
of torch modules leaves the way back in the value's ``metadata_props``::

    "sparsec.param": {"name": "layer.0.weight", "transform": [["transpose", [1, 0]]]}

``transform`` lists the steps from the torch tensor to the graph's. ``"shape"`` may give the torch
shape, without which a ``reshape`` cannot be undone, and ``"kind"`` what it was: ``"buffer"``, or
``"frozen"``, a parameter that asks for no gradient. Of a graph with such notes, a constant without
one was none of the module's weights, and does not train.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from sparsec.ir.errors import ModelImportError, ShapeError

METADATA_KEY = "sparsec.param"


Step = tuple[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Provenance:
    """Where in a torch module a constant of the graph comes from."""

    name: str
    transform: tuple[Step, ...] = ()
    shape: tuple[int, ...] | None = None
    kind: str = "parameter"

    @classmethod
    def of(cls, value: ir.Value) -> Provenance | None:
        """Read a value's metadata; None if it has none.

        Raises
        ------
        ModelImportError
            If the metadata is there and not of the form that the module docstring gives.
        """
        text = value.metadata_props.get(METADATA_KEY)
        if text is None:
            return None
        try:
            fields = json.loads(text)
            shape = fields.get("shape")
            return cls(
                name=fields["name"],
                transform=tuple(_step(step) for step in fields.get("transform", ())),
                shape=None if shape is None else tuple(int(n) for n in shape),
                kind=fields.get("kind", "parameter"),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelImportError(
                f"value {value.name!r}: its metadata {METADATA_KEY!r} should be a JSON object with "
                f"'name' and 'transform', got {text!r}; remove or mend it",
                where=value.name or "",
            ) from error

    def to_graph(self, tensor: Tensor) -> Tensor:
        """Bring a torch tensor to the graph's layout."""
        for kind, numbers in self.transform:
            tensor = tensor.permute(numbers) if kind == "transpose" else tensor.reshape(numbers)
        return tensor

    def to_torch(self, tensor: Tensor) -> Tensor:
        """Bring a tensor of the graph back to torch's layout.

        Raises
        ------
        ShapeError
            If a reshape is to be undone and the torch shape is not known.
        """
        for position, (kind, numbers) in reversed(list(enumerate(self.transform))):
            if kind == "transpose":
                tensor = tensor.permute(tuple(int(i) for i in np.argsort(numbers)))
            else:
                tensor = tensor.reshape(self._shape_before(position))
        return tensor

    def _shape_before(self, position: int) -> tuple[int, ...]:
        if self.shape is None:
            raise ShapeError(
                f"parameter {self.name!r}: its transform {list(self.transform)} reshapes, and the "
                "metadata lack the torch shape that would undo it; import the module again",
                where=self.name,
            )
        shape = self.shape
        for kind, numbers in self.transform[:position]:
            shape = tuple(shape[i] for i in numbers) if kind == "transpose" else numbers
        return shape


def _step(step: str | list[Any]) -> Step:
    """Read one step, written ``"transpose:1,0"`` or ``["transpose", [1, 0]]``."""
    if isinstance(step, str):
        kind, _, text = step.partition(":")
        numbers = text.split(",")
    else:
        kind, numbers = step
    if kind not in ("transpose", "reshape"):
        raise ValueError(kind)
    return kind, tuple(int(n) for n in numbers)


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """What a parameter or buffer of an FX module is in the graph."""

    value: str
    provenance: Provenance | None


def trains(tensor: Tensor, provenance: Provenance | None, frozen: bool) -> bool:
    """Say whether a constant becomes a parameter.

    A bare number (an epsilon, a scale) is no weight unless torch had it as one; neither are
    statistics (``frozen``: every use is of that kind) nor tables with infinities (masks).
    """
    if not tensor.is_floating_point() or tensor.element_size() < 2 or frozen:
        return False
    if provenance is not None:
        return provenance.kind in ("parameter", "frozen")
    return tensor.ndim > 0 and bool(torch.isfinite(tensor).all())


def origins(module: torch.nn.Module) -> dict[str, Origin]:
    """Return the origin of every parameter and buffer of an imported module, bodies included."""
    found: dict[str, Origin] = {}
    for prefix, child in module.named_modules():
        if isinstance(child, torch.fx.GraphModule):
            for name, origin in child.meta.get("sparsec.origins", {}).items():
                found[f"{prefix}.{name}" if prefix else name] = origin
    return found


def state_dict_to_torch(gm: torch.fx.GraphModule) -> dict[str, Tensor]:
    """Return the values that have a torch name, under it and in torch's layout.

    The result loads into the module that the graph came from, with ``strict=False`` if it has
    buffers that no longer occur in the graph.
    """
    state = gm.state_dict(keep_vars=True)
    result: dict[str, Tensor] = {}
    for name, origin in origins(gm).items():
        if origin.provenance is not None:
            tensor = origin.provenance.to_torch(state[name].detach())
            result.setdefault(origin.provenance.name, tensor.contiguous())
    return result


def load_torch_state_dict(gm: torch.fx.GraphModule, state: Mapping[str, Tensor]) -> list[str]:
    """Load a torch module's state dict into the imported graph.

    Returns
    -------
    list of str
        Torch names that the graph holds and ``state`` lacks.

    Raises
    ------
    ShapeError
        If a tensor does not fit; nothing has been loaded then.
    """
    own = gm.state_dict(keep_vars=True)
    missing: list[str] = []
    copies: list[tuple[Tensor, Tensor]] = []
    for name, origin in origins(gm).items():
        if origin.provenance is None:
            continue
        if origin.provenance.name not in state:
            missing.append(origin.provenance.name)
            continue
        tensor = state[origin.provenance.name]
        fits = tensor.numel() == own[name].numel()
        tensor = origin.provenance.to_graph(tensor) if fits else tensor
        if tensor.shape != own[name].shape:
            raise ShapeError(
                f"parameter {origin.provenance.name!r}: the graph needs {tuple(own[name].shape)} "
                f"after {list(origin.provenance.transform)}, got {tuple(tensor.shape)}",
                where=origin.provenance.name,
            )
        copies.append((own[name], tensor))
    with torch.no_grad():
        for target, tensor in copies:
            target.copy_(tensor)
    return missing
