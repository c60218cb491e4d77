"""Rounding kept weights to numbers that fewer bytes hold.

The weights stay float32 in the graph: they become numbers that float16, or int8 with one scale for each
output row, holds exactly. So the graph says what is computed, whatever runs it, and a backend that has
kernels for such values packs them without changing anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

_LARGEST = 127
# Bits of a scale. With the 7 of a value a product has at most 24, which float32 holds exactly, so that the
# scale can be found again from the rounded row.
_SCALE_BITS = 16


def to_float16(matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return ``matrix`` with every value that of the nearest float16; infinite beyond 65504."""
    with np.errstate(over="ignore"):
        return matrix.astype(np.float16).astype(matrix.dtype)


def to_int8(matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return ``matrix`` [out, reduction] with rows of whole multiples, -127 to 127, of a scale.

    The scale is the row's largest value / 127, rounded up to 16 bits: an error of at most half a scale in
    each weight, 0.4 % of the row's largest.

    Examples
    --------
    >>> to_int8(np.array([[-1.27, 0.004, 0.006, 0.0]])).round(4).tolist()
    [[-1.27, 0.0, 0.01, 0.0]]
    """
    largest = np.abs(matrix).max(axis=1, keepdims=True).astype(np.float64)
    fraction, exponent = np.frexp(largest / _LARGEST)
    scale = np.ldexp(np.ceil(np.ldexp(fraction, _SCALE_BITS)), exponent - _SCALE_BITS)
    scale[largest == 0] = 1.0
    rounded: NDArray[np.floating] = (np.rint(matrix / scale) * scale).astype(matrix.dtype)
    return rounded


ROUNDINGS: Mapping[str, Callable[[NDArray[np.floating]], NDArray[np.floating]]] = {
    "float16": to_float16,
    "int8": to_int8,
}
