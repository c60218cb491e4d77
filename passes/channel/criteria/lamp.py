"""LAMP: a slice counts by what it is among those that would stay with it."""

from __future__ import annotations

import numpy as np

from sparsec.passes.channel.criteria import Scores, UnitCriterion, of_weights
from sparsec.passes.channel.slices import Rows


def share_of_what_stays(rows: Rows) -> Scores:
    """Return each slice's squared norm over that of all slices at least as large.

    Source: Lee et al., "Layer-adaptive sparsity for magnitude-based pruning", arXiv:2010.07611; here
    of slices instead of weights. The largest scores 1, so no layer is emptied.

    Examples
    --------
    >>> share_of_what_stays(np.array([[1.0], [2.0], [1.0]])).tolist()
    [0.16666666666666666, 1.0, 0.2]
    """
    squared = np.square(rows, dtype=np.float64).sum(axis=1)
    order = np.argsort(squared, kind="stable")
    above = np.cumsum(squared[order][::-1])[::-1]
    scores = np.empty(squared.shape, np.float64)
    scores[order] = squared[order] / np.maximum(above, np.finfo(np.float64).tiny)
    return scores


lamp = UnitCriterion(of_weights(share_of_what_stays))
