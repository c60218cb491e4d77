"""Matrices that formats of 2:4 and 1:4 and their kernels have to get right, shared by the tests."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def nm24_matrix(
    rows: int, columns: int, dtype: str, seed: int, sparsity: float = 0.5
) -> NDArray[np.generic]:
    """Return a random matrix with at most two non-zeros in every four columns."""
    return _of_four(2, rows, columns, dtype, seed, 2 * sparsity - 1)


def nm14_matrix(
    rows: int, columns: int, dtype: str, seed: int, sparsity: float = 0.75
) -> NDArray[np.generic]:
    """Return a random matrix with at most one non-zero in every four columns."""
    return _of_four(1, rows, columns, dtype, seed, 4 * sparsity - 3)


def _of_four(
    kept: int, rows: int, columns: int, dtype: str, seed: int, zeros: float
) -> NDArray[np.generic]:
    rng = np.random.default_rng(seed)
    groups = rng.standard_normal((rows, columns // 4, 4))
    dropped = rng.random(groups.shape).argsort(axis=-1)[..., : 4 - kept]
    np.put_along_axis(groups, dropped, 0.0, axis=-1)
    groups[rng.random(groups.shape) < zeros] = 0.0
    return groups.reshape(rows, columns).astype(DTYPES[dtype])
