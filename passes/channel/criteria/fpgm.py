"""FPGM: a filter in the middle of the others is the one that they can replace."""

from __future__ import annotations

import numpy as np

from sparsec.passes.channel.criteria import Scores, UnitCriterion, of_weights
from sparsec.passes.channel.slices import Rows


def summed_distance(rows: Rows) -> Scores:
    """Return the summed distance of each slice to all others.

    Source: He et al., "Filter Pruning via Geometric Median", arXiv:1811.00250.

    Examples
    --------
    >>> summed_distance(np.array([[0.0], [1.0], [5.0]])).tolist()
    [6.0, 5.0, 9.0]
    """
    wide = rows.astype(np.float64)
    norms = np.square(wide).sum(axis=1)
    squared = norms[:, None] + norms[None, :] - 2 * wide @ wide.T
    return np.asarray(np.sqrt(np.maximum(squared, 0)).sum(axis=1))


fpgm = UnitCriterion(of_weights(summed_distance))
