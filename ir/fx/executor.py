"""Running an imported graph on NumPy feeds, with any value captured and with gradients."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from sparsec.ir.errors import SparsecError, UsageError, did_you_mean
from sparsec.ir.fx import host as hv
from sparsec.ir.fx.importer import node_origins, to_fx
from sparsec.ir.fx.params import origins
from sparsec.ir.fx.retype import retyped

Array = np.ndarray[Any, Any]
Loss = Callable[[Mapping[str, Tensor]], Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Gradients:
    """A loss and its gradients, by the graph's names.

    A parameter or value that the loss does not depend on has a gradient of zeros.
    """

    loss: float
    parameters: dict[str, Array]
    values: dict[str, Array]


class FxExecutor:
    """Runs a graph in torch.

    Feeds and results are NumPy arrays under the graph's names. Float feeds are brought to the
    working type; results keep their type, but for bfloat16, which comes as float32.

    Parameters
    ----------
    model : onnx_ir.Model or torch.fx.GraphModule
        A graph module is one that :func:`to_fx` made; without ``dtype`` it is used as it is, so
        that what trains it is seen.
    dtype : torch.dtype, optional
        Working type in place of the model's: ``torch.float64``, ``torch.bfloat16``.
    device : str
        ``"cpu"``, ``"cuda"``.
    ort_leaves : bool
        See :func:`to_fx`.

    Raises
    ------
    UnsupportedOpError
        If the model has operators without a torch form.
    SparsecError
        If the device is not there.
    """

    def __init__(
        self,
        model: ir.Model | torch.fx.GraphModule,
        *,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        ort_leaves: bool = False,
    ) -> None:
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise SparsecError(
                f"device {device!r}: needed a CUDA device, torch finds none; use device='cpu'",
                where=device,
            )
        gm = to_fx(model, ort_leaves=ort_leaves) if isinstance(model, ir.Model) else model
        self.module = (gm if dtype is None else retyped(gm, dtype)).to(device)
        self.device = torch.device(device)
        self.dtype = dtype
        self.inputs: tuple[str, ...] = gm.meta["sparsec.inputs"]
        self.outputs: tuple[str, ...] = gm.meta["sparsec.outputs"]
        self._nodes = {origin.value: node.name for node, origin in node_origins(self.module)}
        self._captures: dict[tuple[str, ...], torch.fx.GraphModule] = {}

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values that can be captured: those of the outermost graph."""
        return tuple(self._nodes)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters by the names of their initializers.

        Those inside bodies of control flow, whose names need not be unique, go by their path.
        """
        known = origins(self.module)
        named = {}
        for path, parameter in self.module.named_parameters():
            outermost = path in self.module.meta["sparsec.origins"]
            named[known[path].value if outermost else path] = parameter
        return named

    def run(
        self, feeds: Mapping[str, Array], values: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Compute outputs, or chosen values: only what these need is executed.

        Parameters
        ----------
        feeds : mapping of str to array
            Every input of the graph.
        values : sequence of str, optional
            Names of values or outputs; all outputs by default.

        Raises
        ------
        UsageError
            If a feed is missing or unknown, or a value is not one of the outermost graph.
        """
        with torch.inference_mode(), self._on_device():
            found = self._forward(self._tensors(feeds), self.outputs if values is None else values)
        return {name: _array(tensor) for name, tensor in found.items()}

    def gradients(
        self,
        feeds: Mapping[str, Array],
        loss: Loss,
        *,
        parameters: Iterable[str] | None = None,
        values: Sequence[str] = (),
    ) -> Gradients:
        """Differentiate a loss.

        Parameters
        ----------
        feeds : mapping of str to array
        loss : callable
            Given the outputs and ``values`` as tensors, returns a scalar tensor.
        parameters : iterable of str, optional
            Names as in :meth:`parameters`; all by default.
        values : sequence of str
            Values, or inputs of a float type, whose gradients are wanted too.

        Raises
        ------
        UsageError
            As in :meth:`run`, for an unknown parameter, or for a value without derivative.
        UnsupportedOpError
            If the way back leads through an operator that ran in ONNX Runtime.
        """
        named = self.parameters()
        chosen = list(named if parameters is None else parameters)
        _check_names("parameter", chosen, named)
        with torch.enable_grad(), self._on_device():
            tensors = self._tensors(feeds)
            for tensor in tensors.values():
                tensor.requires_grad_(bool(values) and tensor.is_floating_point())
            wanted = dict.fromkeys((*self.outputs, *values))
            found = self._forward(tensors, tuple(wanted))
            found.update({name: tensors[name] for name in values if name in tensors})
            for name in values:
                if not found[name].requires_grad:
                    raise UsageError(
                        f"value {name!r}: needed one that real numbers lead to, got one of type "
                        f"{found[name].dtype} that does not change with them",
                        where=name,
                    )
            result = loss(found)
            sources = [named[n] for n in chosen] + [found[n] for n in values]
            got = torch.autograd.grad(result, sources, allow_unused=True)
        arrays = [
            _array(torch.zeros_like(s) if g is None else g)
            for s, g in zip(sources, got, strict=True)
        ]
        split = len(chosen)
        return Gradients(
            loss=float(result.detach()),
            parameters=dict(zip(chosen, arrays[:split], strict=True)),
            values=dict(zip(values, arrays[split:], strict=True)),
        )

    def _on_device(self) -> contextlib.AbstractContextManager[Any]:
        """Let operators that make tensors from nothing make them on the device."""
        return torch.device(self.device) if self.device.type != "cpu" else contextlib.nullcontext()

    def _tensors(self, feeds: Mapping[str, Array]) -> dict[str, Tensor]:
        _check_names("input", feeds, self.inputs)
        if missing := [n for n in self.inputs if n not in feeds]:
            raise UsageError(
                f"feeds: needed all inputs {list(self.inputs)}, missing {missing}", where=missing[0]
            )
        tensors = {}
        for name in self.inputs:
            tensor = torch.from_numpy(np.array(feeds[name], copy=True)).to(self.device)
            cast = self.dtype is not None and tensor.is_floating_point()
            tensors[name] = tensor.to(self.dtype) if cast else tensor
        return tensors

    def _forward(self, tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        names = tuple(names)
        if names not in self._captures:
            _check_names("value", names, {*self._nodes, *self.outputs})
            self._captures[names] = self._capture(names)
        results = self._captures[names](*(tensors[n] for n in self.inputs))
        return {n: hv.to_tensor(r) for n, r in zip(names, results, strict=True)}

    def _capture(self, names: tuple[str, ...]) -> torch.fx.GraphModule:
        """Return a module that shares ours and returns the named values, computing no others."""
        graph = torch.fx.Graph()
        copies: dict[torch.fx.Node, torch.fx.Node] = {}
        returned = graph.graph_copy(self.module.graph, copies)
        parts = returned if isinstance(returned, tuple) else (returned,)
        by_name = {node.name: copy for node, copy in copies.items()}
        ends = dict(zip(self.outputs, parts, strict=True))
        graph.output(tuple(by_name[self._nodes[n]] if n in self._nodes else ends[n] for n in names))
        module = torch.fx.GraphModule(self.module, graph)
        module.graph.eliminate_dead_code()
        module.recompile()
        return module


def _check_names(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = set(known)
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {kind} {name!r}; {did_you_mean(name, known)}", where=name)


def _array(tensor: Tensor) -> Array:
    tensor = tensor.detach().cpu()
    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return np.asarray(wide.numpy())
