"""The packed format ``nm24_sp``: a 2:4 matrix in the order in which sparse tensor cores take it.

::

    packed  int32 [S, T, 288]   S = ceil(M / 16) strips of 16 rows, T = ceil(K / 64) steps of 64 columns

A block of 288 words is a strip x a step: twice 32 lanes x 4 words of kept values, one for each half of
the step, then 32 words of metadata. A lane reads 16 bytes, 16 bytes and 4 bytes, and they are its operands
of ``mma.sp.m16n8k32`` as they stand: 1.125 bytes an element, and nothing to decode.
``docs/formats/nm24_sp.md`` specifies it. Fragments after the PTX ISA, sections "Warp-level matrix
multiply-accumulate operation using sparse matrix A" and "Sparse matrix storage".
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cuda.nm24 import _POSITIONS, NM24Matrix, _split_nibbles, numpy_dtype
from sparsec.ir.errors import PatternError, ShapeError

STRIP = 16
STEP = 64
BLOCK_WORDS = 288
_VALUE_WORDS = 256
_DTYPES = ("float16", "bfloat16")


@dataclasses.dataclass(frozen=True, slots=True)
class NM24SpMatrix:
    """A 2:4 matrix in the storage described at the top of this module.

    Parameters
    ----------
    packed : int32 [S, T, 288], C-contiguous
    rows, columns : int
        M and K, without padding; K is a multiple of 4.
    dtype : str
        ``"float16"`` or ``"bfloat16"``.
    """

    packed: NDArray[np.int32]
    rows: int
    columns: int
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        """``(M, K)``, padding not included."""
        return self.rows, self.columns

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.packed.nbytes

    @classmethod
    def pack(cls, dense: NDArray[Any]) -> NM24SpMatrix:
        """Pack a matrix that already follows the pattern, as :meth:`NM24Matrix.pack` does.

        Parameters
        ----------
        dense : float16 or bfloat16 [M, K]

        Raises
        ------
        ShapeError, PatternError
            As :meth:`NM24Matrix.pack`.

        Examples
        --------
        >>> packed = NM24SpMatrix.pack(np.zeros((16, 64), dtype=np.float16))
        >>> packed.packed.shape, packed.nbytes / (16 * 64)
        ((1, 1, 288), 1.125)
        """
        flat = NM24Matrix.pack(dense)
        rows, columns = flat.shape
        strips, steps = -(-rows // STRIP), -(-columns // STEP)
        values = np.zeros((strips * STRIP, steps * 16), dtype=np.uint32)
        values[:rows, : flat.vals.shape[1]] = flat.vals.view(np.uint32)
        pairs = np.full((strips * STRIP, steps * 16), 0b0100, dtype=np.uint32)  # columns 0 and 1
        first, second = np.moveaxis(_POSITIONS[_split_nibbles(flat.meta)].astype(np.uint32), -1, 0)
        pairs[:rows, : first.shape[1]] = first | second << np.uint32(2)

        packed = np.empty((strips, steps, BLOCK_WORDS), dtype=np.uint32)
        # Axes: strip, upper or lower 8 rows, row g, step, half of the step, groups 0-3 or 4-7, group t.
        split = values.reshape(strips, 2, 8, steps, 2, 2, 4)
        packed[..., :_VALUE_WORDS] = split.transpose(0, 3, 4, 2, 6, 5, 1).reshape(strips, steps, -1)
        nibbles = pairs.reshape(strips, 2, 8, steps, 2, 2, 4)
        shifts = 16 * np.arange(2, dtype=np.uint32)[:, None] + 4 * np.arange(4, dtype=np.uint32)
        words = nibbles.transpose(0, 3, 2, 4, 5, 1, 6) << shifts
        meta = np.bitwise_or.reduce(words.reshape(strips, steps, 32, 8), axis=-1)
        packed[..., _VALUE_WORDS:] = meta
        return cls(packed.view(np.int32), rows, columns, flat.dtype)

    def check(self, where: str = "") -> None:
        """Accept only what the kernel can read.

        Raises
        ------
        ShapeError
            If the array does not fit M and K.
        PatternError
            If an index pair is not ascending, or padding holds a value.
        """
        prefix = f"{where}: " if where else ""
        expected = block_shape(self.rows, self.columns)
        if (
            self.packed.dtype != np.int32
            or self.packed.shape != expected
            or min(self.rows, self.columns) < 1
            or self.columns % 4
            or self.dtype not in _DTYPES
        ):
            raise ShapeError(
                f"{prefix}nm24_sp of {self.rows}x{self.columns} {self.dtype} needs a multiple of 4 "
                f"columns of {' or '.join(_DTYPES)} and int32 {list(expected)}, got "
                f"{self.packed.dtype} {list(self.packed.shape)}",
                where=where,
            )
        values, pairs = self._flat()
        wrong = np.argwhere(pairs & 3 >= pairs >> np.uint32(2))
        if wrong.size:
            row, group = (int(i) for i in wrong[0])
            raise PatternError(
                f"{prefix}row {row}, group {group}: the kept columns are not ascending", where=where
            )
        if values[self.rows :].any() or values[:, self.columns // 4 :].any():
            raise PatternError(f"{prefix}padding holds values", where=where)

    def unpack(self) -> NDArray[Any]:
        """Return the dense matrix, in ``dtype`` [M, K]; checks first."""
        self.check()
        values, pairs = self._flat()
        dense = np.zeros((*values.shape, 4), dtype=np.uint16)
        places = np.stack([pairs & 3, pairs >> np.uint32(2)], axis=-1)
        halves = np.stack([values & 0xFFFF, values >> np.uint32(16)], axis=-1)
        np.put_along_axis(dense, places.astype(np.int64), halves.astype(np.uint16), axis=-1)
        dense = dense.reshape(values.shape[0], -1)[: self.rows, : self.columns]
        return np.ascontiguousarray(dense).view(numpy_dtype(self.dtype))

    def _flat(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return pairs of values, and pairs of column indices, as [16 S, 16 T]."""
        words = self.packed.view(np.uint32)
        strips, steps, _ = words.shape
        split = words[..., :_VALUE_WORDS].reshape(strips, steps, 2, 8, 4, 2, 2)
        values = split.transpose(0, 6, 3, 1, 2, 5, 4).reshape(strips * STRIP, steps * 16)
        shifts = 16 * np.arange(2, dtype=np.uint32)[:, None] + 4 * np.arange(4, dtype=np.uint32)
        meta = words[..., _VALUE_WORDS:].reshape(strips, steps, 8, 2, 2, 1, 1) >> shifts & 15
        pairs = meta.transpose(0, 5, 2, 1, 3, 4, 6).reshape(strips * STRIP, steps * 16)
        return values, pairs


def block_shape(rows: int, columns: int) -> tuple[int, int, int]:
    """Return the shape of ``packed`` for a matrix of that size."""
    return -(-rows // STRIP), -(-columns // STEP), BLOCK_WORDS


def packed_bytes(rows: int, columns: int) -> int:
    """Return the bytes of a packed matrix.

    Examples
    --------
    >>> packed_bytes(4096, 4096) / 4096**2
    1.125
    """
    strips, steps, words = block_shape(rows, columns)
    return 4 * strips * steps * words
