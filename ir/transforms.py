"""Recognising weights that nobody trained: Fourier bases and filter banks stored as layers.

Speech and audio models carry their spectrogram as a convolution with sines and cosines and their
mel scale as a matrix product. Pruning either destroys the model and saves nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TONAL = 0.99  # of the energy of a row, within two bins of its peak
_NOISE = 1e-8  # of the energy of the strongest row
_MIN_ROWS = 8
_MIN_LENGTH = 32
_MAX_BAND = 0.2  # of all entries, that a bank of narrow filters uses


def is_fixed_transform(matrix: NDArray[np.floating]) -> bool:
    """Say if a weight [out, reduction] is a windowed Fourier basis or a bank of band filters.

    A trained weight has neither property by chance: every row of a Fourier basis is one tone, each
    at its own frequency, and every filter of a bank is a contiguous band of non-negative numbers.

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
    """Whether every row has one frequency, and the rows together have many."""
    if matrix.shape[1] < _MIN_LENGTH:
        return False
    # Most weights fail in their first rows: only those that do not are looked at whole.
    return _is_tonal(matrix[: 2 * _MIN_ROWS]) and _is_tonal(matrix)


def _is_tonal(rows: NDArray[np.floating]) -> bool:
    """Whether nearly all energy of each row lies about its peak, and few rows share a peak.

    Any usual window spreads a tone over five bins at most. Rows of rounding noise, as of sin(pi n),
    have no peak and are not looked at.
    """
    largest = np.abs(rows).max()
    if not 0 < largest < np.inf:
        return False
    energy = np.square(np.abs(np.fft.rfft(rows / largest, axis=1)))  # of any scale in float32
    total = energy.sum(axis=1)
    energy = energy[total > _NOISE * total.max()]
    if len(energy) < _MIN_ROWS - 2:
        return False
    peaks = energy.argmax(axis=1)
    near = np.abs(np.arange(energy.shape[1]) - peaks[:, None]) <= 2
    if np.any((energy * near).sum(axis=1) < _TONAL * energy.sum(axis=1)):
        return False
    return len(np.unique(peaks)) >= len(peaks) / 3


def _is_bank(matrix: NDArray[np.floating]) -> bool:
    """Whether all rows are narrow contiguous bands of non-negative numbers that move along."""
    if np.any(matrix < 0):
        return False
    used = matrix > 0
    rows = used.any(axis=1)
    if np.count_nonzero(rows) < _MIN_ROWS or used.mean() > _MAX_BAND:
        return False
    first = used.argmax(axis=1)
    last = matrix.shape[1] - 1 - used[:, ::-1].argmax(axis=1)
    contiguous = used.sum(axis=1)[rows] == (last - first + 1)[rows]
    return bool(np.all(contiguous) and np.all(np.diff(first[rows]) >= 0))
