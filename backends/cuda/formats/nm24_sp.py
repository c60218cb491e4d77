"""The packed format ``nm24_sp``: a 2:4 matrix in the order in which sparse tensor cores take it.

::

    packed  int32 [S, T, 576]   S = ceil(M / 32) strips of 32 rows, T = ceil(K / 64) steps of 64 columns
            int32 [S, T, 320]   of 8-bit values

A block of 576 words is a strip x a step. First the kept values: for each half of the rows and each half of
the columns, 32 lanes x 4 words. Then 32 lanes x 2 words of metadata, one for each half of the rows. What a
lane reads are its operands of ``mma.sp.m16n8k32`` as they stand: 1.125 bytes an element, nothing to decode.
8-bit values stand in the same order; a lane has those of both halves of the columns beside each other.
``docs/formats/nm24_sp.md`` specifies it. Fragments after the PTX ISA, section "Matrix fragments for sparse
mma.m16n8k32".
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cuda.formats.base import Arrays, Format
from sparsec.backends.cuda.formats.nm24 import _POSITIONS, NM24, _split_nibbles
from sparsec.backends.cuda.formats.values import bits_dtype, is_scaled, value_bytes

STRIP = 32
STEP = 64
_META_WORDS = 64
_SHIFTS = 16 * np.arange(2, dtype=np.uint32)[:, None] + 4 * np.arange(4, dtype=np.uint32)


class Fragments(Format):
    """So many values of every four columns, in blocks of a strip x a step, for ``mma.sp``."""

    kept: ClassVar[int]
    arrays = ("packed",)
    scales_by_group = False

    def expected_bytes(self, shape: tuple[int, int], sparsity: float, values: str) -> float:
        """Return the bytes of the array, which do not depend on the zeros."""
        strips, steps, words = self.blocks(shape, value_bytes(values))
        return 4.0 * strips * steps * words + (4.0 * shape[0] if is_scaled(values) else 0)

    def array_shapes(
        self, shape: tuple[int, int], values: str
    ) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """Return type and shape of the array."""
        return {"packed": ("int32", self.blocks(shape, value_bytes(values)))}

    def blocks(self, shape: tuple[int, int], size: int) -> tuple[int, int, int]:
        """Return the shape of ``packed`` [S, T, words] for W [M, K] of values of ``size`` bytes."""
        words = self.kept * (STRIP * STEP // 16 * size + 32)
        return -(-shape[0] // STRIP), -(-shape[1] // STEP), words


class NM24Sp(Fragments):
    """Two values in every four columns of a row, as fragments of ``mma.sp``."""

    name = "nm24_sp"
    pattern = "2:4"
    kept = 2

    def pack_bits(self, bits: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Pack uint16 or uint8 [M, K] that follows the pattern; see the top of this module."""
        flat = NM24().pack_bits(bits.astype(np.uint16))
        size = bits.itemsize
        strips, steps, words = self.blocks(bits.shape, size)
        values = np.zeros((strips * STRIP, steps * STEP // 4), dtype=np.uint32)
        values[: len(bits), : flat["vals"].shape[1]] = flat["vals"].view(np.uint32)
        pairs = np.full(values.shape, 0b0100, dtype=np.uint32)  # columns 0 and 1
        first, second = np.moveaxis(
            _POSITIONS[_split_nibbles(flat["meta"])].astype(np.uint32), -1, 0
        )
        pairs[: len(bits), : first.shape[1]] = first | second << np.uint32(2)

        packed = np.empty((strips, steps, words), dtype=np.uint32)
        # Axes: strip, half i, upper or lower 8 rows h, row g, step, half q, groups 0-3 or 4-7 u, group t.
        split = values.reshape(strips, 2, 2, 8, steps, 2, 2, 4).transpose(_TO_LANES[size])
        kept = np.stack([split & 0xFFFF, split >> np.uint32(16)], axis=-1).astype(bits.dtype)
        packed[..., :-_META_WORDS] = kept.reshape(strips, steps, -1).view("<u4")
        nibbles = pairs.reshape(strips, 2, 2, 8, steps, 2, 2, 4)
        parts = (
            nibbles.transpose(0, 4, 3, 5, 6, 1, 2, 7) << _SHIFTS
        )  # lane (g, q, u), half i, bits (h, t)
        joined = np.bitwise_or.reduce(parts.reshape(strips, steps, _META_WORDS, 8), axis=-1)
        packed[..., -_META_WORDS:] = joined
        return {"packed": packed.view(np.int32)}

    def unpack_bits(self, arrays: Arrays, shape: tuple[int, int], values: str) -> NDArray[Any]:
        """Return uint16 or uint8 [M, K]."""
        kept, pairs = _rows(arrays["packed"], bits_dtype(values))
        dense = np.zeros((*pairs.shape, 4), dtype=kept.dtype)
        places = np.stack([pairs & 3, pairs >> np.uint32(2)], axis=-1)
        np.put_along_axis(dense, places.astype(np.int64), kept, axis=-1)
        return np.ascontiguousarray(dense.reshape(len(kept), -1)[: shape[0], : shape[1]])

    def check_bits(self, arrays: Arrays, shape: tuple[int, int], values: str, where: str) -> None:
        """Check that every pair of columns ascends, as the instruction needs, and padding is zero."""
        blocks = self.blocks(shape, value_bytes(values))
        packed = self.require(arrays, "packed", np.int32, blocks, where)
        kept, pairs = _rows(packed, bits_dtype(values))
        wrong = np.argwhere((pairs & 3) >= pairs >> np.uint32(2))
        if wrong.size:
            row, group = (int(i) for i in wrong[0])
            raise self.refuse(f"row {row}, group {group}: the kept columns do not ascend", where)
        if kept[shape[0] :].any() or kept[:, -(-shape[1] // 4) :].any():
            raise self.refuse("padding holds values", where)


# From rows to lanes: words of lane (g, t) by (u, h), with q before the lane or behind it.
_TO_LANES = {2: (0, 4, 1, 5, 3, 7, 6, 2), 1: (0, 4, 1, 3, 7, 5, 6, 2)}
_AS_LANES = {2: (2, 2, 8, 4, 2, 2), 1: (2, 8, 4, 2, 2, 2)}


def _rows(
    packed: NDArray[np.int32], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    """Return kept values [32 S, 16 T, 2] and pairs of column indices [32 S, 16 T]."""
    words = packed.view(np.uint32)
    strips, steps, _ = words.shape
    size = dtype.itemsize
    values = np.ascontiguousarray(words[..., :-_META_WORDS]).view(dtype)
    split = values.reshape(strips, steps, *_AS_LANES[size], 2)
    back = np.argsort(_TO_LANES[size])
    kept = split.transpose(*(int(axis) for axis in back), 8).reshape(strips * STRIP, steps * 16, 2)
    meta = words[..., -_META_WORDS:].reshape(
        strips, steps, 8, 2, 2, 2, 1, 1
    ) >> _SHIFTS & np.uint32(15)
    pairs = meta.transpose(0, 5, 6, 2, 1, 3, 4, 7).reshape(strips * STRIP, steps * 16)
    return kept, pairs
