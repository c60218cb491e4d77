"""Storing the values of blocks in fewer bytes, where that loses nothing.

A weight is stored as float16, or as int8 with a scale for each row, exactly if every value of it is such a
number already: a pass has rounded it (``block:values=int8``), or it was trained so. Nothing is rounded
here, so lowering stays what it is: the same numbers, packed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cpu.plan import Blocks

NARROW_ROWS = 8  # the block height that has kernels for narrow values
_LARGEST = 127


def narrow(blocks: Blocks) -> Blocks:
    """Return ``blocks`` with its values in the fewest bytes that hold them exactly.

    Examples
    --------
    >>> from sparsec.backends.cpu.pack import pack_blocks
    >>> steps = np.arange(-127, 128, dtype=np.float32).reshape(-1, 1) / 1024
    >>> narrow(pack_blocks(steps.repeat(255, axis=1).T, 8)).values.dtype
    dtype('int8')
    >>> narrow(pack_blocks(np.full((8, 1), 1 / 3, np.float32), 8)).values.dtype
    dtype('float32')
    """
    if blocks.block_rows != NARROW_ROWS or not len(blocks.values):
        return blocks
    if (found := _bytes(blocks)) is not None:
        values, scales = found
        return dataclasses.replace(blocks, values=values, scales=scales)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and differs
        half = blocks.values.astype(np.float16)
    if np.array_equal(half.astype(np.float32), blocks.values):
        return dataclasses.replace(blocks, values=half)
    return blocks


def _bytes(blocks: Blocks) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Return int8 values and the scales of all rows; None if the values are no such products.

    The largest value of a row is 127 steps: its scale is found by one division, and it is the right one
    if it is a float32 and all values are whole multiples of it.
    """
    starts = blocks.starts.astype(np.int64)
    counts = starts[1:] - starts[:-1]
    largest = np.zeros((len(counts), NARROW_ROWS))
    filled = counts > 0
    largest[filled] = np.maximum.reduceat(np.abs(blocks.values), starts[:-1][filled], axis=0)
    largest[largest == 0] = _LARGEST  # rows of zeros: any scale does
    scales = (largest / _LARGEST).astype(np.float32)
    if not np.array_equal(scales.astype(np.float64) * _LARGEST, largest):
        return None
    steps = blocks.values / np.repeat(scales, counts, axis=0).astype(np.float64)
    if not np.array_equal(steps, np.rint(steps)):
        return None
    return steps.astype(np.int8), scales.reshape(-1)
