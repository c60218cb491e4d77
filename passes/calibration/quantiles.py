"""Quantiles of a stream of numbers from a histogram of fixed size.

A bin holds all numbers whose float32 form starts with the same 16 bits: sign, exponent and 7 bits
of the fraction. So counts are exact, two histograms merge by addition without any loss, and a
quantile is wrong by at most half a bin: 2^-8 (0.4 %) of its value. Numbers below 1e-38 in size
count as denormal bins of absolute width 2^-133.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 1 << 16
NBYTES = BINS * 8


class Quantiles:
    """A histogram of float32 numbers with a relative resolution of 2^-7.

    Examples
    --------
    >>> sketch = Quantiles()
    >>> sketch.add(np.arange(1, 101, dtype=np.float32))
    >>> float(sketch.quantile(0.5))
    50.125
    """

    def __init__(self, counts: NDArray[np.int64] | None = None) -> None:
        self.counts = np.zeros(BINS, np.int64) if counts is None else counts

    def add(self, values: NDArray[Any]) -> None:
        """Count numbers, which must be finite."""
        bits = np.ascontiguousarray(values, dtype=np.float32).reshape(-1).view(np.uint32)
        self.counts += np.bincount(_ordered(bits >> np.uint32(16)), minlength=BINS)

    def merge(self, other: Quantiles) -> None:
        """Add the numbers behind another histogram."""
        self.counts += other.counts

    def quantile(self, fraction: float) -> np.float32:
        """Return the number below which a fraction 0..1 of all lies: the lower of two neighbours.

        Raises
        ------
        ValueError
            If nothing has been counted, or the fraction is not between 0 and 1.
        """
        total = int(self.counts.sum())
        if not total or not 0.0 <= fraction <= 1.0:
            raise ValueError(f"no quantile {fraction} of {total} numbers")
        rank = int(fraction * (total - 1))
        place = int(np.searchsorted(np.cumsum(self.counts), rank, side="right"))
        return _centre(place)

    def magnitude(self) -> Quantiles:
        """Return the histogram of the absolute values."""
        half = BINS // 2
        folded = self.counts[half:] + self.counts[:half][::-1]
        return Quantiles(np.concatenate([np.zeros(half, np.int64), folded]))


def _ordered(top: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Map the upper bits of floats to places that sort as the floats do."""
    negative = top >= BINS // 2
    return np.where(negative, np.uint32(BINS - 1) - top, top + np.uint32(BINS // 2))


def _centre(place: int) -> np.float32:
    """Return the number in the middle of a bin; zero for the two bins around it."""
    half = BINS // 2
    negative = place < half
    top = half - 1 - place if negative else place - half
    if not top:
        return np.float32(0.0)
    value = np.array((top << 16) | 0x8000, np.uint32).view(np.float32)
    return np.float32(-value if negative else value)
