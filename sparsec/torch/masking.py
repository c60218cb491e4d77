"""The passes of SparseC on the weights of a torch module.

A pass works on a graph. Here it gets one in which every layer is a Gemm of its own, with an input of
its own: what is masked, how scores compete and why a layer is left alone are then what they are in a
compilation, from the same code. With calibration data, the inputs of the Gemms are what forward
hooks see while the module runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsec.ir.cleanup.rewire import constant
from sparsec.ir.errors import CalibrationError
from sparsec.ir.patterns import parse_pattern
from sparsec.ir.sites import weight_sites
from sparsec.passes.base import PassContext
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.pipeline import Pipeline, Step
from sparsec.passes.spec import build_pass
from sparsec.torch.layers import LinearLayer, no_nested_tensors

Call = Callable[[nn.Module, Any], object]
_OPSET = 20


def pipeline_for(pattern: str, options: Mapping[str, Any]) -> Pipeline:
    """Return the pass that makes ``pattern``: ``2:4``, ``unstructured``, ``block:8x1``.

    Raises
    ------
    PatternError
        If the text is no pattern.
    PassConfigError
        If the pass has no such option.
    """
    parsed = parse_pattern(pattern)
    fields = {name: getattr(parsed, name) for name in getattr(parsed, "__slots__", ())}
    kind = {"NM": "nm", "Block": "block", "Unstructured": "unstructured"}[type(parsed).__name__]
    return Pipeline((build_pass(kind, {**fields, **options}),))


def run_passes(
    layers: Sequence[LinearLayer],
    pipeline: Pipeline,
    *,
    module: nn.Module,
    calib: Sequence[Any] | None = None,
    call: Call | None = None,
    seed: int = 0,
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str], list[Step]]:
    """Run ``pipeline`` over the weights of ``layers``.

    Parameters
    ----------
    calib : sequence, optional
        Samples that ``call`` hands to ``module``; ``module(sample)`` by default.

    Returns
    -------
    matrices : dict of str to float32 [out, in]
        What became of each weight, by the name of its layer.
    patterns : dict of str to str
        The pattern that a pass left on it; absent if none.
    steps : list of Step
        What each pass changed and left alone.

    Raises
    ------
    SparsecError
        As in a compilation.
    """
    model = _graph(layers)
    calibration = None
    if calib is not None:
        calibration = Calibration(_ModuleFeeds(layers, module, calib, call or _call))
    steps = pipeline.run(model, PassContext(seed=seed, calibration=calibration))
    matrices, patterns = {}, {}
    for site in weight_sites(model):
        matrices[site.name] = np.asarray(site.matrix(), np.float32)
        if site.pattern is not None:
            patterns[site.name] = str(site.pattern)
    return matrices, patterns, steps


def independent(pipeline: Pipeline) -> bool:
    """Whether each weight can be pruned without seeing the others."""
    return not any(getattr(each, "competing", False) for each in pipeline.passes)


def _graph(layers: Sequence[LinearLayer]) -> ir.Model:
    """Return a model of one Gemm a layer: ``name.y[rows, out] = name.x @ W.T``."""
    nodes, inputs, initializers = [], [], []
    for layer in layers:
        array = layer.matrix.to("cpu", torch.float32).contiguous().numpy()
        weight = constant(f"{layer.name}.weight", array)
        x = _value(f"{layer.name}.x", f"{layer.name}.rows", array.shape[1])
        node = ir.node("Gemm", [x, weight], {"transB": 1}, name=layer.name)
        y = node.outputs[0]
        y.name, y.type = f"{layer.name}.y", ir.TensorType(ir.DataType.FLOAT)
        y.shape = ir.Shape((f"{layer.name}.rows", array.shape[0]))
        nodes.append(node)
        inputs.append(x)
        initializers.append(weight)
    graph = ir.Graph(
        inputs,
        [node.outputs[0] for node in nodes],
        nodes=nodes,
        initializers=initializers,
        opset_imports={"": _OPSET},
        name="layers",
    )
    return ir.Model(graph, ir_version=10)


def _value(name: str, rows: str, columns: int) -> ir.Value:
    return ir.Value(
        name=name, shape=ir.Shape((rows, columns)), type=ir.TensorType(ir.DataType.FLOAT)
    )


def _call(module: nn.Module, sample: Any) -> object:
    """Call a module as most are called: by keyword, by position, or with the sample itself."""
    if isinstance(sample, Mapping):
        return module(**sample)
    return module(*sample) if isinstance(sample, (tuple, list)) else module(sample)


class _ModuleFeeds(Sequence[Mapping[str, NDArray[Any]]]):
    """What each layer reads, one sample at a time: the module runs when a sample is asked for."""

    def __init__(
        self, layers: Sequence[LinearLayer], module: nn.Module, calib: Sequence[Any], call: Call
    ) -> None:
        self._layers, self._module, self._calib, self._call = layers, module, calib, call

    def __len__(self) -> int:
        return len(self._calib)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        seen: dict[str, list[NDArray[np.float32]]] = {layer.name: [] for layer in self._layers}
        plain = no_nested_tensors(self._module)
        with _watching(self._layers, seen), plain, torch.no_grad():
            self._call(self._module, self._calib[index])
        return {
            f"{layer.name}.x": _stacked(seen[layer.name], layer.matrix.shape[1])
            for layer in self._layers
        }


@contextlib.contextmanager
def _watching(
    layers: Sequence[LinearLayer], seen: dict[str, list[NDArray[np.float32]]]
) -> Iterator[None]:
    """Append what every layer reads to ``seen``; layers that read one tensor share the copy.

    Raises
    ------
    CalibrationError
        If a layer is in training mode: dropout and the like would be part of what is seen.
    """
    if any(layer.module.training for layer in layers):
        raise CalibrationError(
            "calibration needs the module in evaluation mode: call module.eval() first"
        )
    copies: dict[int, tuple[Tensor, NDArray[np.float32]]] = {}

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            (x,) = args or named.values()
            if id(x) not in copies:
                rows = x.detach().reshape(-1, x.shape[-1]).to("cpu", torch.float32)
                # The tensor is kept with the copy: a freed one's id would be used again.
                copies[id(x)] = x, rows.numpy()
            seen[name].append(copies[id(x)][1])

        return hook

    handles = [
        layer.module.register_forward_pre_hook(hook_of(layer.name), with_kwargs=True)
        for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stacked(parts: list[NDArray[np.float32]], columns: int) -> NDArray[np.float32]:
    if not parts:  # the sample did not come here: an expert without tokens
        return np.zeros((0, columns), np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
