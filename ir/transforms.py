"""Recognising weights that nobody trained: Fourier bases and filter banks stored as layers.

Speech and audio models carry their spectrogram as a convolution with sines and cosines and their
mel scale as a matrix product. Pruning either destroys the model and saves nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 1e-4  # of the largest entry
_MIN_ROWS = 8
_MIN_LENGTH = 32
_MAX_BAND = 0.2  # of all entries, that a bank of narrow filters uses


def is_fixed_transform(matrix: NDArray[np.floating]) -> bool:
    """Say if a weight [out, reduction] is a windowed Fourier basis or a bank of band filters.

    A trained weight has neither property by chance: every row of a Fourier basis is symmetric or
    antisymmetric, and every filter of a bank is a contiguous band of non-negative numbers.

    Examples
    --------
    >>> angles = 2 * np.pi * np.outer(np.arange(9), np.arange(32)) / 32
    >>> is_fixed_transform(np.sin(angles))
    True
    >>> is_fixed_transform(np.random.default_rng(0).normal(size=(9, 32)))
    False
    """
    if min(matrix.shape) < _MIN_ROWS or max(matrix.shape) < _MIN_LENGTH:
        return False
    return _is_fourier(matrix) or _is_bank(matrix) or _is_bank(matrix.T)


def _is_fourier(matrix: NDArray[np.floating]) -> bool:
    """Whether all rows are even or odd, about the centre or (periodic windows) about sample 0."""
    if matrix.shape[1] < _MIN_LENGTH:
        return False
    for part in (matrix, matrix[:, 1:]):
        # Most weights fail in their first rows: only those that do not are looked at whole.
        if _all_symmetric(part[: 2 * _MIN_ROWS]) and _all_symmetric(part):
            return True
    return False


def _all_symmetric(rows: NDArray[np.floating]) -> bool:
    """Whether each row is even or odd; rows of rounding noise, as of sin(pi n), are both."""
    largest = np.abs(rows).max(axis=1)
    scale = largest.max()
    if np.count_nonzero(largest > 1e-2 * scale) < _MIN_ROWS - 2:
        return False
    flipped = rows[:, ::-1]
    even = np.abs(rows - flipped).max(axis=1)
    odd = np.abs(rows + flipped).max(axis=1)
    return bool(np.all(np.minimum(even, odd) <= _TOLERANCE * scale))


def _is_bank(matrix: NDArray[np.floating]) -> bool:
    """Whether all rows are narrow contiguous bands of non-negative numbers that move along."""
    if np.any(matrix[:1] < 0) or np.any(matrix < 0):
        return False
    used = matrix > 0
    rows = used.any(axis=1)
    if np.count_nonzero(rows) < _MIN_ROWS or used.mean() > _MAX_BAND:
        return False
    first = used.argmax(axis=1)
    last = matrix.shape[1] - 1 - used[:, ::-1].argmax(axis=1)
    contiguous = used.sum(axis=1)[rows] == (last - first + 1)[rows]
    return bool(np.all(contiguous) and np.all(np.diff(first[rows]) >= 0))
