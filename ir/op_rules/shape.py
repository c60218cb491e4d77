"""Operators that rearrange axes without touching values: Reshape, Transpose and their kin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsec.ir.cleanup.operators import small_constant
from sparsec.ir.op_rules.factor import reshaped
from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.shrink import ShrinkView, count, shrinks
from sparsec.ir.op_rules.target_shape import rewritable, rewrite_target
from sparsec.ir.op_rules.view import NodeView, in_range


def reshape(view: NodeView) -> Sequence[Axes]:
    """Couple Reshape and Flatten by the factors that both shapes share.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("Flatten", x=[1, 8, 2, 2], axis=1, out=[1, 32]))
    8 units: x.1 y.1/4
    2 units: x.2 y.1/16
    2 units: x.3 y.1/16
    >>> print(couplings("Reshape", x=[1, 6, 4], shape=[1, 2, 3, 4], out=[1, 2, 3, 4]))
    2 units: x.1/3 y.1
    3 units: x.1/2 y.2
    4 units: x.2 y.3
    """
    before, after = view.shape(0), view.out_shape()
    if before is None or after is None:
        view.freeze_input(0, "reshapes it to a shape that is not known")
        return [None]
    axes = reshaped(view, view.known(0), before, after)
    if view.node.op_type == "Reshape" and not view.is_weight(0):
        for place, axis in enumerate(axes or ()):
            if axis is not None and not rewritable(view.lattice, view.node.inputs[1], place):
                view.freeze(axis, "reshapes it to a shape that is computed at run time")
    return [axes]


def shrink_reshape(view: ShrinkView) -> None:
    """Write the new sizes into the shape that a Reshape reads."""
    if view.node.op_type == "Reshape" and (shrinks(view.kept()) or shrinks(view.kept_out())):
        rewrite_target(view, 1, [count(kept) for kept in view.kept_out()])


def transpose(view: NodeView) -> Sequence[Axes]:
    """Couple Transpose: axes are renamed."""
    axes = view.known(0)
    perm = view.integers("perm") or list(range(len(axes)))[::-1]
    return [tuple(axes[place] for place in perm)]


def squeeze(view: NodeView) -> Sequence[Axes]:
    """Couple Squeeze: axes of size 1 go, and only constant ones are followed."""
    axes = view.known(0)
    listed = _listed(view)
    if listed is None:
        view.freeze_all(axes, "squeezes whatever axes are of size 1")
        shape = view.out_shape()
        return [None if shape is None else (None,) * len(shape)]
    gone = {in_range(axis, len(axes)) for axis in listed}
    return [tuple(axis for place, axis in enumerate(axes) if place not in gone)]


def unsqueeze(view: NodeView) -> Sequence[Axes]:
    """Couple Unsqueeze: axes of size 1 come in."""
    axes = view.known(0)
    listed = _listed(view)
    if listed is None:
        view.freeze_all(axes, "inserts axes that are computed at run time")
        shape = view.out_shape()
        return [None if shape is None else (None,) * len(shape)]
    rank = len(axes) + len(listed)
    new = {in_range(axis, rank) for axis in listed}
    old = iter(axes)
    return [tuple(None if place in new else next(old) for place in range(rank))]


def _listed(view: NodeView) -> list[int] | None:
    """Return the axes that a node names, as an attribute or a constant; None if it names none."""
    listed = view.integers("axes")
    if listed is not None or not view.has(1):
        return listed
    constant = view.constant(1)
    return None if constant is None else [int(axis) for axis in constant.reshape(-1)]


def expand(view: NodeView) -> Sequence[Axes]:
    """Couple Expand: axes of size 1 are repeated, and the copies may go again.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("Expand", x=[2, 1, 8], shape=[2, 3, 8], out=[2, 3, 8]))
    2 units: x.0 y.0
    8 units: x.2 y.2
    3 units: y.1
    """
    axes, before, after = view.known(0), view.shape(0), view.out_shape()
    if before is None or after is None:
        view.freeze_all(axes, "expands it to a shape that is not known")
        return [None]
    found: list[Axis | None] = []
    for place in range(-len(after), 0):
        axis = axes[place] if -place <= len(axes) else None
        size, old = after[place], before[place] if -place <= len(before) else 1
        index = place + len(after)
        if axis is None and old == 1 and isinstance(size, int) and size > 1:
            axis = Axis(view.atoms.fresh(size), vanishes=False)
        if axis is not None and not rewritable(view.lattice, view.node.inputs[1], index):
            view.freeze(axis, "expands it to a shape that is computed at run time")
        found.append(axis)
    return [tuple(found)]


def shrink_expand(view: ShrinkView) -> None:
    """Write the new sizes into the shape that an Expand reads."""
    if shrinks(view.kept_out()):
        rewrite_target(view, 1, [count(kept) for kept in view.kept_out()], ones_stay=True)


def tile(view: NodeView) -> Sequence[Axes]:
    """Couple Tile: every copy of a position goes with it."""
    axes = view.known(0)
    repeats = view.constant(1)
    if repeats is None or repeats.size != len(axes):
        view.freeze_all(axes, "repeats it a number of times that is computed at run time")
        return [(None,) * len(axes)]
    return [
        tuple(
            axis and axis.pick(np.tile(np.arange(axis.size), int(times)))
            for axis, times in zip(axes, repeats, strict=True)
        )
    ]


def measured(view: NodeView) -> Sequence[Axes]:
    """Couple Shape and Size: whoever learns the size of an axis may compute with it."""
    axes = view.known(0)
    start = view.integer("start", 0)
    end = view.integer("end", len(axes))
    seen = set(range(len(axes))[start:end])
    if view.node.op_type == "Shape":
        picked = picked_elements(view)
        if picked is not None:
            seen = {place for place in seen if place - start in picked}
    view.freeze_all((axes[place] for place in seen), "computes with its size")
    return [(None,) * (1 if view.node.op_type == "Shape" else 0)]


def picked_elements(view: NodeView) -> set[int] | None:
    """Return the elements of a shape that anybody reads; None if that is not known."""
    shape, out = view.shape(0), view.node.outputs[0]
    if shape is None or out.is_graph_output():
        return None
    picked: set[int] = set()
    for node, index in out.uses():
        chosen = None
        if node.op_type == "Gather" and index == 0:
            chosen = small_constant(node.inputs[1])
        elif node.op_type == "Slice" and index == 0 and 3 <= len(node.inputs) <= 4:
            start, end = (small_constant(value) for value in node.inputs[1:3])
            if start is not None and end is not None:
                chosen = np.arange(len(shape))[int(start.item()) : int(end.item())]
        if chosen is None:
            return None
        picked.update(in_range(int(place), len(shape)) for place in np.reshape(chosen, -1))
    return picked


RESHAPE = OpRule(reshape, shrink_reshape, "all axes, by common factors")
TRANSPOSE = OpRule(transpose, about="all axes")
SQUEEZE = OpRule(squeeze, about="all axes")
UNSQUEEZE = OpRule(unsqueeze, about="all axes")
EXPAND = OpRule(expand, shrink_expand, "all axes, the repeated ones too")
TILE = OpRule(tile, about="all axes")
MEASURED = OpRule(measured, about="the axes whose size nobody reads")
