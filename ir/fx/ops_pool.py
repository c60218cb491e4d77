"""Pooling over windows, whole maps and by indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sparsec.ir.fx import host as hv
from sparsec.ir.fx.registry import op
from sparsec.ir.fx.windows import ceil_overhang, pad_spatial, same_pads

_MAX: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _overhangs(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    ceil_mode: int,
) -> tuple[int, ...]:
    if not ceil_mode:
        return (0,) * len(kernel)
    ends = zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)
    return tuple(
        ceil_overhang(size, k, stride, dilation, begin, end)
        for size, k, stride, dilation, (begin, end) in zip(
            x.shape[2:], kernel, strides, dilations, ends, strict=True
        )
    )


def _torch_pads(pads: Sequence[int], kernel: Sequence[int]) -> bool:
    """Say whether torch's pooling takes these pads: symmetric, and at most half a window."""
    rank = len(kernel)
    return tuple(pads[:rank]) == tuple(pads[rank:]) and all(
        p <= k // 2 for p, k in zip(pads[:rank], kernel, strict=True)
    )


@op("MaxPool", many=True)
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] = (),
    pads: Sequence[int] = (),
    storage_order: int = 0,
    strides: Sequence[int] = (),
    n_outputs: int = 1,
) -> tuple[Tensor, ...]:
    """Largest element of each window, and its index in the flattened input if wanted."""
    rank = len(kernel_shape)
    strides = tuple(strides) or (1,) * rank
    dilations = tuple(dilations) or (1,) * rank
    pads = same_pads(x, kernel_shape, strides, dilations, auto_pad, pads)
    pool = _MAX[rank]
    if n_outputs == 1 and _torch_pads(pads, kernel_shape):
        return (pool(x, kernel_shape, strides, pads[:rank], dilations, bool(ceil_mode)),)
    over = _overhangs(x, kernel_shape, strides, dilations, pads, ceil_mode)
    begins, ends = pads[:rank], tuple(e + o for e, o in zip(pads[rank:], over, strict=True))
    if n_outputs == 1:
        least = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        padded = pad_spatial(x, begins + ends, least)
        return (pool(padded, kernel_shape, strides, 0, dilations),)
    padded = pad_spatial(x, begins + ends, -torch.inf)
    y, at = pool(padded, kernel_shape, strides, 0, dilations, return_indices=True)
    return y, _indices_in(x, padded, begins, at, column_major=bool(storage_order))


def _indices_in(
    x: Tensor, padded: Tensor, begins: Sequence[int], at: Tensor, *, column_major: bool
) -> Tensor:
    """Turn torch's indices, into one padded map, into ONNX's, into the whole input."""
    coordinates = []
    for size, begin in zip(reversed(padded.shape[2:]), reversed(begins), strict=True):
        coordinates.append(at % size - begin)
        at = at // size
    spatial = list(x.shape[2:])
    flat = torch.zeros_like(at)
    if column_major:
        for coordinate, size in zip(coordinates, reversed(spatial), strict=True):
            flat = flat * size + coordinate
    else:
        for coordinate, size in zip(reversed(coordinates), spatial, strict=True):
            flat = flat * size + coordinate
    maps = torch.arange(x.shape[0] * x.shape[1], device=x.device)
    shape = (x.shape[0], x.shape[1]) + (1,) * len(spatial)
    return flat + maps.reshape(shape) * hv.product(spatial)


@op("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] = (),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Tensor:
    """Mean of each window; padding counts on demand, what ceil_mode adds never."""
    rank = len(kernel_shape)
    strides = tuple(strides) or (1,) * rank
    dilations = tuple(dilations) or (1,) * rank
    pads = same_pads(x, kernel_shape, strides, dilations, auto_pad, pads)
    if _torch_pads(pads, kernel_shape) and all(d == 1 for d in dilations):
        return _AVERAGE[rank](
            x, kernel_shape, strides, pads[:rank], bool(ceil_mode), bool(count_include_pad)
        )
    over = _overhangs(x, kernel_shape, strides, dilations, pads, ceil_mode)
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    counted = pad_spatial(ones, pads, 1.0 if count_include_pad else 0.0)
    tail = (0,) * rank + over
    summed = _window_sum(pad_spatial(pad_spatial(x, pads), tail), kernel_shape, strides, dilations)
    return summed / _window_sum(pad_spatial(counted, tail), kernel_shape, strides, dilations)


def _window_sum(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    for axis, (k, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True), 2):
        windows = x.unfold(axis, (k - 1) * dilation + 1, stride)
        x = windows[..., ::dilation].sum(-1)
    return x


@op("LpPool", since=2)
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] = (),
    p: int = 2,
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Tensor:
    """p-norm of each window."""
    rank = len(kernel_shape)
    strides = tuple(strides) or (1,) * rank
    dilations = tuple(dilations) or (1,) * rank
    pads = same_pads(x, kernel_shape, strides, dilations, auto_pad, pads)
    over = _overhangs(x, kernel_shape, strides, dilations, pads, ceil_mode)
    powers = pad_spatial(pad_spatial(x.abs() ** p, pads), (0,) * rank + over)
    return _window_sum(powers, kernel_shape, strides, dilations) ** (1.0 / p)


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@op("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """Mean of each map."""
    return torch.mean(x, _spatial(x), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Largest element of each map."""
    return torch.amax(x, _spatial(x), keepdim=True)


@op("GlobalLpPool", since=2)
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """p-norm of each map."""
    return (x.abs() ** p).sum(_spatial(x), keepdim=True) ** (1.0 / p)


@op("MaxUnpool", since=9, host=("output_shape",))
def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: tuple[int, ...] | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Tensor:
    """Put pooled elements back where MaxPool found them, zeros elsewhere."""
    rank = len(kernel_shape)
    strides = tuple(strides) or (1,) * rank
    pads = tuple(pads) or (0,) * 2 * rank
    inferred = tuple(x.shape[:2]) + tuple(
        (size - 1) * strides[i] + kernel_shape[i] - pads[i] - pads[i + rank]
        for i, size in enumerate(x.shape[2:])
    )
    flat = torch.zeros(hv.product(inferred), dtype=x.dtype, device=x.device)
    unpooled = flat.scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(inferred)
    if output_shape is None:
        return unpooled
    tail = tuple(w - s for w, s in zip(output_shape[2:], inferred[2:], strict=True))
    return pad_spatial(unpooled, (0,) * rank + tail)
