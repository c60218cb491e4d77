"""The packed format ``nm14_sp``: a 1:4 matrix in the order in which sparse tensor cores take 2:4.

::

    packed  int32 [S, T, 288]   S = ceil(M / 32) strips of 32 rows, T = ceil(K / 64) steps of 64 columns
            int32 [S, T, 160]   of 8-bit values

A block is a strip x a step: first the kept values, those of a lane side by side, then one word of places for
each of 32 lanes. 0.5625 bytes an element, 0.3125 of 8-bit values. Tensor cores multiply two values of every
four; a lane puts a zero beside the one that is stored, before or behind it as the upper bit of its place
says, and makes the metadata of the lower bit. ``docs/formats/nm14_sp.md`` specifies it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cuda.formats.base import Arrays
from sparsec.backends.cuda.formats.nm import NMFormat, _split
from sparsec.backends.cuda.formats.nm24_sp import STEP, STRIP, Fragments
from sparsec.backends.cuda.formats.values import bits_dtype, value_bytes
from sparsec.ir.errors import ShapeError

_PLACE_WORDS = 32
# Axes of the values of a strip as rows hold them: half i of the rows, lower or upper 8 of it h, row g; step,
# half q of its columns, groups 0-3 or 4-7 u, group t.
_SPLIT = (2, 2, 8, 2, 2, 4)
# From [strip, i, h, g, step, q, u, t] to strip, step, then what lies behind each other.
_TO_LANES = {2: (0, 4, 1, 3, 7, 5, 6, 2), 1: (0, 4, 3, 7, 1, 5, 6, 2)}
_AS_LANES = {2: (2, 8, 4, 2, 2, 2), 1: (8, 4, 2, 2, 2, 2)}
_LOWER = (0, 4, 3, 5, 6, 1, 2, 7)  # lane (g, q, u), bits (h, t) of i
_UPPER = (0, 4, 3, 7, 1, 5, 6, 2)  # lane (g, t), bits (i, q, u, h)
_LOWER_BITS = np.arange(2)[:, None, None] + 16 * np.arange(2)[:, None] + 4 * np.arange(4)
_UPPER_BITS = 2 + np.add.outer(np.array([0, 1, 4, 5, 8, 9, 12, 13]).reshape(2, 2, 2), [0, 16])


class NM14Sp(Fragments):
    """One value in every four columns of a row, for ``mma.sp``."""

    name = "nm14_sp"
    pattern = "1:4"
    kept = 1

    def pack_bits(self, bits: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Pack uint16 or uint8 [M, K] that follows the pattern; see the top of this module."""
        (rows, columns), size = bits.shape, bits.itemsize
        if columns % 4:
            raise ShapeError(f"{self.name} needs a multiple of 4 columns, got {rows}x{columns}")
        flat = NMFormat(1, 4).pack_bits(bits)
        strips, steps, words = self.blocks(bits.shape, size)
        shape = (strips, *_SPLIT[:3], steps, *_SPLIT[3:])
        values = np.zeros((strips * STRIP, steps * STEP // 4), bits.dtype)
        values[:rows] = flat["vals"].view(bits.dtype)
        places = np.zeros(values.shape, np.uint32)
        places[:rows] = _split(flat["meta"], 2)

        one = np.uint32(1)
        packed = np.empty((strips, steps, words), dtype=np.uint32)
        kept = np.ascontiguousarray(values.reshape(shape).transpose(_TO_LANES[size]))
        packed[..., :-_PLACE_WORDS] = kept.reshape(strips, steps, -1).view("<u4")
        lower, upper = (part.reshape(shape) for part in (places & one, places >> one))
        packed[..., -_PLACE_WORDS:] = _joined(lower.transpose(_LOWER), _LOWER_BITS) | _joined(
            upper.transpose(_UPPER), _UPPER_BITS
        )
        return {"packed": packed.view(np.int32)}

    def unpack_bits(self, arrays: Arrays, shape: tuple[int, int], values: str) -> NDArray[Any]:
        """Return uint16 or uint8 [M, K]."""
        kept, places = _rows(arrays["packed"], bits_dtype(values))
        dense = np.zeros((*kept.shape, 4), dtype=kept.dtype)
        np.put_along_axis(dense, places[..., None], kept[..., None], axis=-1)
        return np.ascontiguousarray(dense.reshape(len(kept), -1)[: shape[0], : shape[1]])

    def check_bits(self, arrays: Arrays, shape: tuple[int, int], values: str, where: str) -> None:
        """Check the shape and that padding is zero; every place is a legal one."""
        if shape[1] % 4:
            raise ShapeError(f"{self.name} needs a multiple of 4 columns, got {shape}", where=where)
        blocks = self.blocks(shape, value_bytes(values))
        packed = self.require(arrays, "packed", np.int32, blocks, where)
        kept, _ = _rows(packed, bits_dtype(values))
        if kept[shape[0] :].any() or kept[:, shape[1] // 4 :].any():
            raise self.refuse("padding holds values", where)


def _joined(bits: NDArray[np.uint32], at: NDArray[np.intp]) -> NDArray[np.uint32]:
    """Return words [S, T, 32] of bits whose axes from the lane's on are those of ``at``."""
    strips, steps = bits.shape[:2]
    placed = bits.reshape(strips, steps, _PLACE_WORDS, *at.shape) << at.astype(np.uint32)
    words: NDArray[np.uint32] = np.bitwise_or.reduce(placed.reshape(*placed.shape[:3], -1), axis=-1)
    return words


def _rows(
    packed: NDArray[np.int32], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return kept values [32 S, 16 T] and their columns of four, of the same shape."""
    words = packed.view(np.uint32)
    strips, steps, _ = words.shape
    size = dtype.itemsize
    values = np.ascontiguousarray(words[..., :-_PLACE_WORDS]).view(dtype)
    split = values.reshape(strips, steps, *_AS_LANES[size])
    kept = split.transpose(np.argsort(_TO_LANES[size])).reshape(strips * STRIP, steps * 16)
    places = words[..., -_PLACE_WORDS:, None, None, None]
    lower = (places >> _LOWER_BITS.astype(np.uint32) & 1).reshape(strips, steps, 8, 2, 2, 2, 2, 4)
    upper = (places[..., None] >> _UPPER_BITS.astype(np.uint32) & 1).reshape(
        strips, steps, 8, 4, 2, 2, 2, 2
    )
    both = lower.transpose(np.argsort(_LOWER)) | upper.transpose(np.argsort(_UPPER)) << np.uint32(1)
    return kept, both.reshape(strips * STRIP, steps * 16).astype(np.int64)
