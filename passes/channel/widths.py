"""How many units a group may keep: multiples of what the target works in, and never none."""

from __future__ import annotations

import numpy as np


def floor_of(size: int, step: int, least: int) -> int:
    """Return the fewest of ``size`` units that a group keeps: a multiple of ``step``, or all it has.

    Examples
    --------
    >>> floor_of(64, 8, 1), floor_of(64, 8, 10), floor_of(6, 8, 1)
    (8, 16, 6)
    """
    return min(size, -(-max(least, 1) // step) * step)


def rounded(size: int, wanted: float, step: int, least: int) -> int:
    """Return how many of ``size`` units to keep: the multiple of ``step`` nearest to ``wanted``.

    Examples
    --------
    >>> [rounded(n, 0.7 * n, 8, 1) for n in (6, 8, 24, 58, 64)]
    [6, 8, 16, 40, 48]
    """
    nearest = int(np.floor(wanted / step + 0.5)) * step
    return min(size, max(nearest, floor_of(size, step, least)))


def next_width(size: int, step: int, least: int) -> int | None:
    """Return the next smaller number of units that a group of ``size`` may keep; None at the end.

    Examples
    --------
    >>> next_width(58, 8, 1), next_width(56, 8, 1), next_width(8, 8, 1)
    (56, 48, None)
    """
    below = (size - 1) // step * step
    return below if below >= floor_of(size, step, least) else None
