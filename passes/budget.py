"""One sparsity for many layers: the same in each, or a common threshold over all.

With ``scope=layer`` each site loses the same fraction. With ``scope=global`` the scores of all
sites compete, so that layers which matter less lose more; the threshold is found by radix
selection, so that only one layer is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import PassConfigError

SCOPES = ("layer", "global")


def check_budget(name: str, sparsity: float | None, scope: str) -> None:
    """Refuse options that are no budget.

    Raises
    ------
    PassConfigError
    """
    if sparsity is not None and not 0.0 < sparsity < 1.0:
        raise PassConfigError(
            f"{name}: sparsity is the fraction of zeros and must lie between 0 and 1, "
            f"got {sparsity:g}",
            where=name,
        )
    if scope not in SCOPES:
        raise PassConfigError(
            f"{name}: scope must be {' or '.join(SCOPES)}, got {scope!r}", where=name
        )


def settled(name: str, sparsity: float | None) -> float:
    """Return the sparsity of a pass that is about to run.

    Raises
    ------
    PassConfigError
        If it was left open and no goal has settled it.
    """
    if sparsity is None:
        raise PassConfigError(
            f"{name}: needs sparsity=, such as {name}:sparsity=0.8; or a goal to solve it for, such as "
            "--goal latency=-40%",
            where=name,
        )
    return sparsity


def global_kept(scores: Callable[[], Iterable[NDArray[np.floating]]], sparsity: float) -> list[int]:
    """Return how many entries each array keeps when all compete for one budget.

    Parameters
    ----------
    scores : callable
        Returns an iterator over arrays of finite, non-negative scores; called six times, so that
        no more than one array need be in memory.
    sparsity : float
        Of all arrays together.

    Returns
    -------
    list of int
        Kept entries per array, which sum to what the sparsity asks for, but for this: each array
        keeps at least one entry, so that no layer is cut.

    Notes
    -----
    Ties at the threshold are kept in the order of the arrays.

    Examples
    --------
    >>> global_kept(lambda: [np.array([1.0, 2.0, 3.0]), np.array([9.0, 8.0, 7.0])], 0.5)
    [1, 3]
    """
    sizes = [array.size for array in scores()]
    keep = sum(sizes) - round(sum(sizes) * sparsity)
    threshold = _select(scores, keep)
    above, ties = [], []
    for array in scores():
        bits = _bits(array)
        above.append(int(np.count_nonzero(bits > threshold)))
        ties.append(int(np.count_nonzero(bits == threshold)))
    left = keep - sum(above)
    counts = []
    for more, tie in zip(above, ties, strict=True):
        taken = min(tie, left)
        left -= taken
        counts.append(max(more + taken, 1))
    return counts


def _bits(array: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Return non-negative numbers as integers of the same order: IEEE 754 sorts like its bits."""
    return np.abs(array.astype(np.float64, copy=False)).ravel().view(np.uint64)


def _select(scores: Callable[[], Iterable[NDArray[np.floating]]], keep: int) -> np.uint64:
    """Return the bits of the ``keep``-th highest score, by radix selection: 16 bits a pass."""
    prefix, left = 0, max(keep, 1)
    for shift in (48, 32, 16, 0):
        histogram = np.zeros(1 << 16, dtype=np.int64)
        for array in scores():
            bits = _bits(array)
            if shift < 48:
                bits = bits[bits >> np.uint64(shift + 16) == prefix]
            digits = (bits >> np.uint64(shift)) & np.uint64(0xFFFF)
            histogram += np.bincount(digits.astype(np.int64), minlength=1 << 16)
        reached = np.cumsum(histogram[::-1])
        index = int(np.searchsorted(reached, left))
        left -= int(reached[index - 1]) if index else 0
        prefix = (prefix << 16) | (0xFFFF - index)
    return np.uint64(prefix)
