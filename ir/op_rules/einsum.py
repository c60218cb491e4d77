"""Einsum: any product of tensors, written as labels of their axes."""

from __future__ import annotations

from collections.abc import Sequence

from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.view import NodeView


def einsum(view: NodeView) -> Sequence[Axes]:
    """Couple ``y = Einsum(a, b, ...; equation)``: equal labels shrink together.

    A label that the result lacks is summed over: there, what goes must be zero in one factor.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("Einsum", q=[1, 2, 5, 8], k=[1, 2, 5, 8], equation="bhid,bhjd->bhij"))
    2 units: q.1 k.1 y.1
    5 units: q.2 y.2
    8 units: q.3 k.3
    5 units: k.2 y.3
    """
    operands = [view.known(index) for index in range(len(view))]
    terms = labels(view.node.attributes.get_string("equation", "") or "")
    if terms is None or [len(term) for term in terms[:-1]] != [len(axes) for axes in operands]:
        for axes in operands:
            view.freeze_all(axes, "multiplies it by an equation that repeats or omits labels")
        shape = view.out_shape()
        return [None if shape is None else (None,) * len(shape)]
    places: dict[str, list[tuple[int, int]]] = {}
    for index, term in enumerate(terms[:-1]):
        for place, label in enumerate(term):
            places.setdefault(label, []).append((index, place))
    made = {
        label: _label(view, operands, where, label in terms[-1]) for label, where in places.items()
    }
    return [tuple(made[label] for label in terms[-1])]


def _label(
    view: NodeView,
    operands: Sequence[Sequence[Axis | None]],
    where: Sequence[tuple[int, int]],
    stays: bool,
) -> Axis | None:
    """Tie the axes of one label, and return that of the result."""
    axes = [operands[index][place] for index, place in where if view.size(index, place) != 1]
    tied = view.tie(axes, "multiplies it with an axis that is fixed")
    if tied is None:
        return None
    # A factor that lacks the label, or repeats its one position, does not matter: a product is zero
    # as soon as one factor is.
    tied = tied.vanishing(any(axis is not None and axis.vanishes for axis in axes))
    weights = [at for at in where if view.is_weight(at[0])]
    if not any(view.is_weight(index) for index in range(len(operands))):
        view.mark(tied, "head" if stays and len(where) > 1 else "head_dim")
    if not stays:
        if not tied.vanishes:
            view.freeze(tied, "sums over it, and what was removed need not be zero there")
        others = [at for at in where if not view.is_weight(at[0])]
        if len(weights) == len(others) == 1:
            view.reads(*weights[0], operands[others[0][0]][others[0][1]])
        else:
            view.lattice.summed.append(tied.atoms)
        return None
    if len(weights) == len(where):
        view.made(tied)
    return tied


def labels(equation: str) -> list[str] | None:
    """Return the labels of every operand, and last of the result; None for what is not followed.

    Examples
    --------
    >>> labels("bhid, bhjd -> bhij")
    ['bhid', 'bhjd', 'bhij']
    >>> labels("ij,jk")
    ['ij', 'jk', 'ik']
    >>> labels("...i,ij->...j") is None, labels("ii->i") is None
    (True, True)
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in equation or any(len(set(term)) < len(term) for term in (*terms, right)):
        return None
    if not arrow:
        every = "".join(terms)
        right = "".join(sorted(label for label in set(every) if every.count(label) == 1))
    return [*terms, right] if set(right) <= set(left) else None


RULE = OpRule(einsum, about="every label, summed over or not")
