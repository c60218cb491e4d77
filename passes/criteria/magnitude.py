"""Magnitude: a weight is worth its absolute value. Needs no data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.sites import WeightSite


def magnitude(site: WeightSite, matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return ``|w|``.

    Parameters
    ----------
    site : WeightSite
        Not read.
    matrix : float [out, reduction]

    Returns
    -------
    float [out, reduction]
    """
    return np.asarray(np.abs(matrix))
