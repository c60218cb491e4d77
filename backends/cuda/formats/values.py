"""The value types of packed weights: how a float matrix becomes bits of 16 or 8, and back.

Formats move bit patterns and know nothing of numbers, so every format holds every value type.
8-bit types come with a scale, float32 [M, 1] (one a row) or [M, ceil(K / 128)] (one for every
``SCALE_GROUP`` columns of a row): ``w = scale * value``.

The conversions are written out in numpy, since a machine that only runs kernels has no
``ml_dtypes``. Zero is always +0.0: a sign on a zero would make it look like a value to a mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import PatternError, ShapeError

FLOAT16, BFLOAT16, FLOAT8, INT8 = "float16", "bfloat16", "float8_e4m3fn", "int8"
VALUES = (FLOAT16, BFLOAT16, FLOAT8, INT8)
SCALED = (FLOAT8, INT8)
SCALE_GROUP = 128

_BITS = {FLOAT16: np.uint16, BFLOAT16: np.uint16, FLOAT8: np.uint8, INT8: np.uint8}
_LARGEST = {FLOAT8: np.float32(448.0), INT8: np.float32(127.0)}


def bits_dtype(values: str) -> np.dtype[Any]:
    """Return the unsigned numpy type that holds one value.

    Raises
    ------
    ShapeError
        If ``values`` is no value type.
    """
    if values not in _BITS:
        raise ShapeError(f"{values!r} is no value type of a packed weight: {', '.join(VALUES)}")
    return np.dtype(_BITS[values])


def value_bytes(values: str) -> int:
    """Return the bytes of one value: 2 or 1."""
    return bits_dtype(values).itemsize


def is_scaled(values: str) -> bool:
    """Whether values of this type come with a scale."""
    return values in SCALED


def encode(
    dense: NDArray[Any], values: str, group: int | None = None
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Round a matrix to a value type.

    Parameters
    ----------
    dense : float [M, K]
    values : str
        One of ``VALUES``. Ties round to even.
    group : int, optional
        ``SCALE_GROUP`` for a scale every that many columns; one a row if absent. For 8-bit values
        only.

    Returns
    -------
    bits : uint16 or uint8 [M, K]
    scale : float32 [M, 1] or [M, ceil(K / SCALE_GROUP)], or None for 16-bit values

    Raises
    ------
    PatternError
        If a finite weight lies beyond the range of the type, or it cannot hold NaN or infinity.
    ShapeError
        If ``values`` or ``group`` is not one of the above.
    """
    bits = bits_dtype(values)
    if group not in (None, SCALE_GROUP) or (group and not is_scaled(values)):
        raise ShapeError(f"scales of {values} go by row or {SCALE_GROUP} columns, got {group}")
    if not is_scaled(values):
        if dense.dtype.name == values:
            encoded = np.ascontiguousarray(dense).view(bits)
        else:
            encoded = _to_half(dense, values)
        return np.where(encoded & bits.type(0x7FFF), encoded, bits.type(0)), None
    wide = np.asarray(dense, np.float32)
    if not np.isfinite(wide).all():
        raise PatternError(
            f"{values} with scales cannot hold NaN or infinity, which the weight has"
        )
    scale = _scales(wide, group, _LARGEST[values])
    scaled = wide / spread(scale, wide.shape[1])
    if values == INT8:
        return np.rint(scaled).astype(np.int8).view(np.uint8), scale
    return _to_float8(scaled), scale


def decode(
    bits: NDArray[Any], values: str, scale: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return float32 [M, K] of bits [M, K]; ``scale`` as :func:`encode` returns it."""
    if values == FLOAT16:
        return bits.view(np.float16).astype(np.float32)
    if values == BFLOAT16:
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    wide = _FLOAT8_VALUES[bits] if values == FLOAT8 else bits.view(np.int8).astype(np.float32)
    return wide if scale is None else wide * spread(scale, bits.shape[1])


def check_scale(
    scale: NDArray[Any] | None, values: str, shape: tuple[int, int], where: str = ""
) -> None:
    """Accept only the scale that ``values`` needs: finite, above zero, one a row or group.

    Raises
    ------
    ShapeError, PatternError
    """
    prefix = f"{where}: " if where else ""
    if not is_scaled(values):
        if scale is not None:
            raise ShapeError(f"{prefix}{values} has no scale, got one", where=where)
        return
    rows, columns = shape
    allowed = {(rows, 1), (rows, -(-columns // SCALE_GROUP))}
    if scale is None or scale.dtype != np.float32 or scale.shape not in allowed:
        got = "none" if scale is None else f"{scale.dtype} {list(scale.shape)}"
        wanted = " or ".join(str(list(each)) for each in sorted(allowed))
        raise ShapeError(f"{prefix}{values} needs a scale float32 {wanted}, got {got}", where=where)
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise PatternError(f"{prefix}a scale is not finite and above zero", where=where)


def spread(scale: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """Return the scale of every element of K = ``columns``: [M, 1] or [M, K]."""
    if scale.shape[1] == 1:
        return scale
    return np.repeat(scale, SCALE_GROUP, axis=1)[:, :columns]


def _scales(
    wide: NDArray[np.float32], group: int | None, largest: np.float32
) -> NDArray[np.float32]:
    """Return scales with which the largest value of a row or group becomes ``largest``."""
    rows, columns = wide.shape
    width = group or columns
    padded = np.zeros((rows, -(-columns // width) * width), np.float32)
    padded[:, :columns] = np.abs(wide)
    top = padded.reshape(rows, -1, width).max(axis=-1)
    scale = top / largest
    # A row of zeros, or one so small that its scale would vanish: any scale is right.
    return np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1)).astype(np.float32)


def _to_half(dense: NDArray[Any], values: str) -> NDArray[np.uint16]:
    wide = np.asarray(dense, np.float32)
    if values == FLOAT16:
        with np.errstate(over="ignore"):
            half = wide.astype(np.float16)
        lost = np.isinf(half) & np.isfinite(wide)
        bits = half.view(np.uint16)
    else:
        raw = wide.view(np.uint32)
        rounded = (
            raw + (((raw >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))
        ) >> np.uint32(16)
        # Rounding up the payload of a NaN could make it an infinity or flip its sign.
        nan = (raw >> np.uint32(16)) | np.uint32(0x40)
        bits = np.where(np.isnan(wide), nan, rounded).astype(np.uint16)
        lost = ((bits & 0x7FFF) == 0x7F80) & np.isfinite(wide)
    if lost.any():
        largest = float(np.abs(wide[lost]).max())
        raise PatternError(f"a weight of size {largest:.3g} exceeds the range of {values}")
    return bits


def _float8_values() -> NDArray[np.float32]:
    """Return the number of each of the 256 bit patterns of e4m3 (OCP 8-bit floating point, 5.3)."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    number = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal)
    number = np.where(code & 127 == 127, np.nan, number)
    return np.where(code & 128, -number, number).astype(np.float32)


_FLOAT8_VALUES = _float8_values()
_FLOAT8_TIES = (_FLOAT8_VALUES[:126] + _FLOAT8_VALUES[1:127]) / 2  # between neighbours, exact


def _to_float8(scaled: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the nearest e4m3 of numbers within its range."""
    size = np.abs(scaled)
    below, above = (np.searchsorted(_FLOAT8_TIES, size, side) for side in ("left", "right"))
    code = np.where(below % 2 == 0, below, above)  # differ on a tie only: the even one
    return np.where((scaled < 0) & (code > 0), code | 128, code).astype(np.uint8)
