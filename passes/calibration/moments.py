"""Mean and second moments of many rows, in blocks, without losing digits.

The rows are centred before they are multiplied: everything is kept relative to a shift, the mean of
the first block, so that no large number is subtracted from another at the end (an uncentred float32
Gram matrix from which the mean is taken afterwards is often not even positive definite). Products
of a block are float32, their sums float64.

Source: Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", The American
Statistician 37(3), 1983: shifted data (section 3) and exact merging (section 2).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOAT32_ROWS = 4096  # rows summed in float32 before they join the float64 total


@dataclasses.dataclass(slots=True)
class Moments:
    """First and second moments of rows, for ``groups`` sets of columns.

    Parameters
    ----------
    full : bool
        Keep all products of columns, ``[groups, columns, columns]``; otherwise squares only,
        ``[groups, columns]``.
    count : int
        Rows so far, of each group.
    shift : float32 [groups, columns]
        What was subtracted from the rows.
    total : float64 [groups, columns]
        Sum of the shifted rows.
    products : float64 [groups, columns, columns] or [groups, columns]
        Sum of the products of the shifted rows.
    """

    full: bool
    count: int
    shift: Array
    total: Array
    products: Array

    @classmethod
    def empty(cls, groups: int, columns: int, full: bool) -> Moments:
        """Return the moments of no rows."""
        shape = (groups, columns, columns) if full else (groups, columns)
        zeros = np.zeros((groups, columns))
        return cls(full, 0, zeros.astype(np.float32), zeros, np.zeros(shape))

    @staticmethod
    def nbytes(groups: int, columns: int, full: bool) -> int:
        """Return what such moments take while they are collected, the product of a block included."""
        cells = groups * columns * (columns if full else 1)
        return cells * (8 + 4) + groups * columns * (8 + 4)

    def add(self, block: Array) -> None:
        """Add rows.

        Parameters
        ----------
        block : float32 (or float64) [groups, rows, columns]
            It is not changed.
        """
        for start in range(0, block.shape[1], FLOAT32_ROWS):
            self._add(block[:, start : start + FLOAT32_ROWS])

    def _add(self, block: Array) -> None:
        if not self.count:
            self.shift = block.mean(axis=1, dtype=np.float64).astype(np.float32)
        shifted = block - self.shift[:, None, :]
        self.count += block.shape[1]
        self.total += shifted.sum(axis=1, dtype=np.float64)
        if self.full:
            for products, rows_of_group in zip(self.products, shifted, strict=True):
                products += rows_of_group.T @ rows_of_group
        else:
            self.products += np.einsum("grc,grc->gc", shifted, shifted)

    def merge(self, other: Moments) -> None:
        """Add the rows behind other moments; the result is as if all had been added here."""
        if not other.count:
            return
        if not self.count:
            self.shift = other.shift
        moved = other.shift.astype(np.float64) - self.shift
        self.count += other.count
        self.total += other.total + other.count * moved
        self.products += _shifted(other, moved)

    @property
    def mean(self) -> Array:
        """Mean of every column, float64 [groups, columns]; zero if there are no rows."""
        return self.shift + self.total / max(self.count, 1)

    @property
    def squares(self) -> Array:
        """Sum of squares of every column, float64 [groups, columns]."""
        own = np.einsum("gcc->gc", self.products) if self.full else self.products
        shift = self.shift.astype(np.float64)
        return np.maximum(own + 2 * shift * self.total + self.count * shift**2, 0.0)

    @property
    def variance(self) -> Array:
        """Variance of every column (divided by the count), float64 [groups, columns]."""
        own = np.einsum("gcc->gc", self.products) if self.full else self.products
        count = max(self.count, 1)
        return np.maximum(own - self.total**2 / count, 0.0) / count

    def gram(self) -> Array:
        """Return ``X^T X``, float64 [groups, columns, columns]; needs ``full``."""
        return _shifted(self, self.shift.astype(np.float64))

    def centred_gram(self) -> Array:
        """Return ``(X - mean)^T (X - mean)``, float64 [groups, columns, columns]; needs ``full``."""
        return _shifted(self, -self.total / max(self.count, 1))


def _shifted(moments: Moments, moved: Array) -> Array:
    """Return the products after adding ``moved`` [groups, columns] to every row: a new array.

    ``sum (y + m)(y + m)^T = sum y y^T + t m^T + m t^T + n m m^T`` with ``t = sum y``; the last
    three are ``u m^T + m u^T`` with ``u = t + n m / 2``.
    """
    half = moments.total + moments.count / 2 * moved
    if not moments.full:
        return np.asarray(moments.products + 2 * half * moved)
    products = moments.products.copy()
    for result, u, m in zip(products, half, moved, strict=True):
        # Some columns at a time: the outer products of all would be as large again.
        for start in range(0, len(u), 256):
            part = slice(start, start + 256)
            result[part] += np.outer(u[part], m) + np.outer(m[part], u)
    return products
