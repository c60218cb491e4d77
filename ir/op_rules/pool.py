"""Pooling and reductions."""

from __future__ import annotations

from collections.abc import Sequence

from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.view import NodeView, in_range

_ZERO_IS_NEUTRAL = {"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"}


def pool(view: NodeView) -> Sequence[Axes]:
    """Couple pools: x [N, C, *spatial]; channels pass, windows mix the rest.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("MaxPool", x=[1, 8, 4, 4], kernel_shape=[2, 2]))
    8 units: x.1 y.1
    """
    axes = view.known(0)
    view.freeze_all(axes[2:], "pools over it")
    passing = axes[:2]
    if len(view.node.outputs) > 1:
        _numbered(view, passing)
    out = (*passing, *(None for _ in axes[2:]))
    numbers = tuple(axis and axis.fading(False) for axis in out)
    return [out, *(numbers for _ in view.node.outputs[1:])]


def _numbered(view: NodeView, axes: Sequence[Axis | None]) -> None:
    """Freeze axes if MaxPool's second output, which counts across them, reaches a stranger."""
    numbers = view.node.outputs[1]
    uses = [(node.op_type, index) for node, index in numbers.uses()]
    if numbers.is_graph_output() or any(use != ("MaxUnpool", 1) for use in uses):
        view.freeze_all(axes, "numbers the elements of the whole value")


def unpool(view: NodeView) -> Sequence[Axes]:
    """Couple MaxUnpool: x and the numbers that a MaxPool made of x's shape before it was pooled."""
    axes, numbers = view.known(0), view.known(1)
    value = view.node.inputs[1]
    producer = value.producer() if value is not None else None
    followed = producer is not None and producer.op_type == "MaxPool" and not view.has(2)
    if not followed:
        view.freeze_all((*axes, *numbers), "is told positions by number")
        return [(None,) * len(axes)]
    view.freeze_all((*axes[2:], *numbers[2:]), "pools over it")
    tied = [view.tie([axis, number]) for axis, number in zip(axes[:2], numbers[:2], strict=True)]
    out = [
        axis and axis.vanishing(x.vanishes if x else False)
        for axis, x in zip(tied, axes, strict=False)
    ]
    return [(*out, *(None for _ in axes[2:]))]


def reduce(view: NodeView) -> Sequence[Axes]:
    """Couple Reduce*, ArgMax and ArgMin: the other axes pass.

    A sum over an axis does not miss positions that are zero in the dense graph; a mean does, for it
    divides by their number, and a maximum might.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("ReduceMean", x=[1, 8, 4, 4], axes=[2, 3], opset=13))
    8 units: x.1 y.1
    """
    axes = view.known(0)
    over = reduced_axes(view, len(axes))
    if over is None:
        view.freeze_all(axes, "reduces over axes that are not constant")
        shape = view.out_shape()
        return [None if shape is None else (None,) * len(shape)]
    keep = view.integer("keepdims", 1)
    found: list[Axis | None] = []
    neutral = view.node.op_type in _ZERO_IS_NEUTRAL
    spreads = neutral or view.node.op_type in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
    for place, axis in enumerate(axes):
        if place not in over:
            found.append(axis and axis.fading(spreads))
            continue
        if not (neutral and axis is not None and axis.vanishes):
            view.freeze(axis, "reduces over it, and every position counts")
        elif axis is not None:
            view.lattice.summed.append(axis.atoms)
        if keep:
            found.append(None)
    return [tuple(found)]


def reduced_axes(view: NodeView, rank: int) -> set[int] | None:
    """Return the axes that a reduction works on; None if they are computed."""
    if view.node.op_type in ("ArgMax", "ArgMin"):
        return {in_range(view.integer("axis", 0), rank)}
    listed: Sequence[int] | None = view.integers("axes")
    if listed is None and view.has(1):
        constant = view.constant(1)
        if constant is None:
            return None
        listed = [int(axis) for axis in constant.reshape(-1)]
    if not listed:
        return set() if view.integer("noop_with_empty_axes", 0) else set(range(rank))
    return {in_range(axis, rank) for axis in listed}


POOL = OpRule(pool, about="batch and channels")
UNPOOL = OpRule(unpool, about="batch and channels, if a MaxPool numbered the positions")
REDUCE = OpRule(reduce, about="axes not reduced over; of sums, those too", cyclic=True)
