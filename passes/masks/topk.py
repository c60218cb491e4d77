"""Masks that keep a given number of entries of a vector of scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top_mask(score: NDArray[np.floating], keep: int) -> NDArray[np.bool_]:
    """Mark the ``keep`` highest of the scores.

    Parameters
    ----------
    score : float [n]
    keep : int
        0 to n.

    Returns
    -------
    bool [n]
        Exactly ``keep`` entries are True. Ties keep the lower index.

    Examples
    --------
    >>> top_mask(np.array([1.0, 3.0, 3.0, 2.0]), keep=1).astype(int)
    array([0, 1, 0, 0])
    """
    mask = np.zeros(score.shape, dtype=np.bool_)
    if keep <= 0:
        return mask
    if keep >= score.size:
        mask[:] = True
        return mask
    # Everything above the threshold is kept; of the ties at it, the first ones fill up.
    threshold = np.partition(score, score.size - keep)[score.size - keep]
    mask[:] = score > threshold
    ties = np.flatnonzero(score == threshold)
    mask[ties[: keep - int(np.count_nonzero(mask))]] = True
    return mask


def kept(size: int, sparsity: float) -> int:
    """Return how many of ``size`` entries stay at ``sparsity``: the zeros are rounded, as is usual.

    Examples
    --------
    >>> kept(10, 0.75)
    2
    """
    return size - round(size * sparsity)
