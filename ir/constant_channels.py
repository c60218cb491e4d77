"""Channels that hold one number whatever the input is, and which number.

A filter of zeros leaves its bias: after BatchNormalization with a scale of zero, say. What becomes of
it is followed through operators that treat every position alike, up to the layers that read it, and
through those: an output that reads constant channels only is constant itself. Operators that are not
listed here end it; nothing is guessed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.evaluate import Evaluator
from sparsec.ir.cleanup.facts import Facts, infer_facts
from sparsec.ir.cleanup.operators import is_constant, is_standard, opset

_ELEMENTWISE = {
    "Abs", "Add", "Cast", "Celu", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg",
    "Pow", "PRelu", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus",
    "Softsign", "Sqrt", "Sub", "Tanh", "ThresholdedRelu",
}  # fmt: skip
_SAME = {"GlobalAveragePool", "GlobalMaxPool", "MaxPool"}


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Channels:
    """What is known of the channels of one value.

    Parameters
    ----------
    axis : int
        Where they lie.
    numbers : float [channels]
        In the value's dtype; zero where a channel varies.
    varies : bool [channels]
    """

    axis: int
    numbers: NDArray[Any]
    varies: NDArray[np.bool_]


def constant_channels(model: ir.Model) -> dict[ir.Value, Channels]:
    """Return the values of the main graph that have channels which are constant, with their numbers."""
    facts = infer_facts(model)
    evaluate = Evaluator(opset(model))
    known: dict[ir.Value, Channels] = {}
    for node in model.graph:
        if not is_standard(node) or not node.outputs or None in node.outputs:
            continue
        found = _channels(node, facts, known, evaluate)
        if found is not None and not found.varies.all() and np.isfinite(found.numbers).all():
            known[node.outputs[0]] = found
    return known


def _channels(
    node: ir.Node, facts: Facts, known: dict[ir.Value, Channels], evaluate: Evaluator
) -> Channels | None:
    """Return what is known of the output of one node."""
    first = node.inputs[0] if node.inputs else None
    state = None if first is None else known.get(first)
    if node.op_type in ("Conv", "Gemm", "MatMul"):
        return _layer(node, facts, state)
    if node.op_type in _ELEMENTWISE or node.op_type == "BatchNormalization":
        return _elementwise(node, facts, known, evaluate)
    if state is None:
        return None
    if node.op_type in _SAME or (node.op_type == "AveragePool" and not padded(node)):
        return state if state.axis == 1 else None
    if node.op_type == "Flatten" and state.axis == 1 and first is not None:
        shape = facts.shapes.get(first)
        sizes = [] if shape is None else [s for s in shape[2:] if isinstance(s, int)]
        if shape is None or len(sizes) + 2 != len(shape) or node.attributes.get_int("axis", 1) != 1:
            return None
        times = int(np.prod(sizes))
        return Channels(1, np.repeat(state.numbers, times), np.repeat(state.varies, times))
    return None


def padded(node: ir.Node) -> bool:
    """Whether a convolution or pooling reads from outside its input."""
    auto = node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    pads = node.attributes.get_ints("pads") or ()
    ceil = node.attributes.get_int("ceil_mode", 0)
    return auto not in ("NOTSET", "VALID") or any(pads) or bool(ceil)


def _elementwise(
    node: ir.Node, facts: Facts, known: dict[ir.Value, Channels], evaluate: Evaluator
) -> Channels | None:
    """Evaluate a node on the constant channels of its inputs; all other sizes are one there."""
    states = [known[value] for value in node.inputs if value in known]
    shape = facts.shapes.get(node.outputs[0])
    if not states or shape is None or len({state.axis for state in states}) > 1:
        return None
    rank, axis = len(shape), states[0].axis
    count = len(states[0].numbers)
    varies = np.zeros(count, np.bool_)
    arrays: list[NDArray[Any] | None] = []
    for index, value in enumerate(node.inputs):
        if value is None:
            arrays.append(None)
        elif value in known:
            state, own = known[value], facts.shapes.get(value)
            if own is None or len(own) != rank or len(state.numbers) != count:
                return None
            sizes = [1] * rank
            sizes[axis] = count
            arrays.append(state.numbers.reshape(sizes))
            varies |= state.varies
        elif (array := _per_channel(node, index, value, rank, axis, count)) is not None:
            arrays.append(array)
        else:
            return None
    found = evaluate(node, arrays)
    if found is None or found[0].size != count:
        return None
    numbers = np.where(varies, 0, found[0].reshape(-1)).astype(found[0].dtype)
    return Channels(axis, numbers, varies)


def _per_channel(
    node: ir.Node, index: int, value: ir.Value, rank: int, axis: int, count: int
) -> NDArray[Any] | None:
    """Return a constant operand that is one number, or one for each channel; None for others."""
    if not is_constant(value) or value.const_value is None:
        return None
    array = value.const_value.numpy()
    if array.size == 1 or (node.op_type == "BatchNormalization" and index > 0):
        return array
    wide = array.reshape((1,) * (rank - array.ndim) + array.shape) if array.ndim <= rank else None
    if wide is None or wide.shape[axis] != wide.size or wide.size != count:
        return None
    return array


def _layer(node: ir.Node, facts: Facts, state: Channels | None) -> Channels | None:
    """Return the outputs of a layer that read nothing, or only what is constant."""
    weight = layer_weight(node)
    shape = facts.shapes.get(node.outputs[0])
    if weight is None or shape is None:
        return None
    conv = node.op_type == "Conv"
    group = (node.attributes.get_int("group", 1) or 1) if conv else 1
    out = len(weight)
    axis = 1 if conv else len(shape) - 1
    rows = weight.reshape(group, out // group, weight.shape[1], -1).astype(np.float64)
    inputs = group * weight.shape[1]
    expected = 1 if conv or node.op_type == "Gemm" else axis
    if state is None or state.axis != expected or len(state.numbers) != inputs:
        numbers, varies = np.zeros(inputs), np.ones(inputs, np.bool_)
    else:
        numbers, varies = state.numbers.astype(np.float64), state.varies.copy()
        if conv and padded(node):
            varies |= numbers != 0  # at the border some of its places are zero
            numbers = np.where(varies, 0, numbers)
    read = (rows != 0).any(axis=3)
    moving = (read & varies.reshape(group, 1, -1)).any(axis=2).reshape(-1)
    bias = _bias(node, out)
    if bias is None or moving.all():
        return None
    total = np.einsum("goik,gi->go", rows, numbers.reshape(group, -1)).reshape(-1)
    if node.op_type == "Gemm":
        total *= node.attributes.get_float("alpha", 1.0)
    dtype = weight.dtype
    return Channels(axis, np.where(moving, 0, total + bias).astype(dtype), moving)


def layer_weight(node: ir.Node) -> NDArray[Any] | None:
    """Return the stored weight of Conv, Gemm or MatMul as [out, inputs, ...]; None for other forms."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None or not is_constant(value) or value.const_value is None:
        return None
    if not value.const_value.dtype.is_floating_point():
        return None
    array = value.const_value.numpy()
    if node.op_type == "Conv":
        return array if array.ndim >= 3 else None
    flipped, rows_first = (node.attributes.get_int(name, 0) for name in ("transA", "transB"))
    if array.ndim != 2 or flipped:
        return None
    return array if rows_first else array.T


def _bias(node: ir.Node, out: int) -> NDArray[np.float64] | None:
    """Return the bias of a layer, one number for each output; None if it is something else."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(out)
    if not is_constant(value) or value.const_value is None:
        return None
    array = value.const_value.numpy().astype(np.float64)
    if array.size not in (1, out) or (array.size > 1 and array.shape[-1] != array.size):
        return None
    beta = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    return np.broadcast_to(array.reshape(-1), (out,)) * (1.0 if beta is None else beta)


def readers_of(nodes: Sequence[ir.Node], known: dict[ir.Value, Channels]) -> list[Channels] | None:
    """Return what is known of the inputs of all ``nodes``; None if nothing is known of one."""
    found = []
    for node in nodes:
        state = None if node.inputs[0] is None else known.get(node.inputs[0])
        if state is None:
            return None
        found.append(state)
    return found
