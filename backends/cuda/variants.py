"""Which compiled forms of a kernel exist, and what a launch of each one needs.

M, K and N are run-time numbers of every variant. Compiled in are only the tile, whether the
reduction needs a mask, and whether a bias is there: a model needs a handful of cubins, whatever the
number of its layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

BUCKETS = (16, 32, 64)
MAX_N = BUCKETS[-1]  # beyond, decompress once and multiply densely: the product is compute-bound

_ROWS = 64  # what one warpgroup MMA of sm_90 covers; smaller tiles fall back to half-rate code
_STEPS = (128, 64)  # reduction elements a step; the longer one has more bytes in flight
_SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """One compiled form of ``nm24_matmul``.

    Parameters
    ----------
    dtype : str
        ``"float16"`` or ``"bfloat16"``: x and the values of W.
    out : str
        Type of y: ``dtype``, or ``"float32"``, the sum as it is.
    sm : int
        Compute capability, 80 for 8.0.
    bucket : int
        Rows of x that one program handles.
    step : int
        Reduction elements a step of the loop.
    even : bool
        K is a multiple of ``step``: no masks.
    aligned : bool
        K is a multiple of 16: rows of x start on 32-byte borders, loads are 16 bytes wide.
    bias : bool
    """

    dtype: str
    out: str
    sm: int
    bucket: int
    step: int
    even: bool
    aligned: bool
    bias: bool

    rows: int = _ROWS
    num_warps: int = 4
    num_stages: int = 3

    @property
    def name(self) -> str:
        """``<dtype>_<op>_<pattern>_<tile>__<isa>``, as all microkernels are named."""
        ragged = "" if self.even else ("_ragged" if self.aligned else "_ragged_unaligned")
        tile = f"{self.rows}x{self.bucket}x{self.step}"
        bias = "_bias" if self.bias else ""
        return f"{_types(self)}_matmul_nm24_{tile}{ragged}{bias}__sm{self.sm}"

    @property
    def constants(self) -> dict[str, Any]:
        """Compile-time parameters of the kernel, by name."""
        return {
            "BM": self.rows,
            "BN": self.bucket,
            "BK": self.step,
            "EVEN_K": self.even,
            "ASM": True,
        }

    def grid(self) -> list[dict[str, Any] | int]:
        """Return the grid as the manifest stores it: ``ceil(of / per)``, or a number."""
        return [{"of": "M", "per": self.rows}, {"of": "N", "per": self.bucket}, 1]

    def arguments(self) -> list[dict[str, Any]]:
        """Return the kernel's own arguments in order, without the scratch pointers."""
        bias = [_pointer("bias", "float32", "M")] if self.bias else []
        return [
            _pointer("x", self.dtype, "N", "K"),
            _pointer("vals", "int32", "M", "ceil(K/32)*8"),
            _pointer("meta", "int32", "M", "ceil(K/32)"),
            *bias,
            _pointer("y", self.out, "N", "M"),
            *({"name": name, "kind": "value", "dtype": "int32"} for name in ("M", "N", "K")),
        ]


def variants_for(
    columns: int, dtype: str, sm: int, bias: bool, out: str = ""
) -> tuple[Variant, ...]:
    """Return the variants a layer with K = ``columns`` needs, one for each bucket of N.

    ``out`` is the type of y; that of x if empty.
    """
    step = next((step for step in _STEPS if columns % step == 0), _STEPS[-1])
    even, aligned = columns % step == 0, columns % 16 == 0
    return tuple(
        Variant(dtype, out or dtype, sm, bucket, step, even, aligned, bias) for bucket in BUCKETS
    )


def family(variants: tuple[Variant, ...]) -> str:
    """Return the name that a layer's variants have in common, for a table of layers."""
    return f"{_types(variants[0])}_matmul_nm24__sm{variants[0].sm}"


def _types(variant: Variant) -> str:
    """Return ``f16`` if all is float16, ``f16f32`` if y is float32."""
    return _SHORT[variant.dtype] + (_SHORT[variant.out] if variant.out != variant.dtype else "")


def _pointer(name: str, dtype: str, *shape: str) -> dict[str, Any]:
    return {"name": name, "kind": "pointer", "dtype": dtype, "shape": list(shape), "align": 16}
