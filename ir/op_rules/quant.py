"""Quantised tensors: integers that stand for numbers, by a scale and a zero point.

A removed position is zero in the masked graph if the integer that it holds stands for zero. Zeroed
weights are the integer 0, so that holds where the zero point is 0, or where the scale is zeroed with
them. What a quantiser makes of zero stands for zero wherever the same zero point is subtracted again.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sparsec.ir.cleanup.operators import small_constant
from sparsec.ir.op_rules.conv import products, shrink_groups
from sparsec.ir.op_rules.linear import contract
from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.view import NodeView, in_range

# Where an operator reads integers, and the input that is their zero point.
_ZERO_POINT = {
    ("DequantizeLinear", 0): 2,
    ("ConvInteger", 0): 2, ("ConvInteger", 1): 3,
    ("MatMulInteger", 0): 2, ("MatMulInteger", 1): 3,
    ("QLinearConv", 0): 2, ("QLinearConv", 3): 5,
    ("QLinearMatMul", 0): 2, ("QLinearMatMul", 3): 5,
}  # fmt: skip
_MADE_WITH = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearMatMul": 7}  # their zero point


def quantize(view: NodeView) -> Sequence[Axes]:
    """Couple QuantizeLinear: x, scale and zero point of the whole tensor or of each channel.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("DequantizeLinear", x=[6, 8], scale=[6], zero=[6], axis=0))
    6 units: x.0 scale.0 zero.0 y.0
    8 units: x.1 y.1
    """
    view.never_zero(1)
    axes = _scaled(view, 0, 1, 2)
    return [tuple(axis and axis.fading(_is_undone(view)) for axis in axes)]


def dequantize(view: NodeView) -> Sequence[Axes]:
    """Couple DequantizeLinear: as QuantizeLinear."""
    channel, zero = _channel(view, 0, 1), _stands_for_zero(view, 0)
    axes = _scaled(view, 0, 1, 2)
    # A zero point of the channel is zeroed with it, if it is stored.
    own = view.known(2) if view.has(2) else ()
    zeroed = all(axis is not None and axis.vanishes for axis in own)
    return [
        tuple(
            axis and axis.fading(zero or (place == channel and zeroed))
            for place, axis in enumerate(axes)
        )
    ]


def _channel(view: NodeView, data: int, scale: int) -> int | None:
    """Return the axis that has a scale for each position; None for one scale."""
    shape = view.shape(scale)
    if shape is None or len(shape) != 1 or shape[0] == 1:
        return None
    return in_range(view.integer("axis", 1), len(view.known(data)))


def _scaled(view: NodeView, data: int, scale: int, zero: int) -> list[Axis | None]:
    """Tie channels to their scales and zero points; scales of blocks freeze everything."""
    axes = list(view.known(data))
    channel = _channel(view, data, scale)
    if channel is not None:
        others = [axis for i in (scale, zero) if view.has(i) for axis in view.known(i)]
        axes[channel] = view.tie([axes[channel], *others], "has a scale that is fixed")
    elif len(view.known(scale)) > 1:
        view.freeze_all(axes, "has scales of blocks")
        view.freeze_input(scale, "is the scale of a block")
        return [None] * len(axes)
    return axes


def _stands_for_zero(view: NodeView, data: int) -> bool:
    """Whether what was zero before, or a zeroed weight, is zero once the zero point is subtracted."""
    node = view.node
    place = _ZERO_POINT[node.op_type, data]
    zero = node.inputs[place] if view.has(place) else None
    value = node.inputs[data]
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type == "DynamicQuantizeLinear":
        return zero is producer.outputs[2]
    if producer is not None and (at := _MADE_WITH.get(producer.op_type)) is not None:
        return _same(zero, producer.inputs[at] if at < len(producer.inputs) else None)
    return _is_zero(zero)


def _is_undone(view: NodeView) -> bool:
    """Whether every reader of a quantised result subtracts the zero point that it was made with."""
    node = view.node
    at = _MADE_WITH[node.op_type]
    mine = node.inputs[at] if at < len(node.inputs) else None
    return _is_zero(mine) or _readers_subtract(node.outputs[0], mine)


def _readers_subtract(value: ir.Value, zero: ir.Value | None) -> bool:
    for node, index in value.uses():
        place = _ZERO_POINT.get((node.op_type, index))
        theirs = node.inputs[place] if place is not None and place < len(node.inputs) else None
        if place is None or not _same(zero, theirs):
            return False
    return not value.is_graph_output()


def _same(one: ir.Value | None, other: ir.Value | None) -> bool:
    if one is other or (_is_zero(one) and _is_zero(other)):
        return True
    left, right = small_constant(one), small_constant(other)
    return left is not None and right is not None and bool((left == right).all())


def _is_zero(value: ir.Value | None) -> bool:
    if value is None:
        return True
    array = small_constant(value)
    return array is not None and not array.any()


def dynamic(view: NodeView) -> Sequence[Axes]:
    """Couple DynamicQuantizeLinear: the range always holds zero, so zeros that go do not change it."""
    axes = view.known(0)
    view.freeze_all(
        (axis for axis in axes if axis is not None and not axis.vanishes),
        "scales by the largest of all positions",
    )
    # Units that nobody else reads still count for the scale, unless they are zero.
    view.lattice.summed.extend(axis.atoms for axis in axes if axis is not None)
    value, _, zero = view.node.outputs
    undone = _readers_subtract(value, zero)
    return [tuple(axis and axis.fading(undone) for axis in axes), (), ()]


def conv_integer(view: NodeView) -> Sequence[Axes]:
    """Couple ConvInteger: x, w, and zero points of x and, for each channel or all, of w."""
    _fade(view, (0, 1))
    return [products(view, 0, 1, (3,), _stands_for_zero(view, 1))]


def qlinear_conv(view: NodeView) -> Sequence[Axes]:
    """Couple QLinearConv: x, w, y each with scale and zero point, and a bias."""
    _fade(view, (0, 3))
    zero = _stands_for_zero(view, 3) and _is_undone(view)
    return [products(view, 0, 3, (4, 5, 8), zero)]


def matmul_integer(view: NodeView) -> Sequence[Axes]:
    """Couple MatMulInteger: a [..., M, K], b [K, N], with zero points."""
    return [_product(view, 0, 1, (3,), True)]


def qlinear_matmul(view: NodeView) -> Sequence[Axes]:
    """Couple QLinearMatMul: a, b, y each with scale and zero point."""
    return [_product(view, 0, 3, (4, 5), _is_undone(view))]


def _product(view: NodeView, left: int, right: int, per_column: Sequence[int], zero: bool) -> Axes:
    a, b = list(view.known(left)), list(view.known(right))
    if len(a) < 2 or len(b) != 2:
        view.freeze_all((*a, *b), "multiplies several quantised matrices at once")
        shape = view.out_shape()
        return None if shape is None else (None,) * len(shape)
    _fade(view, (left, right))
    a_zero, b_zero = _stands_for_zero(view, left), _stands_for_zero(view, right)
    weight = (right, 0) if view.is_weight(right) else None
    contract(view, a[-1] and a[-1].fading(a_zero), b[0] and b[0].fading(b_zero), weight)
    columns = b[1]
    for index in per_column:
        if view.has(index) and len(view.shape(index) or ()) == 1 and view.size(index, 0) != 1:
            columns = view.tie([columns, *view.known(index)], "has a scale that is fixed")
    for index in (left + 1, left + 2):  # a scale for each row of a is rare: it stays whole
        if right - left > 1 or index == 2:
            _freeze_rows(view, index, a[-2])
    if view.is_weight(right):
        view.made(columns)
    rows = a[:-1]
    zero = zero and b_zero
    return (*(axis and axis.fading(False) for axis in rows), columns and columns.fading(zero))


def _freeze_rows(view: NodeView, index: int, rows: Axis | None) -> None:
    if view.has(index) and len(view.shape(index) or ()) == 1 and view.size(index, 0) != 1:
        view.freeze(rows, "has a scale for each of them")
        view.freeze_input(index, "is the scale of a row")


def _fade(view: NodeView, operands: Sequence[int]) -> None:
    """Freeze what is summed over if neither factor stands for zero where it goes."""
    left, right = operands
    if _stands_for_zero(view, left) or _stands_for_zero(view, right):
        return
    axis = 1 if view.node.op_type in ("ConvInteger", "QLinearConv") else -1
    view.freeze(view.known(left)[axis], "sums over it, and what goes does not stand for zero")


QUANTIZE = OpRule(quantize, about="all axes; channels with their scales")
DEQUANTIZE = OpRule(dequantize, about="all axes; channels with their scales")
DYNAMIC = OpRule(dynamic, about="all axes that are zero where they go")
CONV_INTEGER = OpRule(conv_integer, shrink_groups, "channels in and out, as Conv")
QLINEAR_CONV = OpRule(qlinear_conv, shrink_groups, "channels in and out, as Conv")
MATMUL_INTEGER = OpRule(matmul_integer, about="columns and reduction")
QLINEAR_MATMUL = OpRule(qlinear_matmul, about="columns and reduction")
