"""Operators that read a picture at places given by another operand: channels pass, places do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsec.ir.op_rules.conv import products, shrink_groups
from sparsec.ir.op_rules.factor import split
from sparsec.ir.op_rules.rule import Axes, OpRule
from sparsec.ir.op_rules.view import NodeView

_READS = "reads it at places that are computed"


def grid_sample(view: NodeView) -> Sequence[Axes]:
    """Couple GridSample: x [N, C, *spatial], grid [N, *out, rank], y [N, C, *out].

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("GridSample", x=[2, 8, 4, 4], grid=[2, 5, 5, 2]))
    2 units: x.0 grid.0 y.0
    8 units: x.1 y.1
    """
    x, grid = view.known(0), view.known(1)
    view.freeze_all((*x[2:], *grid[1:]), _READS)
    batch = view.tie([x[0], grid[0]]) if x[0] is not None or grid[0] is not None else None
    return [(batch and batch.fading(False), x[1], *(None for _ in x[2:]))]


def regions(view: NodeView) -> Sequence[Axes]:
    """Couple RoiAlign and MaxRoiPool: x [N, C, H, W], one result [C, h, w] for each region.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("RoiAlign", x=[1, 8, 4, 4], rois=[3, 4], batch_indices=[3]))
    8 units: x.1 y.1
    """
    x = view.known(0)
    view.freeze_all((x[0], *x[2:]), _READS)
    for index in range(1, len(view)):
        view.freeze_input(index, "takes one region from each of its positions")
    return [(None, x[1], None, None)]


def columns_to_image(view: NodeView) -> Sequence[Axes]:
    """Couple Col2Im: x [N, C * block, L], y [N, C, *image]; a channel is a run of one block."""
    x = view.known(0)
    view.freeze(x[2], "puts its positions into a picture")
    block, channels = view.constant(2), x[1]
    if channels is None or block is None or channels.size % int(np.prod(block)):
        view.freeze(channels, "puts its positions into blocks of a size that is computed")
        made = None
    else:
        inside = int(np.prod(block))
        made, place = split(view, channels, (channels.size // inside, inside))
        view.freeze(place, "puts its positions into blocks of a picture")
    shape = view.out_shape()
    return [(x[0], made, *((None,) * (len(shape) - 2 if shape else 2)))]


def deformable(view: NodeView) -> Sequence[Axes]:
    """Couple DeformConv: x, w, offset, b, mask: a Conv but for where it reads."""
    view.freeze_all((*view.known(2)[1:],), _READS)
    if view.has(4):
        view.freeze_all(view.known(4)[1:], _READS)
    if view.integer("offset_group", 1) > 1:
        view.freeze(view.known(0)[1], "reads its channels in groups of their own places")
    batch = [view.known(index)[0] for index in (0, 2, 4) if view.has(index)]
    first = view.tie(batch) if any(axis is not None for axis in batch) else None
    return [(first and first.fading(False), *(products(view, 0, 1, (3,)) or ())[1:])]


GRID = OpRule(grid_sample, about="batch and channels")
REGIONS = OpRule(regions, about="channels")
COL2IM = OpRule(columns_to_image, about="batch and channels")
DEFORMABLE = OpRule(deformable, shrink_groups, "channels in and out, in one group of offsets")
