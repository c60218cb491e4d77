"""The packed format ``nm24``: a 2:4 matrix of 16-bit floats in 1.125 bytes an element.

::

    vals  int32 [M, KP / 4]   v0 | v1 << 16: the two kept values of four columns, in their order
    meta  int32 [M, KP / 32]  eight 4-bit masks, group 0 in the lowest bits

K is padded to KP, the next multiple of 32. Every mask has exactly two bits set: a group with fewer
non-zeros keeps its first zero positions too, with the value +0.0. The decoders rely on both.
``docs/formats/nm24.md`` specifies the format for other writers and readers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cuda.formats.base import Arrays, Format
from sparsec.ir.errors import PatternError, ShapeError

GROUP = 4
WORD = 32  # elements covered by one word of meta
DTYPES = ("float16", "bfloat16")

_BITS = np.unpackbits(np.arange(16, dtype=np.uint8)[:, None], axis=1, bitorder="little")[:, :4]
_COUNT = _BITS.sum(axis=1)


def _with_fillers(mask: int) -> int:
    """Return ``mask`` with its lowest clear bits set until two are set."""
    for bit in range(GROUP):
        if _COUNT[mask] < 2:
            mask |= 1 << bit
    return mask


_FILLED = np.array([_with_fillers(mask) for mask in range(16)], dtype=np.uint8)
# Positions of the two set bits, for the six masks that have two.
_POSITIONS = np.zeros((16, 2), dtype=np.uint8)
_POSITIONS[_COUNT == 2] = [np.flatnonzero(bits) for bits in _BITS[_COUNT == 2]]


class NM24(Format):
    """Two values of 16 bits in every four columns of a row."""

    name = "nm24"
    pattern = "2:4"
    arrays = ("vals", "meta")
    values = DTYPES

    def expected_bytes(self, shape: tuple[int, int], sparsity: float, values: str) -> float:
        """Return the bytes of the arrays, which do not depend on the zeros."""
        return packed_bytes(*shape)

    def array_shapes(
        self, shape: tuple[int, int], values: str
    ) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """Return type and shape of every array but the scale."""
        rows, padded = shape[0], padded_columns(shape[1])
        return {
            "vals": ("int32", (rows, padded // GROUP)),
            "meta": ("int32", (rows, padded // WORD)),
        }

    def pack_bits(self, bits: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Pack uint16 [M, K]; see the top of this module."""
        packed = NM24Matrix.pack(bits.view(np.float16))
        return {"vals": packed.vals, "meta": packed.meta}

    def unpack_bits(self, arrays: Arrays, shape: tuple[int, int], values: str) -> NDArray[Any]:
        """Return uint16 [M, K]: bits are moved, whatever type they are of."""
        return self._matrix(arrays, shape, "float16").unpack().view(np.uint16)

    def check_bits(self, arrays: Arrays, shape: tuple[int, int], values: str, where: str) -> None:
        """Check shapes, that every mask has two bits, and that padding is zero."""
        matrix = self._matrix(arrays, shape, values)
        matrix.check(where)
        self.require(arrays, "vals", np.int32, (shape[0], padded_columns(shape[1]) // GROUP), where)

    @staticmethod
    def _matrix(arrays: Arrays, shape: tuple[int, int], values: str) -> NM24Matrix:
        return NM24Matrix(arrays["vals"], arrays["meta"], shape[1], values)


@dataclasses.dataclass(frozen=True, slots=True)
class NM24Matrix:
    """A 2:4 matrix in the storage described at the top of this module.

    Parameters
    ----------
    vals : int32 [M, KP / 4], C-contiguous
    meta : int32 [M, KP / 32], C-contiguous
    columns : int
        K, without padding; a multiple of 4.
    dtype : str
        ``"float16"`` or ``"bfloat16"``: what the 16-bit halves of ``vals`` are.
    """

    vals: NDArray[np.int32]
    meta: NDArray[np.int32]
    columns: int
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        """``(M, K)``, zeros included and padding not."""
        return self.vals.shape[0], self.columns

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.vals.nbytes + self.meta.nbytes

    @classmethod
    def pack(cls, dense: NDArray[Any]) -> NM24Matrix:
        """Pack a matrix that already follows the pattern.

        Parameters
        ----------
        dense : float16 or bfloat16 [M, K]
            At most two non-zeros in every four columns. NaN and Inf count as non-zeros and are
            kept; -0.0 counts as zero and comes back as +0.0.

        Raises
        ------
        ShapeError
            If the matrix is empty, K is no multiple of 4, or the type is another.
        PatternError
            If a group holds more than two non-zeros. Packing never drops a weight.

        Examples
        --------
        >>> packed = NM24Matrix.pack(np.array([[0, 5, 0, 7]], dtype=np.float16))
        >>> packed.meta.tolist(), packed.nbytes
        ([[858993466]], 36)
        """
        if dense.ndim != 2 or dense.dtype.name not in DTYPES:
            raise ShapeError(
                f"nm24 packs a float16 or bfloat16 matrix, got {dense.dtype} {list(dense.shape)}"
            )
        rows, columns = dense.shape
        if not rows or not columns or columns % GROUP:
            raise ShapeError(
                f"nm24 needs a row and a multiple of {GROUP} columns at least, got {rows}x{columns}"
            )
        padded = padded_columns(columns)
        bits = np.zeros((rows, padded), dtype=np.uint16)
        bits[:, :columns] = np.where(dense != 0, np.ascontiguousarray(dense).view(np.uint16), 0)
        groups = bits.reshape(rows, padded // GROUP, GROUP)
        found = np.packbits(groups != 0, axis=-1, bitorder="little")[..., 0]
        if (full := np.argwhere(_COUNT[found] > 2)).size:
            row, group = (int(i) for i in full[0])
            raise PatternError(
                f"not 2:4: row {row}, columns {GROUP * group} to {GROUP * group + 3} hold "
                f"{int(_COUNT[found[row, group]])} non-zeros; run the pass nm24 before packing"
            )
        masks = _FILLED[found]
        kept = np.take_along_axis(groups, _POSITIONS[masks], axis=-1).astype(np.uint32)
        vals = kept[..., 0] | kept[..., 1] << np.uint32(16)
        return cls(vals.view(np.int32), _join_nibbles(masks), columns, dense.dtype.name)

    def check(self, where: str = "") -> None:
        """Accept only what the decoders can read.

        Raises
        ------
        ShapeError
            If the arrays disagree with each other or with ``columns``.
        PatternError
            If a mask has not exactly two bits set, or padding holds a value.
        """
        prefix = f"{where}: " if where else ""
        padded = padded_columns(self.columns)
        rows = self.vals.shape[0] if self.vals.ndim == 2 else 0
        expected = {"vals": (rows, padded // GROUP), "meta": (rows, padded // WORD)}
        for name, array in (("vals", self.vals), ("meta", self.meta)):
            if array.dtype != np.int32 or array.shape != expected[name] or not array.size:
                raise ShapeError(
                    f"{prefix}nm24 of {self.columns} columns needs {name} int32 [M, "
                    f"{expected[name][1]}], got {array.dtype} {list(array.shape)}",
                    where=where,
                )
        if self.columns % GROUP or self.dtype not in DTYPES:
            raise ShapeError(
                f"{prefix}nm24 needs a multiple of {GROUP} columns of {' or '.join(DTYPES)}, got "
                f"{self.columns} of {self.dtype}",
                where=where,
            )
        wrong = np.argwhere(_COUNT[_split_nibbles(self.meta)] != 2)
        if wrong.size:
            row, group = (int(i) for i in wrong[0])
            raise PatternError(
                f"{prefix}the mask of row {row}, group {group} has not two bits set", where=where
            )
        if self.vals[:, self.columns // GROUP :].any():
            raise PatternError(f"{prefix}padding columns hold values", where=where)

    def unpack(self) -> NDArray[Any]:
        """Return the dense matrix, in ``dtype`` [M, K]; checks first."""
        self.check()
        masks = _split_nibbles(self.meta)
        rows, groups = masks.shape
        dense = np.zeros((rows, groups, GROUP), dtype=np.uint16)
        np.put_along_axis(dense, _POSITIONS[masks], self._halves(), axis=-1)
        dense = dense.reshape(rows, groups * GROUP)[:, : self.columns]
        return np.ascontiguousarray(dense).view(numpy_dtype(self.dtype))

    def _halves(self) -> NDArray[np.uint16]:
        words = self.vals.view(np.uint32)
        return np.stack([words & 0xFFFF, words >> 16], axis=-1).astype(np.uint16)


def padded_columns(columns: int) -> int:
    """Return KP, the columns that are stored for K."""
    return -(-columns // WORD) * WORD


def packed_bytes(rows: int, columns: int) -> int:
    """Return the bytes of a packed matrix.

    Examples
    --------
    >>> packed_bytes(4096, 4096) / 4096**2
    1.125
    """
    return rows * (padded_columns(columns) + padded_columns(columns) // 8)


def _join_nibbles(masks: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return [M, groups / 8] words of the masks [M, groups]."""
    rows, groups = masks.shape
    nibbles = masks.reshape(rows, groups // 8, 8)
    octets = nibbles[..., 0::2] | nibbles[..., 1::2] << np.uint8(4)
    return np.ascontiguousarray(octets).view("<i4")[..., 0].astype(np.int32)


def _split_nibbles(meta: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return the masks [M, groups] of the words [M, groups / 8]."""
    octets = np.ascontiguousarray(meta, dtype="<i4").view(np.uint8)
    masks = np.stack([octets & 15, octets >> 4], axis=-1)
    return masks.reshape(meta.shape[0], meta.shape[1] * 8)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy type with that name, ``bfloat16`` included."""
    if name == "bfloat16":
        import ml_dtypes  # comes with onnx; numpy has no bfloat16 of its own

        return cast("np.dtype[Any]", np.dtype(ml_dtypes.bfloat16))
    return np.dtype(name)
