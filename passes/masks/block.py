"""Block scores: what a block of ``rows`` outputs by ``cols`` reduction elements is worth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def block_scores(score: NDArray[np.floating], rows: int, cols: int) -> NDArray[np.float64]:
    """Return the sum of squared scores of every block, the last ones cut off where the matrix ends.

    Squares make a block worth the energy it carries, so that one large weight is not lost among
    small ones.

    Parameters
    ----------
    score : float [out, reduction]

    Returns
    -------
    float64 [ceil(out / rows), ceil(reduction / cols)]

    Examples
    --------
    >>> block_scores(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), rows=2, cols=1)
    array([[10., 20.],
           [25., 36.]])
    """
    out, reduction = score.shape
    padded = np.zeros((-(-out // rows) * rows, -(-reduction // cols) * cols))
    padded[:out, :reduction] = np.square(score, dtype=np.float64)
    blocks = padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // cols, cols)
    return np.asarray(blocks.sum(axis=(1, 3)))


def expand_blocks(
    mask: NDArray[np.bool_], rows: int, cols: int, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return the mask of the elements from the mask of the blocks, cut to ``shape``."""
    return mask.repeat(rows, axis=0).repeat(cols, axis=1)[: shape[0], : shape[1]]
