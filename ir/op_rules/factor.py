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
    before, after = _same_symbols(before, after)
    found: list[Axis | None] = [None] * len(after)
    front, back = _matched(before, after)
    ins, outs = list(range(front, len(before))), list(range(front, len(after)))
    for i in range(front):
        found[i] = axes[i]
    for in_block, out_block in back:
        ins = [i for i in ins if i not in in_block]
        outs = [i for i in outs if i not in out_block]
        _fill(view, found, axes, before, after, in_block, out_block)
    sizes = [before[i] for i in ins], [after[i] for i in outs]
    if all(isinstance(size, int) for size in (*sizes[0], *sizes[1])):
        _fill(view, found, axes, before, after, ins, outs)
    elif not _cycle(view, found, axes, *sizes, ins, outs):
        why = "reshapes it together with a size that is not known"
        view.freeze_all((axes[i] for i in ins), why)
    return tuple(found)


def _fill(
    view: NodeView,
    found: list[Axis | None],
    axes: Sequence[Axis | None],
    before: Sequence[Dim],
    after: Sequence[Dim],
    ins: Sequence[int],
    outs: Sequence[int],
) -> None:
    """Take the block ``ins`` of axes apart and put it together as the block ``outs``."""
    if len(ins) == len(outs) == 1:
        found[outs[0]] = axes[ins[0]]
        return
    sizes = [_int(before[i]) for i in ins], [_int(after[i]) for i in outs]
    for i, axis in zip(outs, _block(view, [axes[i] for i in ins], *sizes), strict=True):
        found[i] = axis


def _cycle(
    view: NodeView,
    found: list[Axis | None],
    axes: Sequence[Axis | None],
    before: Sequence[Dim],
    after: Sequence[Dim],
    ins: Sequence[int],
    outs: Sequence[int],
) -> bool:
    """Merge axes with a leading one of unknown size into one, or take them apart again.

    ``[n, heads] -> [n * heads]`` makes a cyclic axis, and ``[n * heads] -> [n, heads]`` undoes it.
    """
    if len(outs) == 1 and len(ins) > 1:
        known = max(i for i, size in enumerate(before) if not isinstance(size, int)) + 1
        why = "merges it with an axis of unknown size"
        view.freeze_all((axes[i] for i in ins[:known]), why)
        rest = [_int(size) for size in before[known:]]
        merged = merge(view.atoms, [axes[i] for i in ins[known:]], rest)
        found[outs[0]] = merged and Axis(merged.atoms, merged.vanishes, cyclic=True)
        return True
    if len(ins) == 1 and len(outs) > 1:
        axis = axes[ins[0]]
        rest = [size for size in after[1:] if isinstance(size, int)]
        if axis is None:
            return True
        if not axis.cyclic or len(rest) < len(outs) - 1 or int(np.prod(rest)) != axis.size:
            return False
        parts = split(view, Axis(axis.atoms, axis.vanishes), rest)
        for i, part in zip(outs[1:], parts, strict=True):
            found[i] = part
        return True
    return False


def _same_symbols(
    before: Sequence[Dim], after: Sequence[Dim]
) -> tuple[Sequence[Dim], Sequence[Dim]]:
    """Give the one size that is unknown on either side the same symbol, if it must be the same.

    Both shapes have equally many elements: if all that is known agrees, the rest does, too.

    Examples
    --------
    >>> _same_symbols(["n", 2, 3, "a"], ["n", 6, "b"])
    (['n', 2, 3, 'a'], ['n', 6, 'a'])
    """
    shared = {size for size in before if isinstance(size, str)} & set(after)
    one, other = (
        [i for i, size in enumerate(shape) if not isinstance(size, int) and size not in shared]
        for shape in (before, after)
    )
    known = [int(np.prod([s for s in shape if isinstance(s, int)])) for shape in (before, after)]
    same_count = all(list(before).count(s) == list(after).count(s) for s in shared)
    if len(one) != 1 or len(other) != 1 or known[0] != known[1] or not same_count:
        return before, after
    left, right = list(before), list(after)
    left[one[0]] = right[other[0]] = left[one[0]] or "unknown"
    return left, right


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
        if isinstance(left, str) and left == right:
            blocks.append((ins, outs))
            i, j = i - 1, j - 1
            continue
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
