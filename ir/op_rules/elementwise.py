"""Operators that work position by position: equal positions of all operands shrink together.

Operands are aligned at their last axes; an axis of size 1 is repeated, so it says nothing. Whether a
removed position is zero in the result (see :class:`~sparsec.ir.op_rules.rule.Axis`) depends on the
operator: ``relu(0)`` is, ``sigmoid(0)`` is not, a product is as soon as one factor is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.view import NodeView

_SPREAD = "spreads it over an axis that is fixed or of unknown size"


def aligned(
    view: NodeView, indices: Sequence[int]
) -> tuple[list[Axis | None], list[list[Axis | None]]]:
    """Tie the operands ``indices``, aligned at their last axes.

    Returns
    -------
    axes : list
        Of the result; vanishing where all operands do that are not repeated.
    columns : list of list
        For each axis of the result, that of each operand; None where it is repeated or absent.
    """
    operands = [list(view.known(index)) for index in indices]
    shapes = [view.shape(index) or () for index in indices]
    rank = max(map(len, operands), default=0)
    axes: list[Axis | None] = []
    columns: list[list[Axis | None]] = []
    for place in range(-rank, 0):
        column: list[Axis | None] = []
        present: list[Axis | None] = []
        for operand, shape in zip(operands, shapes, strict=True):
            axis = operand[place] if -place <= len(operand) else None
            column.append(axis)
            if -place <= len(operand) and shape[place] != 1:
                present.append(axis)
        axes.append(view.tie(present, _SPREAD))
        columns.append(column)
    return axes, columns


def _unary(vanishes: bool) -> Callable[[NodeView], Sequence[Axes]]:
    def couple(view: NodeView) -> Sequence[Axes]:
        axes = tuple(axis and axis.fading(vanishes) for axis in view.known(0))
        return view.outputs(axes)

    return couple


def _sum(view: NodeView) -> Sequence[Axes]:
    """Couple ``y = a + b + ...``: zero where every operand is, repeated ones included."""
    axes, columns = aligned(view, range(len(view)))
    whole = [axis and axis.fading(all(column)) for axis, column in zip(axes, columns, strict=True)]
    return [tuple(whole)]


def _product(view: NodeView) -> Sequence[Axes]:
    """Couple ``y = a * b``: zero where one factor is."""
    axes, columns = aligned(view, range(len(view)))
    return [tuple(_any_vanishes(axis, column) for axis, column in zip(axes, columns, strict=True))]


def _any_vanishes(axis: Axis | None, column: Sequence[Axis | None]) -> Axis | None:
    return axis and axis.vanishing(any(one is not None and one.vanishes for one in column))


def _quotient(view: NodeView) -> Sequence[Axes]:
    """Couple ``y = a / b``: zero where ``a`` is, as long as ``b`` is not zeroed with it."""
    view.never_zero(1)
    axes, columns = aligned(view, range(len(view)))
    firsts = [column[0] for column in columns]
    return [
        tuple(
            axis and axis.vanishing(first is not None and first.vanishes)
            for axis, first in zip(axes, firsts, strict=True)
        )
    ]


def _power(view: NodeView) -> Sequence[Axes]:
    """Couple ``y = a ** b``: zero where ``a`` is, if ``b`` is one positive number."""
    exponent = view.constant(1)
    positive = exponent is not None and exponent.size == 1 and bool((exponent > 0).all())
    view.never_zero(1)
    axes, _ = aligned(view, (0, 1))
    return [tuple(axis and axis.fading(positive) for axis in axes)]


def _other(view: NodeView) -> Sequence[Axes]:
    """Couple an operator that may return anything for zeros: comparisons, Where."""
    axes, _ = aligned(view, range(len(view)))
    return [tuple(axis and axis.fading(False) for axis in axes)]


def _clip(view: NodeView) -> Sequence[Axes]:
    """Couple ``y = min(max(x, low), high)``: zero stays zero if it lies between the bounds."""
    low, high = view.constant(1), view.constant(2)
    low_attr = view.node.attributes.get_float("min", None)
    high_attr = view.node.attributes.get_float("max", None)
    known = all(view.constant(i) is not None for i in (1, 2) if view.has(i))
    inside = (
        known
        and (low is None or bool((low <= 0).all()))
        and (high is None or bool((high >= 0).all()))
        and (low_attr is None or low_attr <= 0)
        and (high_attr is None or high_attr >= 0)
    )
    return [tuple(axis and axis.fading(inside) for axis in view.known(0))]


def _prelu(view: NodeView) -> Sequence[Axes]:
    """Couple ``y = PRelu(x, slope)``: the slope, where not repeated, shrinks with ``x``.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("PRelu", x=[2, 8, 5, 5], slope=[8, 1, 1]))
    2 units: x.0 y.0
    8 units: x.1 slope.0 y.1
    5 units: x.2 y.2
    5 units: x.3 y.3
    """
    axes, columns = aligned(view, (0, 1))
    firsts = [column[0] for column in columns]
    return [
        tuple(
            axis and axis.vanishing(first is not None and first.vanishes)
            for axis, first in zip(axes, firsts, strict=True)
        )
    ]


_ABOUT = "all axes; equal positions of all operands"
ZERO_KEPT = OpRule(_unary(True), about="all axes", cyclic=True)
ZERO_LOST = OpRule(_unary(False), about="all axes", cyclic=True)
SUM = OpRule(_sum, about=_ABOUT, cyclic=True)
GATED = OpRule(_sum, about="all axes; a bias with the last one", cyclic=True)  # Gelu(a + b)
PRODUCT = OpRule(_product, about=_ABOUT, cyclic=True)
QUOTIENT = OpRule(_quotient, about=_ABOUT, cyclic=True)
POWER = OpRule(_power, about=_ABOUT, cyclic=True)
OTHER = OpRule(_other, about=_ABOUT, cyclic=True)
CLIP = OpRule(_clip, about="all axes", cyclic=True)
PRELU = OpRule(_prelu, about=_ABOUT, cyclic=True)
