"""Matrices that follow the pattern of any packed format, shared by the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def matrix_for(
    pattern: str, rows: int, columns: int, seed: int, sparsity: float = 0.5
) -> NDArray[np.float32]:
    """Return float32 [rows, columns] in a pattern, about ``sparsity`` zeros where that is free.

    Numbers are exact in float16 and bfloat16.
    """
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 64, (rows, columns)) * rng.choice([-1, 1], (rows, columns)) / 32
    if pattern.startswith("block:"):
        high = int(pattern.removeprefix("block:").split("x")[0])
        kept = rng.random((-(-rows // high), columns)) >= sparsity
        keep = np.repeat(kept, high, axis=0)[:rows]
    elif pattern == "unstructured":
        keep = rng.random((rows, columns)) >= sparsity
    else:
        n, m = (int(each) for each in pattern.split(":"))
        wide = -(-columns // m) * m
        order = rng.random((rows, wide // m, m)).argsort(axis=-1).argsort(axis=-1)
        keep = (order < n).reshape(rows, wide)[:, :columns]
        keep &= rng.random((rows, columns)) >= max(0.0, 1 - (1 - sparsity) * m / n)
    return np.where(keep, dense, 0).astype(np.float32)
