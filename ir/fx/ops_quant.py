"""Integer arithmetic and quantisation.

Integer products are taken in float64, where sums of up to 2**53 / 255**2 terms are exact; torch
has no integer convolution on every device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsec.ir.fx.ops_conv import conv
from sparsec.ir.fx.registry import op


def _along(parameter: Tensor, x: Tensor, axis: int, block_size: int = 0) -> Tensor:
    """Shape a scale or zero point to broadcast over x: per tensor, per channel or in blocks."""
    if parameter.ndim == 0 or parameter.numel() == 1:
        return parameter.reshape(())
    if block_size:
        repeated = parameter.repeat_interleave(block_size, axis)
        return repeated.narrow(axis, 0, x.shape[axis])
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def _round_to(x: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Round to even, shift by the zero point and saturate."""
    if dtype.is_floating_point:
        limit = torch.finfo(dtype).max
        return x.clamp(-limit, limit).to(dtype)
    info = torch.iinfo(dtype)
    shifted = torch.round(x) if zero is None else torch.round(x) + zero.to(x.dtype)
    return shifted.clamp(info.min, info.max).to(dtype)


def _only_saturating(attributes: Mapping[str, Any]) -> str | None:
    if not attributes.get("saturate", 1):
        return "saturate=0 (overflow to infinity or NaN)"
    return "precision (a type to divide in)" if attributes.get("precision", 0) else None


@op("QuantizeLinear", since=10, frozen=("scale", "zero"), refuse=_only_saturating)
def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: torch.dtype | None = None,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    """Round x / scale + zero to an integer type."""
    dtype = zero.dtype if zero is not None else output_dtype or torch.uint8
    ratio = x / _along(scale, x, axis, block_size)
    shift = None if zero is None else _along(zero, x, axis, block_size)
    return _round_to(ratio, shift, dtype)


@op("DequantizeLinear", since=10, frozen=("scale", "zero"))
def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: torch.dtype | None = None,
) -> Tensor:
    """(x - zero) * scale, in the type of the scale."""
    y = x.to(scale.dtype)
    if zero is not None:
        y = y - _along(zero, x, axis, block_size).to(scale.dtype)
    y = y * _along(scale, x, axis, block_size)
    return y if output_dtype is None else y.to(output_dtype)


@op("DynamicQuantizeLinear", since=11, many=True)
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise to uint8 over the range of x, which always holds zero."""
    low = torch.clamp(x.min(), max=0.0)
    high = torch.clamp(x.max(), min=0.0)
    scale = (high - low) / 255.0
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((-low / scale).clamp(0, 255))
    y = (torch.round(x / scale) + zero).clamp(0, 255)
    return y.to(torch.uint8), scale, zero.to(torch.uint8)


def _centred(x: Tensor, zero: Tensor | None, shape: Sequence[int] = (-1,)) -> Tensor:
    """Subtract the zero point: one value, or one along the axis that ``shape`` leaves open."""
    x = x.to(torch.float64)
    if zero is None:
        return x
    return x - (zero.reshape(tuple(shape)) if zero.numel() > 1 else zero.reshape(())).to(x.dtype)


@op("MatMulInteger", since=10, frozen=("a_zero", "b_zero"))
def matmul_integer(
    a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """Multiply integer matrices less their zero points (of A by row, of B by column) to int32."""
    return (_centred(a, a_zero, (-1, 1)) @ _centred(b, b_zero)).to(torch.int32)


@op("ConvInteger", since=10, frozen=("x_zero", "w_zero"))
def conv_integer(
    x: Tensor,
    w: Tensor,
    x_zero: Tensor | None = None,
    w_zero: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (),
    group: int = 1,
    kernel_shape: Sequence[int] = (),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Tensor:
    """Convolve integers less their zero points to int32; padding counts as the zero point."""
    per_output = (-1, *(1,) * (w.ndim - 1))
    y = conv(
        _centred(x, x_zero),
        _centred(w, w_zero, per_output),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        pads=pads,
        strides=strides,
    )
    return y.to(torch.int32)


@op(
    "QLinearMatMul",
    since=10,
    frozen=("a_scale", "a_zero", "b_scale", "b_zero", "y_scale", "y_zero"),
)
def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """Multiply quantised matrices to a quantised matrix."""
    total = _centred(a, a_zero, (-1, 1)) @ _centred(b, b_zero)
    rows = a_scale.reshape(-1, 1) if a_scale.numel() > 1 else a_scale.reshape(())
    ratio = rows.double() * b_scale.double() / y_scale.double()
    return _round_to(total * ratio, y_zero, y_zero.dtype)


@op(
    "QLinearConv",
    since=10,
    frozen=("x_scale", "x_zero", "w_scale", "w_zero", "y_scale", "y_zero"),
)
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (),
    group: int = 1,
    kernel_shape: Sequence[int] = (),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Tensor:
    """Convolve quantised maps to quantised maps; the int32 bias has scale x_scale w_scale."""
    per_output = (-1, *(1,) * (w.ndim - 1))
    total = conv(
        _centred(x, x_zero),
        _centred(w, w_zero, per_output),
        None if b is None else b.to(torch.float64),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        pads=pads,
        strides=strides,
    )
    ratio = x_scale.double() * w_scale.double() / y_scale.double()
    if ratio.numel() > 1:
        ratio = ratio.reshape(per_output[: w.ndim - 1])
    return _round_to(total * ratio, y_zero, y_zero.dtype)
