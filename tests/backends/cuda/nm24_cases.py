"""Matrices that a 2:4 format and its kernels have to get right, shared by the tests."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def nm24_matrix(
    rows: int, columns: int, dtype: str, seed: int, sparsity: float = 0.5
) -> NDArray[np.generic]:
    """Return a random matrix with at most two non-zeros in every four columns."""
    rng = np.random.default_rng(seed)
    groups = rng.standard_normal((rows, columns // 4, 4))
    dropped = rng.random(groups.shape).argsort(axis=-1)[..., :2]
    np.put_along_axis(groups, dropped, 0.0, axis=-1)
    groups[rng.random(groups.shape) < 2 * sparsity - 1] = 0.0
    return groups.reshape(rows, columns).astype(DTYPES[dtype])
