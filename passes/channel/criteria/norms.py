"""Magnitude: a unit is worth the size of its weights."""

from __future__ import annotations

import numpy as np

from sparsec.passes.channel.criteria import Scores, UnitCriterion, of_weights
from sparsec.passes.channel.slices import Rows


def sum_of_magnitudes(rows: Rows) -> Scores:
    """Return the sum of magnitudes of each slice. Source: Li et al., arXiv:1608.08710.

    Examples
    --------
    >>> sum_of_magnitudes(np.array([[1.0, -2.0], [0.0, 0.5]])).tolist()
    [3.0, 0.5]
    """
    return np.asarray(np.abs(rows).sum(axis=1, dtype=np.float64))


def euclidean_norm(rows: Rows) -> Scores:
    """Return the Euclidean norm of each slice."""
    return np.asarray(np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1)))


l1 = UnitCriterion(of_weights(sum_of_magnitudes))
l2 = UnitCriterion(of_weights(euclidean_norm))
