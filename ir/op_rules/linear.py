"""Products of matrices: Gemm, and MatMul with a weight or an activation on either side."""

from __future__ import annotations

from collections.abc import Sequence

from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.view import NodeView

_SUM = "sums over it, and what was removed need not be zero there"


def contract(
    view: NodeView, left: Axis | None, right: Axis | None, weight: tuple[int, int] | None = None
) -> None:
    """Tie the axis that a product sums over; ``weight`` is the operand that is one, and its axis.

    What goes must be zero on one side in the dense graph: a weight is, once zeroed; an activation
    may not be, behind a sigmoid.
    """
    summed = view.tie([left, right], "sums over it together with an axis that is fixed")
    if summed is not None:
        assert left is not None
        assert right is not None
        if not (left.vanishes or right.vanishes):
            view.freeze(summed, _SUM)
        if weight is not None:
            view.reads(*weight, left if weight[0] == 1 else right)
        else:
            view.lattice.summed.append(summed.atoms)


def matmul(view: NodeView) -> Sequence[Axes]:
    """Couple ``y = a @ b``: a [*batch, M, K], b [*batch, K, N], y [*batch, M, N].

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("MatMul", x=[2, 5, 8], w=[8, 6]))
    2 units: x.0 y.0
    5 units: x.1 y.1
    8 units: x.2 w.0
    6 units: w.1 y.2
    >>> print(couplings("MatMul", q=[1, 4, 5, 8], k=[1, 4, 8, 5]))
    4 units: q.1 k.1 y.1
    5 units: q.2 y.2
    8 units: q.3 k.2
    5 units: k.3 y.3
    """
    a, b = list(view.known(0)), list(view.known(1))
    if min(len(a), len(b)) < 2:
        view.freeze_all((*a, *b), "multiplies by a vector")
        rank = max(len(a), len(b)) - 1
        return [(None,) * rank]
    contract(view, a[-1], b[-2], _weight(view, len(a) - 1, len(b) - 2))
    batch = _batch(view, a[:-2], b[:-2])
    if view.is_weight(1):
        view.made(b[-1])
    elif view.is_weight(0):
        view.made(a[-2])
    else:
        for axis in (a[-2], b[-2], b[-1]):
            view.mark(axis, "head_dim")
        for axis in batch:
            view.mark(axis, "head")
    return [(*batch, a[-2], b[-1])]


def _weight(view: NodeView, of_left: int, of_right: int) -> tuple[int, int] | None:
    """Return which operand is a weight of the graph, and the axis of it that is summed over."""
    if view.is_weight(1):
        return 1, of_right
    return (0, of_left) if view.is_weight(0) else None


def _batch(
    view: NodeView, a: Sequence[Axis | None], b: Sequence[Axis | None]
) -> tuple[Axis | None, ...]:
    """Tie the axes of the products that are made side by side: zero where one operand is."""
    shapes = [(view.shape(i) or ())[:-2] for i in (0, 1)]
    rank = max(len(a), len(b))
    found: list[Axis | None] = []
    for place in range(-rank, 0):
        column = [side[place] if -place <= len(side) else None for side in (a, b)]
        present = [
            axis
            for axis, shape in zip(column, shapes, strict=True)
            if -place <= len(shape) and shape[place] != 1
        ]
        axis = view.tie(present, "multiplies it with an axis that is fixed")
        vanishes = any(one is not None and one.vanishes for one in column)
        found.append(axis and axis.vanishing(vanishes))
    return tuple(found)


def gemm(view: NodeView) -> Sequence[Axes]:
    """Couple ``y = alpha a' b' + beta c``: a [M, K] or its transpose, b [K, N], c spread over [M, N].

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("Gemm", x=[2, 8], w=[6, 8], c=[6], transB=1))
    2 units: x.0 y.0
    8 units: x.1 w.1
    6 units: w.0 c.0 y.1
    """
    m, k = view.known(0)[:: -1 if view.integer("transA", 0) else 1]
    k_other, n = view.known(1)[:: -1 if view.integer("transB", 0) else 1]
    axes_of_k = (0 if view.integer("transA", 0) else 1, 1 if view.integer("transB", 0) else 0)
    contract(view, k, k_other, _weight(view, *axes_of_k))
    axes = [m, n]
    if view.has(2):
        added = [None, None, *view.known(2)][-2:]
        sizes = [1, 1, *(view.shape(2) or ())][-2:]
        for place, size in enumerate(sizes):
            axis = axes[place]
            repeated = size == 1  # what was removed is not zero: the bias is still added there
            axes[place] = (
                axis and axis.fading(False) if repeated else view.tie([axis, added[place]])
            )
    if view.is_weight(1):
        view.made(axes[1])
    elif view.is_weight(0):
        view.made(axes[0])
    return [tuple(axes)]


MATMUL = OpRule(
    matmul, about="rows, columns, reduction and batch axes, weights or activations", cyclic=True
)
GEMM = OpRule(gemm, about="rows, columns and reduction")
