"""Operators that read or write single elements by number: the numbered axes are fixed, others pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.select import picked
from sparsec.ir.op_rules.shrink import ShrinkView
from sparsec.ir.op_rules.view import NodeView, in_range

_NUMBERED = "picks positions of it by number"


def gather_elements(view: NodeView) -> Sequence[Axes]:
    """Couple GatherElements: x and indices of equal rank, y of the shape of the indices.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("GatherElements", x=[5, 8], indices=[3, 8], axis=0))
    8 units: x.1 indices.1 y.1
    3 units: indices.0 y.0
    """
    x, indices = view.known(0), view.known(1)
    along = in_range(view.integer("axis", 0), len(x))
    found: list[Axis | None] = []
    for place, pair in enumerate(zip(x, indices, strict=True)):
        if place == along:
            view.freeze(pair[0], _NUMBERED)
            found.append(pair[1] and pair[1].fading(False))
        else:
            tied = _equal(view, pair, (0, 1), place)
            found.append(tied and tied.vanishing(pair[0] is not None and pair[0].vanishes))
    return [tuple(found)]


def scatter_elements(view: NodeView) -> Sequence[Axes]:
    """Couple ScatterElements: x, indices and updates of equal rank, y of the shape of x."""
    x, indices, updates = (view.known(index) for index in range(3))
    along = in_range(view.integer("axis", 0), len(x))
    found: list[Axis | None] = []
    for place, column in enumerate(zip(x, indices, updates, strict=True)):
        if place == along:
            view.freeze_all(column, _NUMBERED)
            found.append(None)
        else:
            tied = _equal(view, column, (0, 1, 2), place)
            zero = all(axis is not None and axis.vanishes for axis in (column[0], column[2]))
            found.append(tied and tied.vanishing(zero))
    return [tuple(found)]


def _equal(
    view: NodeView, column: Sequence[Axis | None], operands: Sequence[int], place: int
) -> Axis | None:
    """Tie axes that are as long as each other; freeze them where one may be shorter."""
    if all(axis is None for axis in column):
        return None
    if len({view.size(index, place) for index in operands}) > 1:
        view.freeze_all(column, "works on a part of it")
        return None
    return view.tie(column)


def gather_nd(view: NodeView) -> Sequence[Axes]:
    """Couple GatherND: x [..., *tail], indices [..., k], y [..., *tail]: the tail passes.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("GatherND", x=[5, 8], indices=[3, 1], out=[3, 8]))
    8 units: x.1 y.1
    """
    x, deep = view.known(0), _depth(view)
    view.freeze_input(1, "picks by what it holds")
    if deep is None:
        view.freeze_all(x, _NUMBERED)
        shape = view.out_shape()
        return [None if shape is None else (None,) * len(shape)]
    first = view.integer("batch_dims", 0) + deep
    view.freeze_all(x[:first], _NUMBERED)
    front = len(view.known(1)) - 1
    return [(*((None,) * front), *x[first:])]


def scatter_nd(view: NodeView) -> Sequence[Axes]:
    """Couple ScatterND: x [..., *tail], indices [*n, k], updates [*n, *tail]: the tail passes.

    With constant indices of the first axis, its positions pass as well, each with what is written
    there.
    """
    x, updates, deep = view.known(0), view.known(2), _depth(view)
    index = _rows(view)
    if index is not None:
        return [(_written(view, index, x[0], updates[0]), *_tail(view, x[1:], updates[1:]))]
    view.freeze_input(1, "picks by what it holds")
    if deep is None:
        view.freeze_all((*x, *updates), _NUMBERED)
        return [(None,) * len(x)]
    front = len(view.known(1)) - 1
    view.freeze_all((*x[:deep], *updates[:front]), _NUMBERED)
    return [(*((None,) * deep), *_tail(view, x[deep:], updates[front:]))]


def _tail(
    view: NodeView, x: Sequence[Axis | None], updates: Sequence[Axis | None]
) -> list[Axis | None]:
    """Tie the axes that are written whole."""
    pairs = zip(x, updates, strict=True)
    return [view.tie(pair) if any(axis is not None for axis in pair) else None for pair in pairs]


def _rows(view: NodeView | ShrinkView) -> NDArray[np.int64] | None:
    """Return which positions of the first axis are written, if that is constant and each is once."""
    index = view.constant(1)
    if index is None or index.ndim != 2 or index.shape[1] != 1 or (index < 0).any():
        return None
    added = view.node.attributes.get_string("reduction", "none") != "none"
    flat = index.reshape(-1).astype(np.int64)
    return None if added or len(np.unique(flat)) < flat.size else flat


def _written(
    view: NodeView, index: NDArray[np.int64], x: Axis | None, updates: Axis | None
) -> Axis | None:
    """Tie the positions that are written to what is written there."""
    if x is None or updates is None:
        view.freeze_all((x, updates), "writes positions of it that are fixed")
        return None
    view.atoms.tie(x.atoms[index], updates.atoms)
    return x.fading(updates.vanishes)


def shrink_scatter_nd(view: ShrinkView) -> None:
    """Write where the written positions lie now."""
    index, mask = _rows(view), view.kept(0)[0]
    if index is not None and mask is not None and not mask.all():
        view.set_constant(1, picked(index, mask)[:, None])


def _depth(view: NodeView) -> int | None:
    """Return how many axes one index counts along."""
    return view.size(1, -1)


def write_cache(view: NodeView) -> Sequence[Axes]:
    """Couple TensorScatter: a cache and what is written into it, equal but along ``axis``."""
    cache, update = view.known(0), view.known(1)
    along = in_range(view.integer("axis", -2), len(cache))
    found: list[Axis | None] = []
    for place, column in enumerate(zip(cache, update, strict=True)):
        if place == along:
            view.freeze_all(column, _NUMBERED)
            found.append(None)
        else:
            found.append(_equal(view, column, (0, 1), place))
    if view.has(2):
        view.freeze_input(2, "is where each sequence is written")
    return [tuple(found)]


GATHER_ELEMENTS = OpRule(gather_elements, about="axes not picked from; with the indices")
SCATTER_ELEMENTS = OpRule(scatter_elements, about="axes not written along; with the indices")
GATHER_ND = OpRule(gather_nd, about="axes behind the numbered ones")
SCATTER_ND = OpRule(
    scatter_nd, shrink_scatter_nd, "axes behind the numbered ones; with constant rows, all"
)
WRITE_CACHE = OpRule(write_cache, about="all but the axis that is written along")
