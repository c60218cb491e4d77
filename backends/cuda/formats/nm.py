"""The packed formats ``nm1_4``, ``nm2_4``, ``nm2_8``, ``nm4_8`` and ``nm8_16``: N values a group.

``nm2_4`` holds 8-bit values only; 2:4 of 16-bit values is ``nm24``.

::

    vals  int32 [M, KP * N / G * v / 4]   N values of v bytes a group of G columns, in their order
    meta  int32 [M, KP * b / 32]          a field of b bits a group, group 0 in the lowest bits

K is padded to KP, the next multiple of 64. The field says where the values go:

- 1:4: b = 2, the column of the value.
- 2:8: b = 8, the column of the first value in bits 0 to 2, of the second in bits 4 to 6. Three bits
  would do (0.03 bytes an element less), and cost the decoder more than they save on a fast GPU.
- 2:4, 4:8, 8:16: b = G, a mask with exactly N bits set.

The format is of fixed rate: no offsets, no load imbalance. ``docs/formats/nm.md`` specifies it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cuda.formats.base import Arrays, Format
from sparsec.backends.cuda.formats.values import FLOAT8, INT8, bits_dtype, value_bytes
from sparsec.ir.errors import PatternError, ShapeError

PAD = 64  # columns; the words of a row are whole and start on 16-byte borders
_FIELD_BITS = {(1, 4): 2, (2, 4): 4, (2, 8): 8, (4, 8): 8, (8, 16): 16}
_FIELD_TYPES = {2: np.uint8, 4: np.uint8, 8: np.uint8, 16: np.uint16}


class NMFormat(Format):
    """At most ``n`` values in every ``m`` columns of a row."""

    arrays = ("vals", "meta")

    def __init__(self, n: int, m: int) -> None:
        if (n, m) not in _FIELD_BITS:
            known = ", ".join(f"{a}:{b}" for a, b in _FIELD_BITS)
            raise ShapeError(f"no packed format for {n}:{m}; there are {known}")
        self.n, self.m = n, m
        self.field_bits = _FIELD_BITS[n, m]
        self.pattern = f"{n}:{m}"
        self.name = f"nm{n}_{m}"
        if (n, m) == (2, 4):
            self.values = (FLOAT8, INT8)

    def expected_bytes(self, shape: tuple[int, int], sparsity: float, values: str) -> float:
        """Return the bytes of the arrays, which do not depend on the zeros."""
        rows, padded = shape[0], padded_columns(shape[1])
        scale = 4 * rows if value_bytes(values) == 1 else 0
        value_part = padded * self.n * value_bytes(values) // self.m
        return rows * (value_part + padded * self.field_bits // self.m // 8) + scale

    def array_shapes(
        self, shape: tuple[int, int], values: str
    ) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """Return type and shape of every array but the scale."""
        rows, padded = shape[0], padded_columns(shape[1])
        words = padded * self.n * value_bytes(values) // self.m // 4
        return {
            "vals": ("int32", (rows, words)),
            "meta": ("int32", (rows, padded * self.field_bits // self.m // 32)),
        }

    def pack_bits(self, bits: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Pack [M, K]; see the top of this module."""
        rows, columns = bits.shape
        groups = np.zeros((rows, padded_columns(columns)), bits.dtype)
        groups[:, :columns] = bits
        groups = groups.reshape(rows, -1, self.m)
        kept = groups != 0
        count = kept.sum(axis=-1, dtype=np.uint8)
        if (full := np.argwhere(count > self.n)).size:
            row, group = (int(i) for i in full[0])
            raise PatternError(
                f"not {self.pattern}: row {row}, columns {self.m * group} to "
                f"{self.m * (group + 1) - 1} hold {int(count[row, group])} non-zeros; run the pass "
                f"nm:n={self.n},m={self.m} before packing"
            )
        # Non-zeros first, then the lowest zeros as fillers; back in the order of the columns.
        places = np.argsort(~kept, axis=-1, kind="stable")[..., : self.n]
        places.sort(axis=-1)
        values = np.take_along_axis(groups, places, axis=-1)
        vals = np.ascontiguousarray(values.reshape(rows, -1)).view("<i4")
        return {"vals": vals.astype(np.int32), "meta": _join(self._fields(places), self.field_bits)}

    def unpack_bits(self, arrays: Arrays, shape: tuple[int, int], values: str) -> NDArray[Any]:
        """Return [M, K]."""
        rows, columns = shape
        places = self._places(_split(arrays["meta"], self.field_bits))
        stored = np.ascontiguousarray(arrays["vals"], "<i4").view(bits_dtype(values))
        dense = np.zeros((rows, padded_columns(columns) // self.m, self.m), stored.dtype)
        np.put_along_axis(dense, places, stored.reshape(rows, -1, self.n), axis=-1)
        return np.ascontiguousarray(dense.reshape(rows, -1)[:, :columns])

    def check_bits(self, arrays: Arrays, shape: tuple[int, int], values: str, where: str) -> None:
        """Check shapes, that every field names N distinct columns, and that padding is zero."""
        rows, columns = shape
        padded = padded_columns(columns)
        words = padded * self.n * value_bytes(values) // self.m // 4
        vals = self.require(arrays, "vals", np.int32, (rows, words), where)
        meta_words = padded * self.field_bits // self.m // 32
        meta = self.require(arrays, "meta", np.int32, (rows, meta_words), where)
        fields = _split(meta, self.field_bits)
        if (wrong := np.argwhere(~self._legal(fields))).size:
            row, group = (int(i) for i in wrong[0])
            problem = f"the field of row {row}, group {group} does not name {self.n} columns"
            raise self.refuse(problem, where)
        first, inside = divmod(columns, self.m)
        stored = np.ascontiguousarray(vals, "<i4").view(bits_dtype(values))
        groups = stored.reshape(rows, -1, self.n)[:, first:]
        if inside:  # in the last group, only places from K on are padding
            past = self._places(fields[:, first : first + 1]) >= inside
            cut = np.where(past, groups[:, :1], 0).any() or groups[:, 1:].any()
        else:
            cut = groups.any()
        if cut:
            raise self.refuse("padding columns hold values", where)

    def _fields(self, places: NDArray[np.intp]) -> NDArray[Any]:
        """Return the fields [M, groups] for ascending places [M, groups, N]."""
        shift = 4 * np.arange(self.n) if (self.n, self.m) == (2, 8) else np.zeros(self.n, np.intp)
        parts = places << shift if self._indexed else np.left_shift(1, places)
        fields: NDArray[Any] = np.bitwise_or.reduce(parts, axis=-1)
        return fields.astype(_FIELD_TYPES[self.field_bits])

    def _places(self, fields: NDArray[Any]) -> NDArray[np.intp]:
        """Return the ascending places of the values, for legal fields."""
        if self._indexed:
            shift = np.array([0, 4][: self.n])
            found: NDArray[np.intp] = (fields[..., None].astype(np.intp) >> shift) & (self.m - 1)
            return found
        set_bits = (fields[..., None].astype(np.intp) >> np.arange(self.m)) & 1
        return np.argsort(set_bits == 0, axis=-1, kind="stable")[..., : self.n]

    def _legal(self, fields: NDArray[Any]) -> NDArray[np.bool_]:
        if (self.n, self.m) == (1, 4):
            return np.ones(fields.shape, bool)
        if self._indexed:
            first, second = fields & 7, (fields >> 4) & 7
            return np.asarray(((fields & 0x88) == 0) & (first < second))
        count = ((fields[..., None].astype(np.intp) >> np.arange(self.m)) & 1).sum(axis=-1)
        return np.asarray(count == self.n)

    @property
    def _indexed(self) -> bool:
        return self.field_bits < self.m or (self.n, self.m) == (2, 8)


def padded_columns(columns: int) -> int:
    """Return KP, the columns that are stored for K."""
    return -(-columns // PAD) * PAD


def _join(fields: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Return int32 words [M, groups * bits / 32] of fields [M, groups]."""
    while bits < 8:
        fields = fields[:, 0::2] | fields[:, 1::2] << np.uint8(bits)
        bits *= 2
    return np.ascontiguousarray(fields).view("<i4").astype(np.int32)


def _split(words: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return the fields of ``bits`` bits [M, groups] of int32 words."""
    fields = np.ascontiguousarray(words, "<i4").view(_FIELD_TYPES[max(bits, 8)])
    if bits >= 8:
        return fields
    parts = [(fields >> np.uint8(shift)) & np.uint8((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(words.shape[0], -1)
