"""N:M masks: keep the best ``n`` of every ``m`` consecutive weights of a row.

Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378, section 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nm_mask(score: NDArray[np.floating], n: int, m: int) -> NDArray[np.bool_]:
    """Mark the ``n`` highest scores of every ``m`` consecutive ones in each row.

    Parameters
    ----------
    score : float [rows, cols]
        Higher means more important; ``cols`` is a multiple of ``m``.
    n, m : int
        Kept entries per group, and group length.

    Returns
    -------
    bool [rows, cols]
        Exactly ``rows * cols * n / m`` entries are True.

    Notes
    -----
    Ties keep the lower index, so that the same model always compiles to the same bytes.

    Examples
    --------
    >>> nm_mask(np.array([[4, 1, 3, 2, 5, 5, 5, 5]], dtype=np.float32), n=2, m=4).astype(int)
    array([[1, 0, 1, 0, 1, 1, 0, 0]])
    """
    rows, cols = score.shape
    groups = score.reshape(rows, cols // m, m)
    best = np.argsort(-groups, axis=-1, kind="stable")[..., :n]
    mask = np.zeros(groups.shape, dtype=np.bool_)
    np.put_along_axis(mask, best, True, axis=-1)
    return mask.reshape(rows, cols)
