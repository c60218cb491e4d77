"""Criteria: what each weight of a site is worth. Higher means keep.

Some look at the weights alone; others also at statistics of what the weights are multiplied with,
and become ordinary ones once these are known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import PassConfigError
from sparsec.ir.registry import Registry
from sparsec.ir.sites import WeightSite
from sparsec.passes.calibration.statistics import Needs, Statistics

Matrix: TypeAlias = NDArray[np.floating]

Criterion: TypeAlias = Callable[[WeightSite, Matrix], Matrix]
"""``(site, matrix [out, reduction]) -> score [out, reduction]``; the matrix is the site's own."""


@dataclasses.dataclass(frozen=True, slots=True)
class DataCriterion:
    """A criterion that needs calibration data.

    Parameters
    ----------
    score : callable
        ``(matrix [out, reduction], statistics of the site's input) -> score [out, reduction]``.
    needs : Needs
        The statistics it looks at.
    """

    score: Callable[[Matrix, Statistics], Matrix]
    needs: Needs = Needs()  # noqa: RUF009  (frozen)

    def on(self, statistics: Mapping[str, Statistics]) -> Criterion:
        """Return the criterion for the sites that ``statistics`` names."""
        return lambda site, matrix: self.score(matrix, statistics[site.name])


criteria: Registry[Criterion | DataCriterion] = Registry(
    "criterion",
    "sparsec.criteria",
    {
        "magnitude": "sparsec.passes.criteria.magnitude:magnitude",
        "wanda": "sparsec.passes.criteria.wanda:wanda",
    },
    error=PassConfigError,
)
