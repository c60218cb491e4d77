"""Weights between a dense matrix and the block form of a plan.

One form holds every pattern: blocks of ``block_rows`` x 1 with their column. Unstructured and N:M
weights are blocks of one row. The form knows nothing of tiles or instruction sets; byte offsets are
baked in when a plan is loaded on a machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cpu.plan import Blocks, Dense, Tensor


def pack_blocks(matrix: NDArray[np.float32], block_rows: int) -> Blocks:
    """Keep the blocks of ``matrix`` float32 [rows, columns] that hold a non-zero.

    Zeros inside a kept block are stored; nothing is ever dropped. A negative zero counts as zero.

    Examples
    --------
    >>> w = np.array([[0, 2, 0], [0, 0, 3]], np.float32)
    >>> pack_blocks(w, 2).columns.tolist(), pack_blocks(w, 2).values.tolist()
    ([1, 2], [[2.0, 0.0], [0.0, 3.0]])
    """
    rows, width = matrix.shape
    groups = -(-rows // block_rows)
    padded = np.zeros((groups * block_rows, width), np.float32)
    padded[:rows] = matrix
    blocks = padded.reshape(groups, block_rows, width)
    group, column = np.nonzero((blocks != 0).any(axis=1))
    starts = np.zeros(groups + 1, np.uint32)
    np.cumsum(np.bincount(group, minlength=groups), out=starts[1:])
    narrow = np.uint16 if width <= 65536 else np.uint32
    values = np.ascontiguousarray(blocks[group, :, column])
    return Blocks(rows, width, starts, column.astype(narrow), values)


def unpack(tensor: Tensor) -> NDArray[np.float32]:
    """Return the matrix float32 [rows, columns] of a tensor of a plan."""
    if isinstance(tensor, Dense):
        return np.array(tensor.values, np.float32)
    block_rows = tensor.block_rows
    groups = len(tensor.starts) - 1
    lengths: NDArray[np.int64] = tensor.starts[1:].astype(np.int64) - tensor.starts[:-1]
    group = np.repeat(np.arange(groups), lengths)
    blocks = np.zeros((groups, block_rows, tensor.width), np.float32)
    values = tensor.values.astype(np.float32)
    if tensor.scales is not None:
        values *= tensor.scales.reshape(groups, block_rows)[group]
    blocks[group, :, tensor.columns.astype(np.int64)] = values
    return blocks.reshape(groups * block_rows, tensor.width)[: tensor.rows]


def best_block_rows(matrix: NDArray[np.float32]) -> int:
    """Return the tallest block whose kept blocks hold hardly any zeros: the form the weights follow.

    A random unstructured matrix is never mistaken for a blocked one: at sparsity 0.2 a sixth of its
    2x1 blocks is zeros. Values rounded to int8 may leave a few zeros in blocks that were kept. Below
    sparsity 0.05 every form is nearly full and 4x1 runs fastest.

    Examples
    --------
    >>> best_block_rows(np.kron(np.eye(4, dtype=np.float32), np.ones((4, 1), np.float32)))
    4
    """
    kept = matrix != 0
    nonzeros = int(kept.sum())
    for block_rows in (8, 4, 2):
        groups = -(-matrix.shape[0] // block_rows)
        padded = np.zeros((groups * block_rows, matrix.shape[1]), bool)
        padded[: matrix.shape[0]] = kept
        blocks = int(padded.reshape(groups, block_rows, -1).any(axis=1).sum())
        if nonzeros >= 0.9 * blocks * block_rows * matrix.shape[0] / (groups * block_rows):
            return block_rows
    return 1
