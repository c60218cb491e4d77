"""The packed formats ``block8x1`` and ``block16x1``: whole pieces of columns, R rows high.

::

    vals   int16 or int8 [B, R]   R values of a kept block, from the top
    cols   int16 [B]              its column, as 16 unsigned bits
    start  int32 [MT + 1]         blocks before strip i of R rows; the last one is B

MT is M / R rounded up. The blocks of a strip ascend in their columns and are padded to a multiple
of 16 with blocks of zeros at column 0. A kernel multiplies the blocks of a strip by the rows of x
that they name: a dense product. ``docs/formats/block.md`` specifies the format.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cuda.formats.base import Arrays, Format
from sparsec.backends.cuda.formats.values import bits_dtype, value_bytes
from sparsec.ir.errors import ShapeError

PAD = 16  # blocks of a strip: one step of an MMA
MAX_COLUMNS = 1 << 16


class Blocks(Format):
    """Blocks of ``rows`` x 1, each kept or zero as a whole."""

    arrays = ("vals", "cols", "start")

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.pattern = f"block:{rows}x1"
        self.name = f"block{rows}x1"

    def expected_bytes(self, shape: tuple[int, int], sparsity: float, values: str) -> float:
        """Return the bytes if that share of the blocks is zero, evenly over the strips."""
        strips = -(-shape[0] // self.rows)
        v = value_bytes(values)
        kept = shape[1] * (1 - sparsity)
        blocks = strips * (kept + (PAD - 1) / 2 if kept else 0)  # on average, of random lengths
        scale = 4 * shape[0] if v == 1 else 0
        return blocks * (self.rows * v + 2) + 4 * (strips + 1) + scale

    def array_shapes(
        self, shape: tuple[int, int], values: str
    ) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """Return type and shape of every array but the scale."""
        return {
            "vals": (f"int{8 * value_bytes(values)}", (None, self.rows)),
            "cols": ("int16", (None,)),
            "start": ("int32", (self._strips(shape[0]) + 1,)),
        }

    def pack_bits(self, bits: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Pack [M, K]; see the top of this module."""
        rows, columns = bits.shape
        if columns > MAX_COLUMNS:
            raise ShapeError(f"{self.name} holds {MAX_COLUMNS} columns at most, got {columns}")
        strips = self._strips(rows)
        padded = np.zeros((strips * self.rows, columns), bits.dtype)
        padded[:rows] = bits
        cells = padded.reshape(strips, self.rows, columns)
        kept = (cells != 0).any(axis=1)
        count = kept.sum(axis=1, dtype=np.int64)
        start = np.concatenate([[0], np.cumsum(-(-count // PAD) * PAD)])
        strip, column = np.nonzero(kept)
        # The number of a block inside its strip, and from it its place among all.
        inside = np.arange(strip.size) - np.repeat(np.cumsum(count) - count, count)
        place = start[strip] + inside
        vals = np.zeros((int(start[-1]), self.rows), bits.dtype)
        vals[place] = cells[strip, :, column]
        cols = np.zeros(int(start[-1]), np.uint16)
        cols[place] = column
        return {
            "vals": vals.view(f"i{bits.dtype.itemsize}"),
            "cols": cols.view(np.int16),
            "start": start.astype(np.int32),
        }

    def unpack_bits(self, arrays: Arrays, shape: tuple[int, int], values: str) -> NDArray[Any]:
        """Return [M, K]."""
        rows, columns = shape
        strips = self._strips(rows)
        stored = arrays["vals"].view(bits_dtype(values))
        strip = np.repeat(np.arange(strips), np.diff(arrays["start"]))
        real = stored.any(axis=1)
        dense = np.zeros((strips, self.rows, columns), stored.dtype)
        dense[strip[real], :, arrays["cols"].view(np.uint16)[real]] = stored[real]
        return dense.reshape(-1, columns)[:rows]

    def check_bits(self, arrays: Arrays, shape: tuple[int, int], values: str, where: str) -> None:
        """Check shapes, that strips ascend in columns below K, and that padding is zero."""
        rows, columns = shape
        strips = self._strips(rows)
        start = self.require(arrays, "start", np.int32, (strips + 1,), where).astype(np.int64)
        if start[0] or (np.diff(start) < 0).any() or (start % PAD).any():
            raise self.refuse(f"start does not ascend from 0 in multiples of {PAD}", where)
        blocks = int(start[-1])
        dtype = np.dtype(f"i{value_bytes(values)}")
        vals = self.require(arrays, "vals", dtype, (blocks, self.rows), where)
        cols = self.require(arrays, "cols", np.int16, (blocks,), where).view(np.uint16)
        if (cols >= columns).any():
            raise self.refuse(f"a block is in column {int(cols.max())} of {columns}", where)
        real = vals.any(axis=1)
        strip = np.repeat(np.arange(strips), np.diff(start))
        key = strip[real] * columns + cols[real]
        if (np.diff(key) <= 0).any():
            raise self.refuse("the blocks of a strip do not ascend in their columns", where)
        if rows % self.rows and vals[start[-2] :, rows % self.rows :].any():
            raise self.refuse("padding rows hold values", where)

    def _strips(self, rows: int) -> int:
        return -(-rows // self.rows)
