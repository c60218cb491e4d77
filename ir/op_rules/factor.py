"""Taking axes apart and putting them together, as Reshape does."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsec.ir.op_rules.rule import Axes, Axis, merge

if TYPE_CHECKING:
    from sparsec.ir.op_rules.view import Dim, NodeView

_INEXACT = "reshapes it in a way that takes no axis apart exactly"


def split(view: NodeView, axis: Axis, sizes: Sequence[int]) -> list[Axis | None]:
    """Return the axes that ``axis`` is made of, outer first.

    What is constant along a factor (pixels of a channel, flattened) leaves that factor fixed; else
    each position becomes the product of one position of every factor.
    """
    if len(sizes) == 1:
        return [axis]
    first, rest = sizes[0], int(np.prod(sizes[1:]))
    if first == 1:
        return [None, *split(view, axis, sizes[1:])]
    grid = axis.atoms.reshape(first, rest)
    if rest == 1:
        return [axis, *(None for _ in sizes[1:])]
    roots = view.atoms.find(grid)
    if (roots == roots[:, :1]).all():
        return [Axis(grid[:, 0], axis.vanishes), *(None for _ in sizes[1:])]
    if (roots == roots[:1]).all():
        return [None, *split(view, Axis(grid[0], axis.vanishes), sizes[1:])]
    outer, inner = view.atoms.fresh(first), view.atoms.fresh(rest)
    product = view.atoms.product(np.repeat(outer, rest), np.tile(inner, first))
    view.atoms.tie(axis.atoms, product)
    return [Axis(outer, axis.vanishes), *split(view, Axis(inner, axis.vanishes), sizes[1:])]


def reshaped(
    view: NodeView,
    axes: Sequence[Axis | None],
    before: Sequence[Dim],
    after: Sequence[Dim],
) -> Axes:
    """Return the axes of a value of shape ``before`` once it is read as ``after``.

    Both shapes list the same elements in the same order. Trailing and leading sizes that agree are
    matched first; what is left is taken apart to common factors. Where that is not exact, or a size
    is unknown, the axes concerned are frozen.
    """
    found: list[Axis | None] = [None] * len(after)
    front, back = _matched(before, after)
    ins: list[int] = list(range(front, len(before)))
    outs: list[int] = list(range(front, len(after)))
    for i in range(front):
        found[i] = axes[i]
    for in_block, out_block in back:
        ins = [i for i in ins if i not in in_block]
        outs = [i for i in outs if i not in out_block]
        made = _block(
            view,
            [axes[i] for i in in_block],
            [_int(before[i]) for i in in_block],
            [_int(after[i]) for i in out_block],
        )
        for i, axis in zip(out_block, made, strict=True):
            found[i] = axis
    sizes_in = [before[i] for i in ins]
    sizes_out = [after[i] for i in outs]
    if all(isinstance(size, int) for size in (*sizes_in, *sizes_out)):
        made = _block(
            view, [axes[i] for i in ins], [_int(s) for s in sizes_in], [_int(s) for s in sizes_out]
        )
        for i, axis in zip(outs, made, strict=True):
            found[i] = axis
    else:
        view.freeze_all(
            (axes[i] for i in ins), "reshapes it together with a size that is not known"
        )
    return tuple(found)


def _int(size: Dim) -> int:
    assert isinstance(size, int)
    return size


def _matched(
    before: Sequence[Dim], after: Sequence[Dim]
) -> tuple[int, list[tuple[list[int], list[int]]]]:
    """Return how many leading sizes agree, and blocks of trailing ones of equal product.

    Examples
    --------
    >>> _matched(["n", "length", 384], [None, None, 12, 32])
    (0, [([2], [2, 3])])
    >>> _matched(["n", 8, "h", "w"], ["n", 8, None])
    (2, [])
    """
    blocks: list[tuple[list[int], list[int]]] = []
    i, j = len(before), len(after)
    while i > 0 and j > 0:
        ins, outs = [i - 1], [j - 1]
        left, right = before[i - 1], after[j - 1]
        if not isinstance(left, int) or not isinstance(right, int):
            break
        while left != right:
            grow_left = left < right
            place = (ins[0] if grow_left else outs[0]) - 1
            size = (before if grow_left else after)[place] if place >= 0 else None
            if not isinstance(size, int):
                break
            if grow_left:
                ins.insert(0, place)
                left *= size
            else:
                outs.insert(0, place)
                right *= size
        if left != right or not left:
            break
        blocks.append((ins, outs))
        i, j = ins[0], outs[0]
    front = 0
    while front < min(i, j) and before[front] == after[front] and before[front] is not None:
        front += 1
    return front, blocks


def _block(
    view: NodeView, axes: Sequence[Axis | None], before: Sequence[int], after: Sequence[int]
) -> list[Axis | None]:
    """Return the axes of sizes ``after`` that axes of sizes ``before`` make, of equal product."""
    if not any(axis is not None for axis in axes):
        return [None] * len(after)
    factors = common_factors(before, after)
    if factors is None:
        view.freeze_all(axes, _INEXACT)
        return [None] * len(after)
    parts: list[Axis | None] = []
    sizes: list[int] = []
    for axis, inside in zip(axes, factors[0], strict=True):
        if axis is not None and inside:
            parts += split(view, axis, inside)
        else:
            view.freeze(axis, "reshapes an axis of one position away")
            parts += [None] * len(inside)
        sizes += inside
    made: list[Axis | None] = []
    for inside in factors[1]:
        take, parts = parts[: len(inside)], parts[len(inside) :]
        made.append(merge(view.atoms, take, inside) if inside else None)
    return made


def common_factors(
    before: Sequence[int], after: Sequence[int]
) -> tuple[list[list[int]], list[list[int]]] | None:
    """Return the finest factors that both shapes cut their elements into; None if they do not fit.

    Examples
    --------
    >>> common_factors([116], [2, 58])
    ([[2, 58]], [[2], [58]])
    >>> common_factors([6, 4], [3, 8])
    ([[3, 2], [4]], [[3], [2, 4]])
    >>> common_factors([6, 4], [4, 6]) is None
    True
    """
    one, other = _strides(before), _strides(after)
    if one[-1] != other[-1]:
        return None
    cuts = sorted({*one, *other})
    if any(high % low for low, high in itertools.pairwise(cuts)):
        return None
    return _between(one, cuts), _between(other, cuts)


def _strides(sizes: Sequence[int]) -> list[int]:
    """Return the products of the trailing 0, 1, 2, ... sizes."""
    found = [1]
    for size in reversed(sizes):
        found.append(found[-1] * size)
    return found


def _between(strides: Sequence[int], cuts: Sequence[int]) -> list[list[int]]:
    """Return for each axis, outer first, the factors that the cuts make of it."""
    factors = []
    for low, high in itertools.pairwise(strides):
        inside = [cut for cut in cuts if low <= cut <= high]
        sizes = [b // a for a, b in itertools.pairwise(inside)]
        factors.append(sizes[::-1])
    return factors[::-1]
