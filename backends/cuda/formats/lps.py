"""The packed format ``lps`` (lane-private scatter): any sparsity, 16-bit values.

A tile is 64 rows x 64 columns. Its dense image in shared memory is 64 words of each of 32 lanes, word w of
lane l at byte ``(32 w + l) * 4``: the order in which ``ldmatrix`` hands out fragments of ``mma.m16n8k16``,
and at the same time lane l writes to bank l only. Every lane has two lists of entries, one for the low
halves of its words and one for the high halves, ascending, each entry a value and the gap to the one before.

::

    chunks    int32 [C, 160]   4 entries of both lists of every lane: 32 x 4 words (low half: low list),
                               then 32 words of nibbles: byte j is gap - 1 of low entry j, and of high entry j
    tiles     int32 [R * T + 1, 2]   first chunk and first overflow entry of each tile, row of tiles by row
    overflow  int32 [V]        value | place << 16, place = (32 w + l) * 2 + half: entries of full lists

All lists of a tile are equally long; what does not fit overflows, what is short is filled with entries
on zeros. ``docs/formats/lps.md`` specifies the format and holds its measured sizes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cuda.nm24 import DTYPES, numpy_dtype
from sparsec.ir.errors import PatternError, ShapeError

ROWS, STEP = 64, 64
WORDS = 64  # of a lane in a tile
CHUNK_WORDS = 160
_LANES = 32
_LONGEST_GAP = 16
_HALVES = ROWS * STEP  # in a tile
_CHUNK_ENTRIES = 4  # of one list
_OVERFLOW_BYTES, _ENTRY_BYTES = 4, 2.5
_BATCH = 512  # tiles packed at a time: bounds the memory in use


@dataclasses.dataclass(frozen=True, slots=True)
class LpsMatrix:
    """A sparse matrix in the storage described at the top of this module.

    Parameters
    ----------
    chunks, tiles, overflow : int32
    rows, columns : int
        M and K, without padding.
    dtype : str
        ``"float16"`` or ``"bfloat16"``.
    """

    chunks: NDArray[np.int32]
    tiles: NDArray[np.int32]
    overflow: NDArray[np.int32]
    rows: int
    columns: int
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        """``(M, K)``, zeros included and padding not."""
        return self.rows, self.columns

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return self.chunks.nbytes + self.tiles.nbytes + self.overflow.nbytes

    @classmethod
    def pack(cls, dense: NDArray[Any]) -> LpsMatrix:
        """Pack any matrix of 16-bit floats.

        Parameters
        ----------
        dense : float16 or bfloat16 [M, K]
            NaN and Inf count as non-zeros and are kept; -0.0 counts as zero and comes back as +0.0.

        Raises
        ------
        ShapeError
            If the matrix is empty, has another type, or more tiles than 32 bits can number.

        Examples
        --------
        >>> packed = LpsMatrix.pack(np.eye(64, dtype=np.float16))
        >>> packed.chunks.shape, packed.tiles.tolist()
        ((0, 160), [[0, 0], [0, 64]])
        """
        if dense.ndim != 2 or dense.dtype.name not in DTYPES or not dense.size:
            raise ShapeError(
                f"lps packs a float16 or bfloat16 matrix, got {dense.dtype} {list(dense.shape)}"
            )
        rows, columns = dense.shape
        bits = np.where(dense != 0, np.ascontiguousarray(dense).view(np.uint16), 0).astype(np.uint16)
        tiles_down, tiles_across = tile_grid(rows, columns)
        chunks: list[NDArray[np.uint32]] = []
        overflow: list[NDArray[np.uint32]] = []
        bounds = np.zeros((tiles_down * tiles_across + 1, 2), dtype=np.int64)
        at = 1
        for down in range(tiles_down):
            strip = np.zeros((ROWS, tiles_across * STEP), dtype=np.uint16)
            part = bits[down * ROWS : (down + 1) * ROWS]
            strip[: part.shape[0], :columns] = part
            for start in range(0, tiles_across, _BATCH):
                images = _to_lists(strip[:, start * STEP : (start + _BATCH) * STEP])
                words, over, sizes = _pack_lists(images)
                chunks.append(words)
                overflow.append(over)
                bounds[at : at + len(sizes)] = sizes
                at += len(sizes)
        bounds = bounds.cumsum(axis=0)
        if bounds[-1].max() > np.iinfo(np.int32).max:
            raise ShapeError(f"lps: {rows}x{columns} holds more entries than 32 bits can number")
        return cls(
            np.concatenate(chunks).view(np.int32),
            bounds.astype(np.int32),
            np.concatenate(overflow).view(np.int32),
            rows,
            columns,
            dense.dtype.name,
        )

    def check(self, where: str = "") -> None:
        """Accept only what the kernel can read without leaving its memory.

        Raises
        ------
        ShapeError
            If the arrays disagree with M, K or each other.
        PatternError
            If a list leaves its lane's words, two entries claim one place, or padding holds a value.
        """
        prefix = f"{where}: " if where else ""
        tiles = np.prod(tile_grid(max(self.rows, 1), max(self.columns, 1)))
        fits = (
            min(self.rows, self.columns) >= 1
            and self.dtype in DTYPES
            and all(a.dtype == np.int32 for a in (self.chunks, self.tiles, self.overflow))
            and self.chunks.ndim == 2
            and self.chunks.shape[1] == CHUNK_WORDS
            and self.tiles.shape == (tiles + 1, 2)
            and self.overflow.ndim == 1
        )
        if not fits:
            raise ShapeError(
                f"{prefix}lps of {self.rows}x{self.columns} {self.dtype} needs chunks int32 "
                f"[C, {CHUNK_WORDS}], tiles int32 [{tiles + 1}, 2] and overflow int32 [V], got "
                f"{list(self.chunks.shape)}, {list(self.tiles.shape)}, {list(self.overflow.shape)}",
                where=where,
            )
        steps = np.diff(self.tiles.astype(np.int64), axis=0)
        ends = (len(self.chunks), len(self.overflow))
        if (steps < 0).any() or self.tiles[0].any() or tuple(self.tiles[-1].tolist()) != ends:
            raise PatternError(f"{prefix}the tiles do not partition {ends[0]} chunks", where=where)
        if steps[:, 0].max(initial=0) > WORDS // _CHUNK_ENTRIES:
            raise PatternError(f"{prefix}a tile holds more chunks than places", where=where)
        self._images(prefix, where)

    def unpack(self) -> NDArray[Any]:
        """Return the dense matrix, in ``dtype`` [M, K]; checks first."""
        self.check()
        images = self._images("", "")
        down, across = tile_grid(self.rows, self.columns)
        dense = _from_image(images).reshape(down, across, ROWS, STEP).transpose(0, 2, 1, 3)
        dense = dense.reshape(down * ROWS, across * STEP)[: self.rows, : self.columns]
        return np.ascontiguousarray(dense).view(numpy_dtype(self.dtype))

    def _images(self, prefix: str, where: str) -> NDArray[np.uint16]:
        """Return what a scatter writes: [tiles, 4096] halves in the order of shared memory."""
        counts = np.diff(self.tiles, axis=0)
        words = self.chunks.view(np.uint32)
        tile_of = np.repeat(np.arange(len(counts)), counts[:, 0])
        values = np.stack(
            [
                words[:, :128].reshape(-1, _LANES, 4) & 0xFFFF,
                words[:, :128].reshape(-1, _LANES, 4) >> np.uint32(16),
            ],
            axis=2,
        )  # [C, lane, half, entry]
        gaps = words[:, 128:].view(np.uint8).reshape(-1, _LANES, 4)
        gaps = np.stack([gaps & 15, gaps >> 4], axis=2).astype(np.int64) + 1
        within = gaps.cumsum(axis=3)
        before = within[..., -1].cumsum(axis=0) - within[..., -1]
        # before counts from the first chunk of the matrix: take off what earlier tiles contributed.
        firsts = np.minimum(self.tiles[:-1, 0], max(len(words) - 1, 0))
        if len(words):
            before = before - before[firsts][tile_of]
        place = within + before[..., None] - 1
        if (place >= WORDS).any():
            chunk = int(np.argwhere(place >= WORDS)[0, 0])
            raise PatternError(f"{prefix}chunk {chunk}: a list leaves its tile", where=where)
        half = np.arange(2)[:, None]
        at = (place * _LANES + np.arange(_LANES)[:, None, None]) * 2 + half
        flat = (tile_of[:, None, None, None] * _HALVES + at).reshape(-1)
        over = self.overflow.view(np.uint32)
        over_place = (over >> np.uint32(16)).astype(np.int64)
        if (over_place >= _HALVES).any():
            raise PatternError(f"{prefix}an overflow entry leaves its tile", where=where)
        over_flat = np.repeat(np.arange(len(counts)), counts[:, 1]) * _HALVES + over_place
        everything = np.concatenate([flat, over_flat])
        taken = np.bincount(everything, minlength=len(counts) * _HALVES)
        if taken.max(initial=0) > 1:
            tile = int(taken.argmax()) // _HALVES
            raise PatternError(f"{prefix}tile {tile}: two entries for one place", where=where)
        image = np.zeros(len(counts) * _HALVES, dtype=np.uint16)
        image[flat] = values.reshape(-1)
        image[over_flat] = over & 0xFFFF
        image = image.reshape(len(counts), _HALVES)
        self._check_padding(image, prefix, where)
        return image

    def _check_padding(self, image: NDArray[np.uint16], prefix: str, where: str) -> None:
        down, across = tile_grid(self.rows, self.columns)
        grid = image.reshape(down, across, _HALVES)
        last_row = _from_image(grid[-1])[:, self.rows - (down - 1) * ROWS :]
        last_column = _from_image(grid[:, -1])[:, :, self.columns - (across - 1) * STEP :]
        if last_row.any() or last_column.any():
            raise PatternError(f"{prefix}padding holds values", where=where)


def tile_grid(rows: int, columns: int) -> tuple[int, int]:
    """Return how many tiles stand below and beside each other."""
    return -(-rows // ROWS), -(-columns // STEP)


# Axes of a tile as rows (strip i, upper or lower half h, row g) x columns (pair b, lane t, step s, half h2, j),
# and as its image: words (b, s, i, r = 2 h2 + h), lanes (g, t), halves j.
_AS_ROWS = (4, 2, 8, 2, 4, 2, 2, 2)
_TO_IMAGE = (3, 5, 0, 6, 1, 2, 4, 7)
_AS_IMAGE = (2, 2, 4, 2, 2, 8, 4, 2)
_FROM_IMAGE = tuple(int(i) for i in np.argsort(_TO_IMAGE))


def _to_lists(strip: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return [tiles, lane, half, word] of 64 rows."""
    count = strip.shape[1] // STEP
    tiles = strip.reshape(ROWS, count, STEP).swapaxes(0, 1).reshape(count, *_AS_ROWS)
    image = tiles.transpose(0, *(1 + axis for axis in _TO_IMAGE)).reshape(count, WORDS, _LANES, 2)
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


def _from_image(image: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return tiles [n, 64, 64] of images [n, 4096]."""
    tiles = image.reshape(-1, *_AS_IMAGE).transpose(0, *(1 + axis for axis in _FROM_IMAGE))
    return tiles.reshape(-1, ROWS, STEP)


def _pack_lists(
    lists: NDArray[np.uint16],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
    """Return chunks, overflow and, for each tile, how many of either; lists [tiles, 32, 2, 64]."""
    count = len(lists)
    kept = lists != 0
    entries = _with_fillers(kept.reshape(-1, WORDS)).reshape(kept.shape)
    lengths = _lengths(entries.sum(axis=-1).reshape(count, -1))
    rank = entries.cumsum(axis=-1)
    length = lengths[:, None, None, None]
    listed = entries & (rank <= length)
    over_tile, over_lane, over_half, over_word = np.nonzero(kept & ~listed)
    place = (over_word * _LANES + over_lane) * 2 + over_half
    value = lists[over_tile, over_lane, over_half, over_word]
    overflow = value.astype(np.uint32) | place.astype(np.uint32) << np.uint32(16)

    # Short lists take zeros from their start: gaps only shrink, and no entry passes the last word.
    missing = length - listed.sum(axis=-1, keepdims=True)
    listed |= ~listed & ((~listed).cumsum(axis=-1) <= missing)
    sizes = np.stack([lengths // _CHUNK_ENTRIES, np.bincount(over_tile, minlength=count)], axis=1)
    chunks = np.empty((int(sizes[:, 0].sum()), CHUNK_WORDS), dtype=np.uint32)
    ends = sizes[:, 0].cumsum()
    for size in np.unique(lengths):
        which = np.flatnonzero(lengths == size)
        if not size:
            continue
        words = np.nonzero(listed[which])[-1].reshape(len(which), _LANES, 2, size)
        halves = np.take_along_axis(lists[which], words, axis=-1).astype(np.uint32)
        gaps = np.diff(words, axis=-1, prepend=-1) - 1
        per_chunk = (len(which), _LANES, 2, size // _CHUNK_ENTRIES, _CHUNK_ENTRIES)
        halves, gaps = halves.reshape(per_chunk), gaps.astype(np.uint8).reshape(per_chunk)
        joined = halves[:, :, 0] | halves[:, :, 1] << np.uint32(16)
        nibbles = np.ascontiguousarray(gaps[:, :, 0] | gaps[:, :, 1] << np.uint8(4)).view("<u4")
        block = np.concatenate(
            [
                joined.transpose(0, 2, 1, 3).reshape(len(which), -1, 128),
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


def _lengths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the length of each tile's lists that takes the fewest bytes; counts [tiles, 64]."""
    options = np.arange(0, WORDS + 1, _CHUNK_ENTRIES)
    over = np.stack([np.maximum(counts - each, 0).sum(axis=1) for each in options])
    size = _ENTRY_BYTES * counts.shape[1] * options[:, None] + _OVERFLOW_BYTES * over
    best: NDArray[np.int64] = options[size.argmin(axis=0)]
    return best
