"""Wanda: a weight is worth its absolute value times the norm of the input that it scales.

A large weight on an input that is always small matters less than a small one on a large input.

Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models",
arXiv:2306.11695, equation 1.
"""

from __future__ import annotations

import numpy as np

from sparsec.passes.calibration.statistics import Statistics
from sparsec.passes.criteria import DataCriterion, Matrix


def _score(matrix: Matrix, statistics: Statistics) -> Matrix:
    """Return ``|w| * ||x||``.

    Parameters
    ----------
    matrix : float [out, reduction]
    statistics : Statistics
        Of the input: ``[groups, reduction]``. A weight that no sample reached (an expert that got
        no token, a branch that was not taken) is judged by its absolute values alone.

    Returns
    -------
    float [out, reduction]
    """
    if not statistics.count:
        return np.asarray(np.abs(matrix))
    # The mean square ranks as the sum does within a layer, and between layers that saw more rows or
    # fewer.
    norms = (statistics.norms / np.sqrt(statistics.count)).astype(matrix.dtype)
    groups, columns = norms.shape
    grouped = np.abs(matrix).reshape(groups, -1, columns) * norms[:, None, :]
    return np.asarray(grouped.reshape(matrix.shape))


wanda = DataCriterion(_score)
