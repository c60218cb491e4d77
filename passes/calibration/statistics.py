"""What is known of the input of a weight: the statistics that data-driven passes share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.passes.calibration.moments import Moments
from sparsec.passes.calibration.quantiles import NBYTES, Quantiles

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Needs:
    """Which statistics a pass needs besides count, means and norms, which are always there.

    Parameters
    ----------
    gram : bool
        Products of all pairs of columns: memory grows with the square of the reduction.
    extremes : bool
        Smallest and largest number of every column.
    quantiles : bool
        A histogram of all numbers.
    """

    gram: bool = False
    extremes: bool = False
    quantiles: bool = False

    def nbytes(self, groups: int, columns: int) -> int:
        """Return the bytes that collecting them takes for one input."""
        total = Moments.nbytes(groups, columns, self.gram)
        return total + self.extremes * groups * columns * 8 + self.quantiles * NBYTES


@dataclasses.dataclass(slots=True)
class Statistics:
    """Statistics of the rows [groups, rows, columns] that a weight was multiplied with.

    ``groups`` is that of the weight's layout: row ``r`` of a matrix [out, reduction] reads group
    ``r * groups // out``; columns are the reduction, in the matrix's order.

    Parameters
    ----------
    moments : Moments
    minimum, maximum : float32 [groups, columns], optional
        Infinite where there are no rows.
    quantiles : Quantiles, optional
        Of all groups and columns together.
    """

    moments: Moments
    minimum: Array | None = None
    maximum: Array | None = None
    quantiles: Quantiles | None = None

    @classmethod
    def empty(cls, groups: int, columns: int, needs: Needs) -> Statistics:
        """Return the statistics of no rows."""
        statistics = cls(Moments.empty(groups, columns, needs.gram))
        if needs.extremes:
            statistics.minimum = np.full((groups, columns), np.inf, np.float32)
            statistics.maximum = np.full((groups, columns), -np.inf, np.float32)
        if needs.quantiles:
            statistics.quantiles = Quantiles()
        return statistics

    def add(self, block: Array) -> None:
        """Add rows, float [groups, rows, columns]."""
        if not block.shape[1]:
            return
        block = block.astype(np.promote_types(block.dtype, np.float32), copy=False)
        self.moments.add(block)
        if self.minimum is not None:
            self._extend(block.min(axis=1), block.max(axis=1))
        if self.quantiles is not None:
            self.quantiles.add(block)

    def merge(self, other: Statistics) -> None:
        """Add the rows behind other statistics of the same kind."""
        self.moments.merge(other.moments)
        self._extend(other.minimum, other.maximum)
        if self.quantiles is not None and other.quantiles is not None:
            self.quantiles.merge(other.quantiles)

    def _extend(self, minimum: Array | None, maximum: Array | None) -> None:
        """Take further extremes into account, if any are kept."""
        if self.minimum is not None and self.maximum is not None:
            assert minimum is not None
            assert maximum is not None
            self.minimum = np.minimum(self.minimum, minimum).astype(np.float32)
            self.maximum = np.maximum(self.maximum, maximum).astype(np.float32)

    @property
    def count(self) -> int:
        """Rows seen, padding left out: tokens, or places of a kernel. Zero if nothing came by."""
        return self.moments.count

    @property
    def norms(self) -> Array:
        """Euclidean norm of every column over all rows, float64 [groups, columns]."""
        return np.sqrt(self.moments.squares)

    @property
    def mean(self) -> Array:
        """Mean of every column, float64 [groups, columns]."""
        return self.moments.mean

    @property
    def dead(self) -> Array:
        """Columns that were zero in every row, bool [groups, columns]."""
        return np.asarray(self.moments.squares == 0.0)

    def gram(self) -> Array:
        """Return ``X^T X``, float64 [groups, columns, columns]; needs ``gram``."""
        return self.moments.gram()

    def centred_gram(self) -> Array:
        """Return ``(X - mean)^T (X - mean)``, float64 [groups, columns, columns]; needs ``gram``."""
        return self.moments.centred_gram()

    def is_finite(self) -> bool:
        """Whether no NaN or infinite number came by, and no sum overflowed."""
        return bool(
            np.isfinite(self.moments.total).all() and np.isfinite(self.moments.squares).all()
        )

    def to_arrays(self) -> dict[str, Array]:
        """Return everything as named arrays, to be stored."""
        arrays = {
            "count": np.array(self.count),
            "shift": self.moments.shift,
            "total": self.moments.total,
            "products": self.moments.products,
        }
        if self.minimum is not None and self.maximum is not None:
            arrays |= {"minimum": self.minimum, "maximum": self.maximum}
        if self.quantiles is not None:
            arrays["quantiles"] = self.quantiles.counts
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Statistics:
        """Return what :meth:`to_arrays` gave.

        Raises
        ------
        KeyError
            If an array is missing.
        """
        products = arrays["products"]
        moments = Moments(
            products.ndim == 3, int(arrays["count"]), arrays["shift"], arrays["total"], products
        )
        counts = arrays.get("quantiles")
        return cls(
            moments,
            arrays.get("minimum"),
            arrays.get("maximum"),
            None if counts is None else Quantiles(counts),
        )
