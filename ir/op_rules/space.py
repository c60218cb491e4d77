"""Operators that change the picture and leave the channels alone, or trade one for the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.shrink import ShrinkView, count, shrinks
from sparsec.ir.op_rules.view import NodeView, in_range


def resize(view: NodeView) -> Sequence[Axes]:
    """Couple Resize and Upsample: axes that keep their size pass, resized ones are mixed."""
    axes, before, after = view.known(0), view.shape(0), view.out_shape()
    found: list[Axis | None] = []
    scales = view.constant(1 if view.node.op_type == "Upsample" else 2)
    by_crop = (
        view.node.attributes.get_string("coordinate_transformation_mode", "")
        == "tf_crop_and_resize"
    )
    for place, axis in enumerate(axes):
        same = bool(
            before and after and isinstance(before[place], int) and before[place] == after[place]
        )
        one = scales is not None and scales.size == len(axes) and float(scales[place]) == 1.0
        sizes = not view.has(3) or view.constant(3) is not None
        if axis is not None and not ((same or one) and sizes and not by_crop):
            view.freeze(axis, "resizes it")
            axis = None
        found.append(axis)
    return [tuple(found)]


def shrink_resize(view: ShrinkView) -> None:
    """Write the new sizes, where sizes are stated rather than scales."""
    kept = view.kept()
    sizes = view.constant(3)
    if sizes is None or not shrinks(kept):
        return
    axes = view.node.attributes.get_ints("axes", None) or range(len(kept))
    new = sizes.copy()
    for at, axis in enumerate(axes):
        size = count(kept[in_range(int(axis), len(kept))])
        new[at] = sizes[at] if size is None else size
    view.set_constant(3, new)


def pad(view: NodeView) -> Sequence[Axes]:
    """Couple Pad: positions that are added stand for nothing else, so they may go, too.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("Pad", x=[1, 4], pads=[0, 2, 0, 2], opset=10))
    4 units: x.1 y.1
    4 units: y.1
    """
    axes = list(view.known(0))
    pads = _pads(view)
    if pads is None:
        view.freeze_all(axes, "pads it by an amount that is computed at run time")
        return [(None,) * len(axes)]
    constant = (view.node.attributes.get_string("mode", "constant") or "constant") == "constant"
    zero = constant and _fill(view) == 0
    for place, (before, after) in enumerate(pads):
        axis = axes[place]
        if axis is None:
            continue
        if not (before or after):
            axes[place] = axis.fading(zero or not any(map(any, pads)) or not constant)
        elif not constant or min(before, after) < 0:
            view.freeze(axis, "pads it")
            axes[place] = None
        else:
            new = view.atoms.fresh(before + after)
            labels = np.concatenate([new[:before], axis.atoms, new[before:]])
            axes[place] = Axis(labels, axis.vanishes and zero)
    return [tuple(axes)]


def _fill(view: NodeView) -> float | None:
    """Return what is padded with; None if it is computed."""
    if view.lattice.opset < 11:
        return view.node.attributes.get_float("value", 0.0)
    if not view.has(2):
        return 0.0
    value = view.constant(2)
    return None if value is None else float(value.reshape(-1)[0])


def _pads(view: NodeView) -> list[tuple[int, int]] | None:
    """Return what is added before and behind each axis; None if it is computed."""
    rank = len(view.known(0))
    listed = view.integers("pads")
    axes: Sequence[int] = range(rank)
    if listed is None:
        amounts, chosen = view.constant(1), view.constant(3)
        if amounts is None or (view.has(3) and chosen is None):
            return None
        listed = [int(amount) for amount in amounts]
        if chosen is not None:
            axes = [in_range(int(axis), rank) for axis in chosen]
    found = [(0, 0)] * rank
    for at, axis in enumerate(axes):
        found[axis] = (listed[at], listed[at + len(axes)])
    return found


def shrink_pad(view: ShrinkView) -> None:
    """Write how much is left of what is added."""
    rule = NodeView(view.node, view.lattice)
    pads = _pads(rule) or []
    new = list(pads)
    for place, (before, after) in enumerate(pads):
        mask = view.kept_out()[place]
        if mask is not None and (before or after) and not mask.all():
            behind = mask[len(mask) - after :] if after else mask[:0]
            new[place] = (int(mask[:before].sum()), int(behind.sum()))
    if new == pads:
        return
    flat = [start for start, _ in new] + [end for _, end in new]
    if rule.integers("pads") is not None:
        view.set_integers("pads", flat)
        return
    chosen = view.constant(3)
    if chosen is not None:
        axes = [in_range(int(axis), len(new)) for axis in chosen]
        flat = [new[axis][0] for axis in axes] + [new[axis][1] for axis in axes]
    view.set_constant(1, np.array(flat, np.int64))


def depth_to_space(view: NodeView) -> Sequence[Axes]:
    """Couple DepthToSpace: the channels that make up one block of pixels go together.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("DepthToSpace", x=[1, 12, 5, 5], blocksize=2))
    3 units: x.1/4 y.1
    """
    axes = list(view.known(0))
    block = view.integer("blocksize", 1) ** 2
    view.freeze_all(axes[2:], "makes pixels of channels")
    channels = axes[1]
    if channels is None:
        return [(axes[0], None, None, None)]
    outer_first = (view.node.attributes.get_string("mode", "DCR") or "DCR") == "DCR"
    grid = channels.atoms.reshape((block, -1) if outer_first else (-1, block))
    grid = grid if outer_first else grid.T
    for row in grid[1:]:
        view.atoms.tie(grid[0], row)
    return [(axes[0], Axis(grid[0], channels.vanishes), None, None)]


def space_to_depth(view: NodeView) -> Sequence[Axes]:
    """Couple SpaceToDepth: a channel becomes one for each pixel of a block."""
    axes = list(view.known(0))
    block = view.integer("blocksize", 1) ** 2
    view.freeze_all(axes[2:], "makes channels of pixels")
    channels = axes[1]
    made = channels and Axis(np.tile(channels.atoms, block), channels.vanishes)
    return [(axes[0], made, None, None)]


RESIZE = OpRule(resize, shrink_resize, "axes that keep their size")
PAD = OpRule(pad, shrink_pad, "all axes, padded ones too")
DEPTH_TO_SPACE = OpRule(depth_to_space, about="batch and channels")
SPACE_TO_DEPTH = OpRule(space_to_depth, about="batch and channels")
