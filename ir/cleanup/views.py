"""Moving a Transpose or a reshaping of a weight into the stored weight.

``MatMul(x, Transpose(W))`` becomes ``MatMul(x, W')`` with ``W'`` stored transposed. The
initializer keeps its name; its ``sparsec.param`` metadata records what was done, so that the
parameter of the source module can be found and rebuilt. Nothing is read: the new tensor is a lazy
view of the old one.

A tensor with any other reader is left alone, which keeps tied weights tied.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.operators import PLAIN, is_constant, is_standard, parameter
from sparsec.ir.cleanup.rewire import bypass, display_name
from sparsec.ir.patterns import KEY as PATTERN

PARAM = "sparsec.param"

Shape = tuple[int, ...]
View = Callable[[NDArray[Any]], NDArray[Any]]


def fold_views(model: ir.Model) -> list[str]:
    """Store weights the way their only reader sees them, in place.

    Returns
    -------
    list of str
        Names of the Transpose, Reshape, Squeeze, Unsqueeze and Flatten nodes that are gone.
    """
    folded = []
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        value = node.inputs[0] if node.inputs else None
        if value is None or not _may_change(value, node):
            continue
        tensor = value.const_value
        assert tensor is not None
        shape = tuple(int(dim) for dim in tensor.shape.numpy())
        step = _step(node, shape)
        if step is None or not bypass(node, value):
            continue
        kind, argument = step
        _store(value, tensor, kind, argument)
        folded.append(display_name(node))
    return folded


def _may_change(value: ir.Value, node: ir.Node) -> bool:
    """Whether ``value`` is a constant of an ordinary dtype that ``node`` alone reads, once."""
    if not is_constant(value) or len(value.uses()) != 1 or value.is_graph_output():
        return False
    if value.graph is not node.graph or node.outputs[0].is_graph_output():
        return False
    # The pattern names an axis of the tensor as it is.
    return PATTERN not in value.metadata_props and value.const_value.dtype in PLAIN  # type: ignore[union-attr]


def _step(node: ir.Node, shape: Shape) -> tuple[str, Shape] | None:
    """Return ``("transpose", perm)`` or ``("reshape", shape)``: what ``node`` does to an array."""
    if is_standard(node, "Transpose"):
        perm = node.attributes.get_ints("perm") or range(len(shape))[::-1]
        return "transpose", tuple(int(axis) for axis in perm)
    if 0 in shape:
        return None  # -1 in a target shape has no answer then
    try:
        if is_standard(node, "Reshape"):
            target = parameter(node, 1, "shape")
            return None if target is None else ("reshape", _reshaped(shape, target.tolist()))
        if is_standard(node, "Flatten"):
            axis = node.attributes.get_int("axis", 1) or 0
            return "reshape", (int(np.prod(shape[:axis])), int(np.prod(shape[axis:])))
        if is_standard(node, "Squeeze", "Unsqueeze"):
            axes = parameter(node, 1, "axes")
            if axes is None or axes.ndim != 1:
                return None
            change = np.squeeze if node.op_type == "Squeeze" else np.expand_dims
            changed = change(np.broadcast_to(0, shape), tuple(axes.tolist()))
            return "reshape", changed.shape
    except ValueError:
        return None  # the node is invalid; the runtime is the one to say so
    return None


def _reshaped(shape: Shape, target: list[int]) -> Shape:
    sizes = [shape[i] if size == 0 and i < len(shape) else size for i, size in enumerate(target)]
    return np.broadcast_to(0, shape).reshape(sizes).shape


def _store(value: ir.Value, tensor: ir.TensorProtocol, kind: str, argument: Shape) -> None:
    def view() -> ir.TensorProtocol:
        array = tensor.numpy()
        array = array.transpose(argument) if kind == "transpose" else array.reshape(argument)
        return ir.Tensor(array, dtype=tensor.dtype, name=value.name)

    old = tuple(int(dim) for dim in tensor.shape.numpy())
    shape = ir.Shape([old[axis] for axis in argument] if kind == "transpose" else argument)
    value.const_value = ir.LazyTensor(view, dtype=tensor.dtype, shape=shape, name=value.name)
    value.shape = ir.Shape(shape)
    if text := value.metadata_props.get(PARAM):
        provenance = json.loads(text)
        provenance["transform"].append([kind, list(argument)])
        value.metadata_props[PARAM] = json.dumps(provenance)
