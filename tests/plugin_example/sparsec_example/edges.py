"""A criterion: inputs far from the middle matter most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.sites import WeightSite


def edges(site: WeightSite, matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the distance of each weight's input from the middle of the reduction."""
    reduction = matrix.shape[1]
    distance = np.abs(np.arange(reduction) - (reduction - 1) / 2)
    return np.broadcast_to(distance, matrix.shape)
