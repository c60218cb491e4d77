"""Resizing and sampling at computed places.

A resize is separable: along one axis every output element is a weighted sum of a few inputs. The
common forms go to torch's kernels; all others are a product with the matrix of those weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sparsec.ir.fx import host as hv
from sparsec.ir.fx.registry import op

Shape = tuple[Any, ...]

_TORCH_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _coordinates(
    length: Any, out: Any, scale: Any, mode: str, roi: Sequence[float], like: Tensor
) -> Tensor:
    """Return where in the input each of ``out`` places of the output lies."""
    at = torch.arange(out, dtype=like.dtype, device=like.device)
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * 0 if out == 1 else at * (length - 1) / (out - 1)
    if mode == "pytorch_half_pixel" and out == 1:
        return at * 0
    if mode == "half_pixel_symmetric":
        offset = length / 2 * (1 - out / (scale * length))
        return offset + (at + 0.5) / scale - 0.5
    if mode == "tf_crop_and_resize":
        start, end = roi
        if out == 1:
            return at * 0 + 0.5 * (start + end) * (length - 1)
        return start * (length - 1) + at * (end - start) * (length - 1) / (out - 1)
    return (at + 0.5) / scale - 0.5


def _nearest(at: Tensor, mode: str) -> Tensor:
    if mode == "floor":
        return torch.floor(at)
    if mode == "ceil":
        return torch.ceil(at)
    return torch.ceil(at - 0.5) if mode == "round_prefer_floor" else torch.floor(at + 0.5)


def _cubic(t: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel (IEEE ASSP 29(6), 1981)."""
    t = t.abs()
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return torch.where(t <= 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def _kernel(t: Tensor, mode: str, a: float) -> Tensor:
    return _cubic(t, a) if mode == "cubic" else (1 - t.abs()).clamp(min=0)


def _weights(
    length: Any, at: Tensor, scale: Any, mode: str, a: float, antialias: int, exclude_outside: int
) -> Tensor:
    """Return the matrix [out, length] of an axis; what lies outside counts as the edge."""
    width = min(scale, 1.0) if antialias else 1.0  # shrinking widens the kernel by 1 / scale
    first = math.floor(-(2 if mode == "cubic" else 1) / width) + 1
    taps = torch.arange(first, 2 - first, dtype=at.dtype, device=at.device)
    places = torch.floor(at)[:, None] + taps
    weights = _kernel((at[:, None] - places) * width, mode, a)
    if exclude_outside:
        weights = weights * ((places >= 0) & (places < length))
    weights = weights / weights.sum(1, keepdim=True)
    blank = torch.zeros((at.shape[0], length), dtype=at.dtype, device=at.device)
    return blank.scatter_add(1, places.clamp(0, length - 1).to(torch.int64), weights)


def _plain(
    x: Tensor, out: Shape, scales: Shape, given: bool, mode: str, coordinates: str, nearest: str
) -> Tensor | None:
    """Resize by torch's own kernels where they mean the same, else return None."""
    rank = x.ndim - 2
    if not 1 <= rank <= 3 or tuple(out[:2]) != tuple(x.shape[:2]):
        return None
    corners: bool | None = coordinates == "align_corners"
    centred = coordinates == "half_pixel" or (
        coordinates == "pytorch_half_pixel" and all(n != 1 for n in out[2:])
    )
    if mode == "nearest" and coordinates == "asymmetric" and nearest == "floor":
        method, corners = "nearest", None
    elif mode == "linear" and (corners or centred):
        method = _TORCH_LINEAR[rank]
    elif mode == "cubic" and rank == 2 and centred:
        method = "bicubic"
    else:
        return None
    if given and not corners:
        return F.interpolate(x, scale_factor=tuple(scales[2:]), mode=method, align_corners=corners)
    return F.interpolate(x, tuple(out[2:]), mode=method, align_corners=corners)


def _targets(
    x: Tensor, scales: Shape, sizes: Shape, axes: Sequence[int], policy: str
) -> tuple[Shape, Shape]:
    """Return length and scale of every axis of the result."""
    out, factors = list(x.shape), [1.0] * x.ndim
    if sizes:
        ratios = [size / x.shape[a] for a, size in zip(axes, sizes, strict=True)]
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(ratios)
            sizes = tuple(math.floor(ratio * x.shape[a] + 0.5) for a in axes)
        for axis, size, ratio in zip(axes, sizes, ratios, strict=True):
            out[axis], factors[axis] = size, ratio
    else:
        for axis, scale in zip(axes, scales, strict=True):
            out[axis], factors[axis] = _scaled(x.shape[axis], scale), scale
    return tuple(out), tuple(factors)


def _scaled(length: Any, scale: float) -> Any:
    if isinstance(length, torch.SymInt) and scale == int(scale):
        return length * int(scale)
    return math.floor(length * scale)


@op("Resize", since=11, host=("roi", "scales", "sizes"))
def resize(
    x: Tensor,
    roi: Shape | None = None,
    scales: Shape | None = None,
    sizes: Shape | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Resample axes to new lengths by nearest, linear or cubic interpolation."""
    along = list(range(x.ndim)) if axes is None else [a % x.ndim for a in axes]
    out, factors = _targets(x, scales or (), sizes or (), along, keep_aspect_ratio_policy)
    transform = coordinate_transformation_mode
    usual = cubic_coeff_a == -0.75 and not exclude_outside and not antialias
    if usual and keep_aspect_ratio_policy == "stretch":
        y = _plain(x, out, factors, bool(scales), mode, transform, nearest_mode)
        if y is not None:
            return y
    outside = None
    precise = torch.float32 if mode == "nearest" else torch.float64  # runtimes round in float32
    like = torch.empty(0, dtype=precise, device=x.device)
    y = x
    for position, axis in enumerate(along):
        length, wanted, scale = x.shape[axis], out[axis], factors[axis]
        bounds = (roi[position], roi[position + len(along)]) if roi else (0.0, 1.0)
        cropped = transform == "tf_crop_and_resize" and bounds != (0.0, 1.0)
        if scale == 1.0 and wanted == length and not cropped:
            continue
        at = _coordinates(length, wanted, scale, transform, bounds, like)
        if transform == "tf_crop_and_resize":
            beyond = (at < 0) | (at > length - 1)
            shaped = beyond.reshape((-1,) + (1,) * (x.ndim - 1 - axis))
            outside = shaped if outside is None else outside | shaped
        if mode == "nearest":
            index = _nearest(at, nearest_mode).clamp(0, length - 1).to(torch.int64)
            y = y.index_select(axis, index)
        else:
            weights = _weights(
                length, at, scale, mode, cubic_coeff_a, antialias, exclude_outside
            ).to(x.dtype)
            y = torch.tensordot(y, weights, dims=([axis], [1])).movedim(-1, axis)
    return y if outside is None else torch.where(outside, extrapolation_value, y)


def _resize_simple(x: Tensor, scales: Shape, mode: str) -> Tensor:
    """Resize as before opset 11: asymmetric; nearest takes the floor, the ceiling to shrink."""
    if mode != "nearest":
        return resize(x, None, scales, mode="linear", coordinate_transformation_mode="asymmetric")
    for axis, scale in enumerate(scales):
        if scale != 1.0:
            factors = tuple(scale if a == axis else 1.0 for a in range(x.ndim))
            x = resize(
                x,
                None,
                factors,
                coordinate_transformation_mode="asymmetric",
                nearest_mode="ceil" if scale < 1 else "floor",
            )
    return x


@op("Resize", since=10, host=("scales",))
def resize_asymmetric(x: Tensor, scales: Shape, *, mode: str = "nearest") -> Tensor:
    """Resample axes by nearest or linear interpolation."""
    return _resize_simple(x, scales, mode)


@op("Upsample", since=9, host=("scales",))
def upsample(x: Tensor, scales: Shape, *, mode: str = "nearest") -> Tensor:
    """Resample axes by nearest or linear interpolation."""
    return _resize_simple(x, scales, mode)


@op("Upsample", since=7)
def upsample_by_attribute(x: Tensor, *, scales: Shape, mode: str = "nearest") -> Tensor:
    """Resample axes by nearest or linear interpolation."""
    return _resize_simple(x, scales, mode)


_GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}


@op("GridSample", since=16)
def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Tensor:
    """Sample x [N, C, *spatial] at the places of a grid [N, *out, 2 or 3] in [-1, 1]."""
    method = _GRID_MODES.get(mode, mode)
    return F.grid_sample(x, grid, method, padding_mode, bool(align_corners))


@op("AffineGrid", since=20, host=("size",))
def affine_grid(theta: Tensor, size: Shape, *, align_corners: int = 0) -> Tensor:
    """Make the sampling grid of an affine map."""
    return F.affine_grid(theta, list(hv.ints(size)), bool(align_corners))
