"""The packed format ``bm32``: any matrix, one bit an element and the non-zeros behind it.

::

    bits  int32 [MT, KT, 64, 2]   a tile of 64x64; bit j of word w is column 32 * w + j of the row
    offs  int16 [MT, KT, 64, 2]   values of the tile before those of this word
    tile  int32 [MT * KT + 1]     values before the tile; the last one is their number
    vals  int16 or int8 [count]   row by row inside a tile, padded with zeros to a multiple of 16

MT and KT are M / 64 and K / 64 rounded up. 0.19 bytes an element and the values.
``docs/formats/bm32.md`` specifies it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cuda.formats.base import Arrays, Format
from sparsec.backends.cuda.formats.values import bits_dtype, value_bytes

TILE = 64
WORD = 32
PAD = 16  # values
_BYTES_A_WORD = 6  # of bits and offs


class Bitmap(Format):
    """Non-zeros anywhere."""

    name = "bm32"
    pattern = "unstructured"
    arrays = ("bits", "offs", "tile", "vals")

    def expected_bytes(self, shape: tuple[int, int], sparsity: float, values: str) -> float:
        """Return the bytes for that share of zeros, wherever they are."""
        rows, columns = shape
        down, across = _tiles(shape)
        tiles = down * across
        v = value_bytes(values)
        count = -(-round(rows * columns * (1 - sparsity)) // PAD) * PAD
        words = TILE * TILE // WORD
        return tiles * (words * _BYTES_A_WORD + 4) + 4 + count * v + (4 * rows if v == 1 else 0)

    def array_shapes(
        self, shape: tuple[int, int], values: str
    ) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """Return type and shape of every array but the scale."""
        down, across = _tiles(shape)
        words = (down, across, TILE, TILE // WORD)
        return {
            "bits": ("int32", words),
            "offs": ("int16", words),
            "tile": ("int32", (down * across + 1,)),
            "vals": (_signed(bits_dtype(values)).name, (None,)),
        }

    def pack_bits(self, bits: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Pack [M, K]; see the top of this module."""
        down, across = _tiles(bits.shape)
        padded = np.zeros((down * TILE, across * TILE), bits.dtype)
        padded[: bits.shape[0], : bits.shape[1]] = bits
        tiles = np.ascontiguousarray(padded.reshape(down, TILE, across, TILE).swapaxes(1, 2))
        kept = tiles != 0
        values = tiles[kept]
        vals = np.zeros(-(-values.size // PAD) * PAD, bits.dtype)
        vals[: values.size] = values
        packed = np.packbits(kept, axis=-1, bitorder="little").view("<i4").astype(np.int32)
        offs, tile = _starts(packed)
        return {"bits": packed, "offs": offs, "tile": tile, "vals": vals.view(_signed(vals.dtype))}

    def unpack_bits(self, arrays: Arrays, shape: tuple[int, int], values: str) -> NDArray[Any]:
        """Return [M, K]."""
        down, across = _tiles(shape)
        kept = _kept(arrays["bits"])
        tiles = np.zeros(kept.shape, bits_dtype(values))
        tiles[kept] = arrays["vals"].view(bits_dtype(values))[: arrays["tile"][-1]]
        dense = tiles.swapaxes(1, 2).reshape(down * TILE, across * TILE)
        return np.ascontiguousarray(dense[: shape[0], : shape[1]])

    def check_bits(self, arrays: Arrays, shape: tuple[int, int], values: str, where: str) -> None:
        """Check shapes, that the offsets count the bits, and that padding is zero."""
        down, across = _tiles(shape)
        words = (down, across, TILE, TILE // WORD)
        bits = self.require(arrays, "bits", np.int32, words, where)
        offs = self.require(arrays, "offs", np.int16, words, where)
        tile = self.require(arrays, "tile", np.int32, (down * across + 1,), where)
        wanted_offs, wanted_tile = _starts(bits)
        for name, got, wanted in (("offs", offs, wanted_offs), ("tile", tile, wanted_tile)):
            if not np.array_equal(got, wanted):
                raise self.refuse(f"{name} does not count the bits", where)
        count = int(tile[-1])
        padded = (-(-count // PAD) * PAD,)
        vals = self.require(arrays, "vals", _signed(bits_dtype(values)), padded, where)
        if vals[count:].any():
            raise self.refuse("values stand behind the last bit", where)
        kept = _kept(bits).swapaxes(1, 2).reshape(down * TILE, across * TILE)
        if kept[shape[0] :].any() or kept[:, shape[1] :].any():
            raise self.refuse("padding rows or columns hold values", where)


def _tiles(shape: tuple[int, ...]) -> tuple[int, int]:
    return -(-shape[0] // TILE), -(-shape[1] // TILE)


def _signed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"i{dtype.itemsize}")


def _kept(bits: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return bool [MT, KT, 64, 64]."""
    octets = np.ascontiguousarray(bits, "<i4").view(np.uint8)
    return np.unpackbits(octets, axis=-1, bitorder="little").view(bool)


def _starts(bits: NDArray[np.int32]) -> tuple[NDArray[np.int16], NDArray[np.int32]]:
    """Return ``offs`` and ``tile``, which follow from the bits."""
    count = np.bitwise_count(bits.view(np.uint32)).astype(np.int64)
    count = count.reshape(bits.shape[0] * bits.shape[1], -1)
    total = count.sum(axis=1)
    offs = (np.cumsum(count, axis=1) - count).astype(np.int16).reshape(bits.shape)
    return offs, np.concatenate([[0], np.cumsum(total)]).astype(np.int32)
