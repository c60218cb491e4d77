"""Operators that rearrange axes without touching values: Reshape, Transpose and their kin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsec.ir.op_rules.factor import reshaped
from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.shrink import ShrinkView, shrinks
from sparsec.ir.op_rules.target_shape import (
    SizeOf,
    Stated,
    escaping_sizes,
    origin,
    rewrite_target,
)
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
    if view.node.op_type == "Reshape":
        return [check_target(view, axes)]
    return [axes]


def check_target(view: NodeView, axes: Axes) -> Axes:
    """See that the shape which a Reshape or Expand reads can follow its axes; freeze those it cannot.

    A size that is a constant is rewritten. One that is read off another value shrinks with that
    value's axis, so the two are tied.
    """
    for place, axis in enumerate(axes or ()):
        source = origin(view.lattice, view.node.inputs[1], place)
        measured_axis = None
        if isinstance(source, SizeOf):
            measured_axis = (view.lattice.axes_of(source.value) or ())[source.axis]
        if measured_axis is not None:
            view.tie([axis, measured_axis], "makes an axis of that size that is fixed")
        elif axis is None:
            continue
        elif axis.cyclic:
            if not (isinstance(source, Stated) and source.size == -1):
                view.freeze(axis, "states the size of heads merged with the batch")
        elif not isinstance(source, Stated):
            view.freeze(axis, "makes an axis of a size that is computed at run time")
    return axes


def shrink_reshape(view: ShrinkView) -> None:
    """Write the new sizes into the shape that a Reshape reads."""
    if view.node.op_type == "Reshape" and (shrinks(view.kept()) or shrinks(view.kept_out())):
        rewrite_target(view, 1, view.sizes_out())


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
    view.freeze_all((axes[place] for place in gone), "relies on its having one position")
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
    filled = view.constant(0)
    zero = filled is not None and not filled.any()
    found: list[Axis | None] = []
    for place in range(-len(after), 0):
        axis = axes[place] if -place <= len(axes) else None
        size, old = after[place], before[place] if -place <= len(before) else 1
        if axis is None and old == 1 and isinstance(size, int) and size > 1:
            axis = Axis(view.atoms.fresh(size), vanishes=zero)
        found.append(axis)
    return [check_target(view, tuple(found))]


def shrink_expand(view: ShrinkView) -> None:
    """Write the new sizes into the shape that an Expand reads."""
    if shrinks(view.kept_out()):
        rewrite_target(view, 1, view.sizes_out(), ones_stay=True)


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
    listed = list(range(len(axes)))[start : view.integer("end", len(axes))]
    escaping = set(listed)
    if view.node.op_type == "Shape":
        escaping = escaping_sizes(view.lattice, view.node.outputs[0], listed)
    view.freeze_all((axes[place] for place in sorted(escaping)), "computes with its size")
    return [(None,) * (1 if view.node.op_type == "Shape" else 0)]


RESHAPE = OpRule(reshape, shrink_reshape, "all axes, by common factors", cyclic=True)
TRANSPOSE = OpRule(transpose, about="all axes", cyclic=True)
SQUEEZE = OpRule(squeeze, about="all axes", cyclic=True)
UNSQUEEZE = OpRule(unsqueeze, about="all axes", cyclic=True)
EXPAND = OpRule(expand, shrink_expand, "all axes, the repeated ones too")
TILE = OpRule(tile, about="all axes")
MEASURED = OpRule(measured, about="the axes whose size nobody reads", cyclic=True)
