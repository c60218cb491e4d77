"""What a packed format is, and what it gets for free.

A format says where the bits of the kept values go and how their places are stored. Rounding to a
value type, scales, and the checks that all formats share are here.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cuda.formats.values import (
    bits_dtype,
    check_scale,
    decode,
    encode,
    is_scaled,
)
from sparsec.ir.errors import PatternError, ShapeError

Arrays = Mapping[str, NDArray[Any]]
SCALE = "scale"


class Format(abc.ABC):
    """One packed storage of a matrix W [M, K], zeros left out.

    ``name`` is what an artifact stores, ``pattern`` what W must follow (``"2:4"``,
    ``"unstructured"``, ``"block:8x1"``), ``arrays`` the names of the arrays besides ``"scale"``,
    which 8-bit values add. Arrays are little-endian, row-major and of signed integers, which every
    framework reads.
    """

    name: str
    pattern: str
    arrays: ClassVar[tuple[str, ...]]
    values: tuple[str, ...] = ("float16", "bfloat16", "float8_e4m3fn", "int8")
    scales_by_group = True  # 8-bit values may have a scale every 128 columns, not only one a row

    def pack(
        self, dense: NDArray[Any], values: str = "float16", group: int | None = None
    ) -> dict[str, NDArray[Any]]:
        """Round ``dense`` to a value type and pack it.

        Parameters
        ----------
        dense : float [M, K]
            Must follow the pattern after rounding. NaN and infinities count as non-zeros and are
            kept where the type has them; -0.0 counts as zero and comes back as +0.0.
        values : str
            One of ``self.values``.
        group : int, optional
            For 8-bit values: 128 for a scale every 128 columns, else one a row.

        Raises
        ------
        ShapeError
            If ``dense`` is no matrix, is empty, or has a shape that the format cannot hold.
        PatternError
            If it does not follow the pattern, or the type cannot hold its numbers. Packing never
            drops a weight.
        """
        if dense.ndim != 2 or not dense.size or dense.dtype.name in ("int16", "int32", "int64"):
            raise ShapeError(
                f"{self.name} packs a float matrix that is not empty, got {dense.dtype} "
                f"{list(dense.shape)}"
            )
        self._supports(values)
        if group and is_scaled(values) and not self.scales_by_group:
            raise ShapeError(f"{self.name} has a scale for each row, not for groups of {group}")
        bits, scale = encode(dense, values, group)
        packed = self.pack_bits(bits)
        if scale is not None:
            packed[SCALE] = scale
        return packed

    def unpack(
        self, arrays: Arrays, shape: tuple[int, int], values: str = "float16"
    ) -> NDArray[np.float32]:
        """Return W as float32 [M, K], scales applied; checks first.

        Raises
        ------
        ShapeError, PatternError
            As :meth:`check`.
        """
        self.check(arrays, shape, values)
        return decode(self.unpack_bits(arrays, shape, values), values, arrays.get(SCALE))

    def check(
        self,
        arrays: Arrays,
        shape: tuple[int, int],
        values: str = "float16",
        where: str = "",
    ) -> None:
        """Accept only what the kernels can read: they check nothing.

        Raises
        ------
        ShapeError
            If an array is missing, unknown, or has another type or shape.
        PatternError
            If the arrays have the right shapes and contents that no packer writes.
        """
        prefix = f"{where}: " if where else ""
        self._supports(values, where)
        wanted = {*self.arrays, *([SCALE] if is_scaled(values) else [])}
        if set(arrays) != wanted:
            raise ShapeError(
                f"{prefix}{self.name} of {values} has the arrays {sorted(wanted)}, got "
                f"{sorted(arrays)}",
                where=where,
            )
        if len(shape) != 2 or min(shape) < 1:
            raise ShapeError(f"{prefix}{self.name} needs a shape [M, K], got {shape}", where=where)
        check_scale(arrays.get(SCALE), values, shape, where)
        if not self.scales_by_group and is_scaled(values):
            self.require(arrays, SCALE, np.float32, (shape[0], 1), where)
        self.check_bits(arrays, shape, values, where)

    def nbytes(self, arrays: Arrays) -> int:
        """Return the bytes of all arrays."""
        return sum(array.nbytes for array in arrays.values())

    @abc.abstractmethod
    def expected_bytes(self, shape: tuple[int, int], sparsity: float, values: str) -> float:
        """Return the bytes that a matrix with uniformly random zeros takes, scales by row."""

    def array_shapes(
        self, shape: tuple[int, int], values: str
    ) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """Return type and shape of every array but the scale; None is a size that data decide.

        Empty if the format does not say.
        """
        return {}

    @abc.abstractmethod
    def pack_bits(self, bits: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Pack the bits of values, uint16 or uint8 [M, K], zero where nothing is kept."""

    @abc.abstractmethod
    def unpack_bits(self, arrays: Arrays, shape: tuple[int, int], values: str) -> NDArray[Any]:
        """Return what :meth:`pack_bits` was given; the arrays are checked."""

    @abc.abstractmethod
    def check_bits(self, arrays: Arrays, shape: tuple[int, int], values: str, where: str) -> None:
        """Check all arrays but the scale; their names are right."""

    def require(
        self, arrays: Arrays, name: str, dtype: Any, shape: tuple[int, ...], where: str
    ) -> NDArray[Any]:
        """Return the array ``name`` if it has this type and shape.

        Raises
        ------
        ShapeError
        """
        array = arrays[name]
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            prefix = f"{where}: " if where else ""
            raise ShapeError(
                f"{prefix}{self.name} needs {name} {np.dtype(dtype)} {list(shape)}, got "
                f"{array.dtype} {list(array.shape)}",
                where=where,
            )
        return array

    def refuse(self, problem: str, where: str) -> PatternError:
        """Return the error for contents that no packer writes."""
        return PatternError(f"{where}: {problem}" if where else problem, where=where)

    def _supports(self, values: str, where: str = "") -> None:
        bits_dtype(values)
        if values not in self.values:
            prefix = f"{where}: " if where else ""
            raise ShapeError(
                f"{prefix}{self.name} holds {' or '.join(self.values)}, got {values}", where=where
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """A matrix in a packed format: the arrays and what is needed to read them."""

    format: Format
    arrays: dict[str, NDArray[Any]]
    shape: tuple[int, int]
    values: str

    @classmethod
    def of(
        cls, form: Format, dense: NDArray[Any], values: str = "float16", group: int | None = None
    ) -> Packed:
        """Pack ``dense``; see :meth:`Format.pack`."""
        rows, columns = dense.shape
        return cls(form, form.pack(dense, values, group), (rows, columns), values)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.format.nbytes(self.arrays)

    def check(self, where: str = "") -> None:
        """Accept only what kernels can read; see :meth:`Format.check`."""
        self.format.check(self.arrays, self.shape, self.values, where)

    def unpack(self) -> NDArray[np.float32]:
        """Return float32 [M, K]; checks first."""
        return self.format.unpack(self.arrays, self.shape, self.values)
