"""Operators that pick positions of an axis, or put axes behind each other.

Concat, Split, Slice and Gather with constant indices are maps of positions: the atoms go where their
positions go. Once positions are gone, the constants that counted them are written anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.rewire import new_constant
from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.shrink import Kept, ShrinkView, shrinks
from sparsec.ir.op_rules.view import NodeView, in_range

_FOREVER = 2**31 - 1  # exporters write this or more for "to the end"


def concat(view: NodeView) -> Sequence[Axes]:
    """Couple Concat: positions behind each other on its axis, equal ones elsewhere.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("Concat", x=[1, 3], z=[1, 2], axis=1))
    3 units: x.1 y.1
    2 units: z.1 y.1
    """
    operands = [view.known(index) for index in range(len(view))]
    rank = len(operands[0])
    along = in_range(view.integer("axis", 1), rank)
    found: list[Axis | None] = []
    for place in range(rank):
        column = [axes[place] for axes in operands]
        found.append(view.tie(column) if place != along else _joined(view, column, place))
    return [tuple(found)]


def _joined(view: NodeView, column: Sequence[Axis | None], place: int) -> Axis | None:
    """Return the positions of all operands in order; fixed ones are frozen atoms."""
    sizes = [view.size(index, place) for index in range(len(column))]
    if all(axis is None for axis in column):
        return None
    if None in sizes:
        view.freeze_all(column, "puts it beside an axis of unknown size")
        return None
    labels = []
    for axis, size in zip(column, sizes, strict=True):
        if axis is None:
            axis = Axis(view.atoms.fresh(size or 0))
            view.atoms.freeze(axis.atoms, "its positions are fixed where they come from")
        labels.append(axis.atoms)
    vanishes = all(axis is None or axis.vanishes for axis in column)
    return Axis(np.concatenate(labels), vanishes)


def split(view: NodeView) -> Sequence[Axes]:
    """Couple Split: consecutive runs of positions.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("Split", x=[1, 8], axis=1, outputs=[[1, 4], [1, 4]]))
    4 units: x.1 y0.1
    4 units: x.1 y1.1
    """
    axes = view.known(0)
    along = in_range(view.integer("axis", 0), len(axes))
    axis, outs = axes[along], [view.out_shape(i) for i in range(len(view.node.outputs))]
    sizes = [shape[along] if shape else None for shape in outs]
    runs: list[Axis | None] = [None] * len(outs)
    if axis is not None:
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) == len(sizes) and sum(known) == axis.size:
            ends = np.cumsum(known)
            runs = [axis.pick(slice(e - size, e)) for e, size in zip(ends, known, strict=True)]
        else:
            view.freeze(axis, "splits it into parts of unknown size")
    return [(*axes[:along], run, *axes[along + 1 :]) for run in runs]


def shrink_split(view: ShrinkView) -> None:
    """Write the new sizes of the parts."""
    along = in_range(view.node.attributes.get_int("axis", 0) or 0, len(view.kept()))
    if not shrinks(view.kept()[along : along + 1]):
        return
    kept = [view.kept_out(index)[along] for index in range(len(view.node.outputs))]
    sizes = [int(mask.sum()) for mask in kept if mask is not None]
    view.node.attributes.pop("num_outputs", None)
    if view.lattice.opset >= 13:
        view.set_constant(1, np.array(sizes, np.int64))
    else:
        view.set_integers("split", sizes)


def slice_(view: NodeView) -> Sequence[Axes]:
    """Couple Slice with constant bounds, of any step.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("Slice", x=[1, 8], starts=[0], ends=[4], axes=[1], opset=9))
    4 units: x.1 y.1
    4 units: x.1
    """
    axes = list(view.known(0))
    cuts = bounds(view)
    if cuts is None:
        # Which axes are cut is not known either.
        view.freeze_all(axes, "cuts it at bounds that are computed at run time")
        return [(None,) * len(axes)]
    for place, cut in cuts.items():
        axis = axes[place]
        if axis is None:
            continue
        if cut is None:
            view.freeze(axis, "cuts it at bounds that are computed at run time")
            axes[place] = None
        else:
            axes[place] = axis.pick(np.arange(axis.size)[cut])
    return [tuple(axes)]


def bounds(view: NodeView) -> dict[int, slice | None] | None:
    """Return what a Slice cuts from which axis; None for a cut that is computed."""
    rank = len(view.known(0))
    if view.lattice.opset < 10:
        starts, ends = view.integers("starts") or [], view.integers("ends") or []
        listed = view.integers("axes") or list(range(len(starts)))
        cuts = zip(listed, starts, ends, strict=True)
        return {in_range(axis, rank): slice(start, end) for axis, start, end in cuts}
    arrays = [view.constant(index) for index in range(1, 5)]
    given = [view.has(index) for index in range(1, 5)]
    if given[2] and arrays[2] is None:
        return None
    count = next((int(array.size) for array in arrays if array is not None), None)
    if count is None:
        return None
    places = range(count) if arrays[2] is None else arrays[2].reshape(-1)
    found: dict[int, slice | None] = {}
    for i, place in enumerate(places):
        known = (
            arrays[0] is not None
            and arrays[1] is not None
            and (not given[3] or arrays[3] is not None)
        )
        found[in_range(int(place), rank)] = _cut(arrays, i) if known else None
    return found


def _cut(arrays: Sequence[NDArray[np.int64] | None], i: int) -> slice:
    """Return one cut as Python knows it; ONNX clamps bounds likewise."""
    start, end = (int(array.reshape(-1)[i]) for array in arrays[:2] if array is not None)
    step = 1 if arrays[3] is None else int(arrays[3].reshape(-1)[i])
    beyond = step < 0 and end < -_FOREVER  # towards the front, past position 0
    return slice(start, None if beyond else end, step)


def shrink_slice(view: ShrinkView) -> None:
    """Write new bounds; positions that no longer lie evenly are picked by a Gather instead."""
    before, after = view.kept(), view.kept_out()
    rule = NodeView(view.node, view.lattice)
    for place, cut in (bounds(rule) or {}).items():
        mask = before[place]
        if mask is None or mask.all() or cut is None:
            continue
        assert after[place] is not None
        index = picked(np.arange(len(mask))[cut], mask)
        _cut_at(view, place, index, len(before))


def picked(index: NDArray[np.int64], mask: Kept) -> NDArray[np.int64]:
    """Return where positions ``index`` lie once only those of ``mask`` are left.

    Examples
    --------
    >>> picked(np.array([0, 2, 3]), np.array([True, False, True, False])).tolist()
    [0, 1]
    """
    return (np.cumsum(mask) - 1)[index[mask[index]]]


def _cut_at(view: ShrinkView, place: int, index: NDArray[np.int64], rank: int) -> None:
    """Make the Slice cut axis ``place`` to ``index``."""
    node, graph = view.node, view.node.graph
    assert graph is not None
    rule = NodeView(node, view.lattice)
    if len(index) and (np.diff(index) == 1).all():
        start, end, step = int(index[0]), int(index[-1]) + 1, 1
    else:
        # Select first; the Slice then takes all of what is left.
        start, end, step = 0, _FOREVER, 1
        chosen = new_constant(graph, f"{node.name}.positions", index)
        gather = ir.node("Gather", [node.inputs[0], chosen], attributes={"axis": place})
        gather.outputs[0].name = f"{node.outputs[0].name}.picked.{place}"
        gather.name = f"{node.name}.pick.{place}"
        graph.insert_before(node, gather)
        node.replace_input_with(0, gather.outputs[0])
    if view.lattice.opset < 10:
        listed = rule.integers("axes") or list(range(len(rule.integers("starts") or [])))
        at = [in_range(axis, rank) for axis in listed].index(place)
        for name, bound in (("starts", start), ("ends", end)):
            values = rule.integers(name) or []
            values[at] = bound
            view.set_integers(name, values)
        return
    arrays = [view.constant(i) for i in range(1, 5)]
    size = next(array.size for array in arrays if array is not None)
    listed = list(range(size)) if arrays[2] is None else [int(a) for a in arrays[2].reshape(-1)]
    at = [in_range(axis, rank) for axis in listed].index(place)
    for number, bound in ((1, start), (2, end), (4, step)):
        array = arrays[number - 1]
        if array is not None:
            array = array.copy()
            array.reshape(-1)[at] = bound
            view.set_constant(number, array)


def gather(view: NodeView) -> Sequence[Axes]:
    """Couple Gather: constant indices pick positions; computed ones may ask for any.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("Gather", table=[9, 8], ids=[2, 5], out=[2, 5, 8]))
    8 units: table.1 y.2
    """
    axes, index = view.known(0), view.constant(1)
    inner = (None,) * len(view.known(1))
    view.freeze_input(1, "picks by what it holds")
    along = in_range(view.integer("axis", 0), len(axes))
    axis = axes[along]
    if axis is None or index is None or index.ndim != 1:
        view.freeze(axis, "picks positions of it by number")
        picked_axes: tuple[Axis | None, ...] = inner
    else:
        picked_axes = (axis.pick(index.astype(np.int64)),)
    rest = [*axes[:along], *axes[along + 1 :]]
    if view.is_weight(0) and not view.is_weight(1):
        for other in rest:
            view.made(other)  # a table of embeddings
    return [(*axes[:along], *picked_axes, *axes[along + 1 :])]


def shrink_gather(view: ShrinkView) -> None:
    """Write where the picked positions lie now."""
    along = in_range(view.node.attributes.get_int("axis", 0) or 0, len(view.kept()))
    mask, index = view.kept()[along], view.constant(1)
    if mask is None or mask.all() or index is None:
        return
    positions = index.astype(np.int64) % len(mask)
    view.set_constant(1, picked(positions, mask).astype(index.dtype))


CONCAT = OpRule(concat, about="all axes")
SPLIT = OpRule(split, shrink_split, "all axes")
SLICE = OpRule(slice_, shrink_slice, "all axes, of constant bounds and any step")
GATHER = OpRule(gather, shrink_gather, "all axes with constant indices, else the others")
