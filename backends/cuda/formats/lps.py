"""The packed format ``lps`` (lane-private scatter): any sparsity.

A tile is 64 rows x 64 columns. Its dense image in shared memory is 64 words of each of 32 lanes, word w of
lane l at byte ``(32 w + l) * 4``: the order in which ``ldmatrix`` hands out fragments of ``mma.m16n8k16``,
and at the same time lane l writes to bank l only. Every lane has two lists of entries, one for the low
halves of its words and one for the high halves, ascending, each entry a value and the gap to the one before.

::

    chunks    int32 [C, 160]   4 entries of both lists of every lane: 32 x 4 words (low half: low list),
                               then 32 words of nibbles: byte j is gap - 1 of low entry j, and of high entry j
              int32 [C, 96]    of 8-bit values: 32 x 2 words, low and high entries by turns
    tiles     int32 [R * T + 1, 2]   first chunk and first overflow entry of each tile, row of tiles by row
    overflow  int32 [V]        value | byte << 16, byte = (32 w + l) * 4 + 2 * half: entries of full lists

All lists of a tile are equally long; what does not fit overflows, what is short is filled with entries
on zeros. ``docs/formats/lps.md`` specifies the format and holds its measured sizes.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cuda.formats.base import Arrays, Format
from sparsec.backends.cuda.formats.values import bits_dtype, is_scaled, value_bytes
from sparsec.ir.errors import ShapeError

ROWS, STEP = 64, 64
WORDS = 64  # of a lane in a tile
_LANES = 32
_LONGEST_GAP = 16
_HALVES = ROWS * STEP  # in a tile
_CHUNK_ENTRIES = 4  # of one list
_OVERFLOW_BYTES = 4
_GAP_BYTES = 0.5
_OVERFLOW_COST = 5  # in bytes of list entries: an overflow entry also takes more instructions
_SAMPLE = 8192  # lists
_BATCH = 512  # tiles packed at a time: bounds the memory in use


class Lps(Format):
    """Entries of any sparsity, ready to be scattered to shared memory by the lane that owns them."""

    name = "lps"
    pattern = "unstructured"
    arrays = ("chunks", "tiles", "overflow")
    scales_by_group = False

    def expected_bytes(self, shape: tuple[int, int], sparsity: float, values: str) -> float:
        """Return the bytes at uniformly random zeros."""
        size = value_bytes(values)
        length, over = expected_lists(sparsity, size)
        tiles = math.prod(tile_grid(*shape))
        filled = shape[0] * shape[1] / (tiles * ROWS * STEP)
        each = (size + _GAP_BYTES) * length + _OVERFLOW_BYTES * over
        scale = 4 * shape[0] if is_scaled(values) else 0
        return tiles * (2 * _LANES * each * filled + 8) + 8 + scale

    def pack_bits(self, bits: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Pack uint16 or uint8 [M, K], any zeros.

        Raises
        ------
        ShapeError
            If the matrix has more entries than the kernel can address.
        """
        rows, columns = bits.shape
        tiles_down, tiles_across = tile_grid(rows, columns)
        chunks: list[NDArray[np.uint32]] = []
        overflow: list[NDArray[np.uint32]] = []
        bounds = np.zeros((tiles_down * tiles_across + 1, 2), dtype=np.int64)
        at = 1
        for down in range(tiles_down):
            strip = np.zeros((ROWS, tiles_across * STEP), dtype=bits.dtype)
            part = bits[down * ROWS : (down + 1) * ROWS]
            strip[: part.shape[0], :columns] = part
            for start in range(0, tiles_across, _BATCH):
                lists = _to_lists(strip[:, start * STEP : (start + _BATCH) * STEP])
                words, over, sizes = _pack_lists(lists)
                chunks.append(words)
                overflow.append(over)
                bounds[at : at + len(sizes)] = sizes
                at += len(sizes)
        bounds = bounds.cumsum(axis=0)
        if max(int(bounds[-1, 0]) * chunk_words(bits.itemsize), int(bounds[-1, 1])) * 4 >= 2**32:
            raise ShapeError(
                f"lps: {rows}x{columns} takes more than the 4 GiB that kernels address"
            )
        return {
            "chunks": np.concatenate(chunks).view(np.int32),
            "tiles": bounds.astype(np.int32),
            "overflow": np.concatenate(overflow).view(np.int32),
        }

    def unpack_bits(self, arrays: Arrays, shape: tuple[int, int], values: str) -> NDArray[Any]:
        """Return uint16 or uint8 [M, K]."""
        down, across = tile_grid(*shape)
        tiles = _from_image(self._images(arrays, values, "")).reshape(down, across, ROWS, STEP)
        dense = tiles.transpose(0, 2, 1, 3).reshape(down * ROWS, across * STEP)
        return np.ascontiguousarray(dense[: shape[0], : shape[1]])

    def check_bits(self, arrays: Arrays, shape: tuple[int, int], values: str, where: str) -> None:
        """Check that no entry leaves its tile, none claims another's place, and padding is zero."""
        down, across = tile_grid(*shape)
        bounds = self.require(arrays, "tiles", np.int32, (down * across + 1, 2), where)
        chunks, overflow = arrays["chunks"], arrays["overflow"]
        self.require(
            arrays, "chunks", np.int32, (len(chunks), chunk_words(value_bytes(values))), where
        )
        self.require(arrays, "overflow", np.int32, (len(overflow),), where)
        steps = np.diff(bounds.astype(np.int64), axis=0)
        ends = [len(chunks), len(overflow)]
        if (steps < 0).any() or bounds[0].any() or bounds[-1].tolist() != ends:
            raise self.refuse(f"the tiles do not partition {ends[0]} chunks", where)
        image = self._images(arrays, values, where).reshape(down, across, _HALVES)
        below = _from_image(image[-1])[:, shape[0] - (down - 1) * ROWS :]
        beside = _from_image(image[:, -1])[:, :, shape[1] - (across - 1) * STEP :]
        if below.any() or beside.any():
            raise self.refuse("padding holds values", where)

    def _images(self, arrays: Arrays, values: str, where: str) -> NDArray[Any]:
        """Return what a scatter writes: [tiles, 4096] values in the order of shared memory."""
        dtype = bits_dtype(values)
        bounds, words = arrays["tiles"], arrays["chunks"].view(np.uint32)
        counts = np.diff(bounds, axis=0)
        tile_of = np.repeat(np.arange(len(counts)), counts[:, 0])
        stored = np.ascontiguousarray(words[:, :-_LANES]).view(dtype)
        kept = stored.reshape(-1, _LANES, _CHUNK_ENTRIES, 2).swapaxes(2, 3)  # [C, lane, half, j]
        nibbles = np.ascontiguousarray(words[:, -_LANES:]).view(np.uint8)
        nibbles = nibbles.reshape(-1, _LANES, 4)
        gaps = np.stack([nibbles & 15, nibbles >> 4], axis=2).astype(np.int64) + 1
        within = gaps.cumsum(axis=3)
        before = within[..., -1].cumsum(axis=0) - within[..., -1]
        if len(words):  # take off what earlier tiles contributed
            first = np.minimum(bounds[:-1, 0], len(words) - 1)
            before = before - before[first][tile_of]
        word = within + before[..., None] - 1
        if (word >= WORDS).any():
            chunk = int(np.argwhere(word >= WORDS)[0, 0])
            raise self.refuse(f"chunk {chunk}: a list leaves its tile", where)
        lane, half = np.arange(_LANES)[:, None, None], np.arange(2)[:, None]
        place = tile_of[:, None, None, None] * _HALVES + (word * _LANES + lane) * 2 + half
        over = arrays["overflow"].view(np.uint32)
        byte = (over >> np.uint32(16)).astype(np.int64)
        if (byte >= 2 * _HALVES).any() or (byte % 2).any():
            raise self.refuse("an overflow entry leaves its tile", where)
        if (over & 0xFFFF > np.iinfo(dtype).max).any():
            raise self.refuse(f"an overflow entry holds more than {values}", where)
        over_place = np.repeat(np.arange(len(counts)), counts[:, 1]) * _HALVES + byte // 2
        everything = np.concatenate([place.reshape(-1), over_place])
        taken = np.bincount(everything, minlength=len(counts) * _HALVES)
        if taken.max(initial=0) > 1:
            tile = int(taken.argmax()) // _HALVES
            raise self.refuse(f"tile {tile}: two entries for one place", where)
        image = np.zeros(len(counts) * _HALVES, dtype=dtype)
        image[place.reshape(-1)] = kept.reshape(-1)
        image[over_place] = over & 0xFFFF
        return image.reshape(len(counts), _HALVES)


def chunk_words(size: int) -> int:
    """Return the words of a chunk of values of ``size`` bytes."""
    return _LANES * (2 * _CHUNK_ENTRIES * size // 4 + 1)


def tile_grid(rows: int, columns: int) -> tuple[int, int]:
    """Return how many tiles stand below and beside each other."""
    return -(-rows // ROWS), -(-columns // STEP)


# Axes of a tile as rows (strip i, half h, row g) x columns (pair b, lane t, step s, half h2, j),
# and as its image: words (b, s, i, r = 2 h2 + h), lanes (g, t), halves j.
_AS_ROWS = (4, 2, 8, 2, 4, 2, 2, 2)
_TO_IMAGE = (3, 5, 0, 6, 1, 2, 4, 7)
_AS_IMAGE = (2, 2, 4, 2, 2, 8, 4, 2)
_FROM_IMAGE = tuple(int(i) for i in np.argsort(_TO_IMAGE))


def _to_lists(strip: NDArray[Any]) -> NDArray[Any]:
    """Return [tiles, lane, half, word] of 64 rows."""
    count = strip.shape[1] // STEP
    tiles = strip.reshape(ROWS, count, STEP).swapaxes(0, 1).reshape(count, *_AS_ROWS)
    image = tiles.transpose(0, *(1 + axis for axis in _TO_IMAGE)).reshape(count, WORDS, _LANES, 2)
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


def _from_image(image: NDArray[Any]) -> NDArray[Any]:
    """Return tiles [n, 64, 64] of images [n, 4096]."""
    tiles = image.reshape(-1, *_AS_IMAGE).transpose(0, *(1 + axis for axis in _FROM_IMAGE))
    return tiles.reshape(-1, ROWS, STEP)


def _pack_lists(
    lists: NDArray[Any],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
    """Return chunks, overflow and, for each tile, how many of either; lists [tiles, 32, 2, 64]."""
    count = len(lists)
    kept = lists != 0
    entries = _with_fillers(kept.reshape(-1, WORDS)).reshape(kept.shape)
    lengths = _lengths(entries.sum(axis=-1).reshape(count, -1), lists.itemsize)
    rank = entries.cumsum(axis=-1)
    length = lengths[:, None, None, None]
    listed = entries & (rank <= length)
    over_tile, over_lane, over_half, over_word = np.nonzero(kept & ~listed)
    byte = (over_word * _LANES + over_lane) * 4 + 2 * over_half
    value = lists[over_tile, over_lane, over_half, over_word]
    overflow = value.astype(np.uint32) | byte.astype(np.uint32) << np.uint32(16)

    # Short lists take zeros from their start: gaps only shrink, and no entry passes the last word.
    missing = length - listed.sum(axis=-1, keepdims=True)
    listed |= ~listed & ((~listed).cumsum(axis=-1) <= missing)
    sizes = np.stack([lengths // _CHUNK_ENTRIES, np.bincount(over_tile, minlength=count)], axis=1)
    words_each = chunk_words(lists.itemsize)
    chunks = np.empty((int(sizes[:, 0].sum()), words_each), dtype=np.uint32)
    ends = sizes[:, 0].cumsum()
    for size in np.unique(lengths):
        which = np.flatnonzero(lengths == size)
        if not size:
            continue
        words = np.nonzero(listed[which])[-1].reshape(len(which), _LANES, 2, size)
        halves = np.take_along_axis(lists[which], words, axis=-1)
        gaps = np.diff(words, axis=-1, prepend=-1) - 1
        per_chunk = (len(which), _LANES, 2, size // _CHUNK_ENTRIES, _CHUNK_ENTRIES)
        halves, gaps = halves.reshape(per_chunk), gaps.astype(np.uint8).reshape(per_chunk)
        joined = np.stack([halves[:, :, 0], halves[:, :, 1]], axis=-1)
        nibbles = np.ascontiguousarray(gaps[:, :, 0] | gaps[:, :, 1] << np.uint8(4)).view("<u4")
        block = np.concatenate(
            [
                np.ascontiguousarray(joined.transpose(0, 2, 1, 3, 4))
                .reshape(len(which), per_chunk[3], -1)
                .view("<u4"),
                nibbles[..., 0].transpose(0, 2, 1),
            ],
            axis=-1,
        )
        rows = (ends - sizes[:, 0])[which][:, None] + np.arange(size // _CHUNK_ENTRIES)
        chunks[rows] = block
    return chunks, overflow, sizes


def _with_fillers(kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the entries [lists, 64]: the kept ones, and zeros that bridge gaps above 16."""
    entries = np.ascontiguousarray(kept.T)
    more = np.maximum.accumulate(entries[::-1], axis=0)[::-1]  # a kept one here or later
    last = np.full(entries.shape[1], -1)
    for word in range(WORDS):
        entries[word] |= (word - last == _LONGEST_GAP) & more[word]
        last[entries[word]] = word
    return entries.T


@functools.cache
def expected_lists(sparsity: float, size: int = 2) -> tuple[int, float]:
    """Return the length of a list, and how many entries overflow it, at uniformly random zeros.

    Values take ``size`` bytes. The answer comes from lists drawn at random: fillers and kept values
    depend on each other.

    Examples
    --------
    >>> length, over = expected_lists(0.7)
    >>> length, round(over, 1)
    (20, 1.1)
    """
    kept = np.random.default_rng(0).random((_SAMPLE, WORDS)) >= sparsity
    counts = _with_fillers(kept).sum(axis=1)
    options = range(0, WORDS + 1, _CHUNK_ENTRIES)
    over = [float(np.maximum(counts - each, 0).mean()) for each in options]
    entry = size + _GAP_BYTES
    sizes = [entry * n + _OVERFLOW_COST * o for n, o in zip(options, over, strict=True)]
    best = int(np.argmin(sizes))
    return options[best], over[best]


def _lengths(counts: NDArray[np.int64], value: int) -> NDArray[np.int64]:
    """Return the length of each tile's lists that costs least; counts [tiles, 64]."""
    options = np.arange(0, WORDS + 1, _CHUNK_ENTRIES)
    over = np.stack([np.maximum(counts - each, 0).sum(axis=1) for each in options])
    size = (value + _GAP_BYTES) * counts.shape[1] * options[:, None] + _OVERFLOW_COST * over
    best: NDArray[np.int64] = options[size.argmin(axis=0)]
    return best
