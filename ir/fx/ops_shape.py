"""Shapes, layout and padding: operators that move elements without looking at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sparsec.ir.fx import host as hv
from sparsec.ir.fx.registry import op
from sparsec.ir.fx.windows import pad_spatial

Shape = tuple[int, ...]


@op("Shape", on_host=lambda x, **span: shape(hv.to_tensor(x), **span))
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Shape:
    """Lengths of the axes, as a host value."""
    return tuple(x.shape)[start:end]


@op("Size", on_host=lambda x: len(hv.elements(x)))
def size(x: Tensor) -> int:
    """Count of the elements, as a host value."""
    return hv.product(x.shape)  # type: ignore[no-any-return]


def _target(old: Sequence[int], new: Shape, allowzero: int) -> Shape:
    """Resolve the zeros of a Reshape target, which mean "as it was" unless allowed."""
    if allowzero:
        return new
    return tuple(old[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(new))


@op(
    "Reshape",
    since=5,
    host=("new",),
    on_host=lambda x, new, **zero: hv.from_array(
        hv.to_array(x).reshape(_target(hv.to_array(x).shape, new, **{"allowzero": 0, **zero}))
    ),
)
def reshape(x: Tensor, new: Shape, *, allowzero: int = 0) -> Tensor:
    """Give other axes to the same elements."""
    return x.reshape(_target(x.shape, new, allowzero))


@op("Reshape")
def reshape_by_attribute(x: Tensor, *, shape: Shape, consumed_inputs: Shape = ()) -> Tensor:
    """Give other axes to the same elements."""
    return x.reshape(_target(x.shape, shape, 0))


@op("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Make a matrix: the axes before ``axis`` are its rows."""
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(hv.product(x.shape[:axis]), hv.product(x.shape[axis:]))


@op(
    "Transpose",
    on_host=lambda x, *, perm=None: hv.from_array(hv.to_array(x).transpose(perm)),
)
def transpose(x: Tensor, *, perm: Shape | None = None) -> Tensor:
    """Reorder the axes, reversing them by default."""
    return x.permute(tuple(reversed(range(x.ndim))) if perm is None else perm)


def _host_squeeze(x: hv.Host, axes: hv.Host | None = None) -> hv.Value:
    return hv.from_array(hv.to_array(x).squeeze(None if axes is None else tuple(hv.ints(axes))))


@op("Squeeze", since=13, host=("axes",), on_host=_host_squeeze)
def squeeze(x: Tensor, axes: Shape | None = None) -> Tensor:
    """Drop axes of length 1."""
    return x.squeeze() if axes is None else x.squeeze(tuple(hv.ints(axes)))


@op("Squeeze", on_host=_host_squeeze)
def squeeze_by_attribute(x: Tensor, *, axes: Shape | None = None) -> Tensor:
    """Drop axes of length 1."""
    return squeeze(x, axes)


def _host_unsqueeze(x: hv.Host, axes: hv.Host) -> hv.Value:
    return hv.from_array(np.expand_dims(hv.to_array(x), tuple(hv.ints(axes))))


@op("Unsqueeze", since=13, host=("axes",), on_host=_host_unsqueeze)
def unsqueeze(x: Tensor, axes: Shape) -> Tensor:
    """Add axes of length 1 at the given places of the result."""
    rank = x.ndim + len(hv.ints(axes))
    for axis in sorted(a % rank for a in hv.ints(axes)):
        x = x.unsqueeze(axis)
    return x


@op("Unsqueeze", on_host=_host_unsqueeze)
def unsqueeze_by_attribute(x: Tensor, *, axes: Shape) -> Tensor:
    """Add axes of length 1 at the given places of the result."""
    return unsqueeze(x, axes)


@op(
    "Concat",
    since=4,
    on_host=lambda *xs, axis: hv.from_array(np.concatenate([hv.to_array(x) for x in xs], axis)),
)
def concat(*xs: Tensor, axis: int) -> Tensor:
    """Join along one axis."""
    return torch.cat(xs, axis)


@op("Concat")
def concat_default_axis(*xs: Tensor, axis: int = 1) -> Tensor:
    """Join along one axis, the second by default."""
    return torch.cat(xs, axis)


def _pieces(length: int, sizes: hv.Host | None, n_outputs: int) -> Shape:
    """Return the lengths that Split gives: equal ones, the last smaller, if none are wanted."""
    if sizes is not None and hv.ints(sizes):
        return tuple(hv.ints(sizes))
    chunk = -(-length // n_outputs)
    return (chunk,) * (n_outputs - 1) + (length - chunk * (n_outputs - 1),)


def _host_split(
    x: hv.Host, sizes: hv.Host | None = None, *, axis: int = 0, n_outputs: int, **_: Any
) -> hv.Value:
    array = hv.to_array(x)
    ends = np.cumsum(_pieces(array.shape[axis], sizes, n_outputs))[:-1]
    return tuple(hv.from_array(part) for part in np.split(array, ends, axis))


@op("Split", since=13, host=("split",), on_host=_host_split, many=True)
def split(
    x: Tensor,
    split: Shape | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    n_outputs: int,
) -> tuple[Tensor, ...]:
    """Cut along one axis, into equal pieces by default."""
    return torch.split(x, _pieces(x.shape[axis], split, n_outputs), axis)  # type: ignore[no-any-return]


@op("Split", since=2, many=True)
def split_by_attribute(
    x: Tensor, *, axis: int = 0, split: Shape | None = None, n_outputs: int
) -> tuple[Tensor, ...]:
    """Cut along one axis, into equal pieces by default."""
    return torch.split(x, _pieces(x.shape[axis], split, n_outputs), axis)  # type: ignore[no-any-return]


def broadcast_target(old: Sequence[int], wanted: Sequence[int]) -> Shape:
    """Return the shape that Expand gives: both shapes broadcast with each other."""
    rank = max(len(old), len(wanted))
    old = (1,) * (rank - len(old)) + tuple(old)
    wanted = (1,) * (rank - len(wanted)) + tuple(wanted)
    return tuple(
        o if isinstance(w, int) and w == 1 else w for o, w in zip(old, wanted, strict=True)
    )


@op(
    "Expand",
    since=8,
    host=("new",),
    on_host=lambda x, new: hv.from_array(
        np.broadcast_to(hv.to_array(x), broadcast_target(hv.to_array(x).shape, new))
    ),
)
def expand(x: Tensor, new: Shape) -> Tensor:
    """Repeat axes of length 1, in both directions of broadcasting."""
    return x.expand(broadcast_target(x.shape, new))


@op(
    "Tile",
    since=6,
    host=("repeats",),
    on_host=lambda x, repeats: hv.from_array(np.tile(hv.to_array(x), repeats)),
)
def tile(x: Tensor, repeats: Shape) -> Tensor:
    """Repeat the whole along each axis."""
    return x.repeat(repeats)


def _pad_index(length: Any, begin: Any, end: Any, mode: str, device: torch.device) -> Tensor:
    """Return which element each place of a padded axis takes."""
    at = torch.arange(-begin, length + end, device=device)
    if mode == "edge":
        return at.clamp(0, length - 1)
    if mode == "wrap":
        return at.remainder(length)
    period = 2 * (length - 1)  # reflect
    if isinstance(period, int) and period == 0:
        return torch.zeros_like(at)
    at = at.remainder(period)
    return torch.minimum(at, period - at)


def _pad(x: Tensor, pads: Shape, mode: str, value: float, axes: Sequence[int]) -> Tensor:
    count = len(axes)
    per_axis = {a % x.ndim: (pads[i], pads[i + count]) for i, a in enumerate(axes)}
    if mode == "constant":
        pairs = [per_axis.get(a, (0, 0)) for a in range(x.ndim)]
        return pad_spatial(x, tuple(b for b, _ in pairs) + tuple(e for _, e in pairs), value)
    for axis, (begin, end) in per_axis.items():
        if not (isinstance(begin, int) and isinstance(end, int) and begin == end == 0):
            at = _pad_index(x.shape[axis], begin, end, mode, x.device)
            x = x.index_select(axis, at)
    return x


@op("Pad", since=11, host=("pads", "constant_value", "axes"))
def pad(
    x: Tensor,
    pads: Shape,
    constant_value: hv.Host | None = None,
    axes: Shape | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """Extend axes by a constant, the edge, a reflection or by wrapping round; negative crops."""
    value = 0 if constant_value is None else hv.scalar(constant_value)
    return _pad(x, pads, mode, value, range(x.ndim) if axes is None else axes)


@op("Pad", since=2)
def pad_by_attribute(
    x: Tensor, *, pads: Shape, mode: str = "constant", value: float = 0.0
) -> Tensor:
    """Extend axes by a constant, the edge or a reflection; negative crops."""
    return _pad(x, pads, mode, value, range(x.ndim))


@op("Pad")
def pad_by_paddings(
    x: Tensor, *, paddings: Shape, mode: str = "constant", value: float = 0.0
) -> Tensor:
    """Extend axes by a constant, the edge or a reflection; negative crops."""
    return _pad(x, paddings, mode, value, range(x.ndim))


@op("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Move channels into blocks of pixels; DCR takes the block first, CRD the channel."""
    n, c, h, w = x.shape
    b = blocksize
    if mode == "CRD":
        return F.pixel_shuffle(x, b)
    y = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // (b * b), h * b, w * b)


@op("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """Move blocks of pixels into channels, the block first."""
    n, c, h, w = x.shape
    b = blocksize
    y = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * b * b, h // b, w // b)


@op("CenterCropPad", since=18, host=("wanted",))
def center_crop_pad(x: Tensor, wanted: Shape, *, axes: Shape | None = None) -> Tensor:
    """Crop or zero-pad axes about their middle to the wanted lengths."""
    for axis, length in zip(range(x.ndim) if axes is None else axes, wanted, strict=True):
        missing = length - x.shape[axis]
        if missing < 0:
            x = x.narrow(axis, -missing // 2, length)
        else:
            x = _pad(x, (missing // 2, missing - missing // 2), "constant", 0.0, [axis])
    return x


def _host_constant(
    new: hv.Host, *, value: Any = 0.0, dtype: torch.dtype = torch.float32
) -> hv.Value:
    """Stay on the host for the short int64 vectors that shape arithmetic makes."""
    lengths = hv.ints(new)
    if dtype != torch.int64 or len(lengths) > 1 or not all(type(n) is int for n in lengths):
        return NotImplemented
    if not lengths:
        return value
    return (value,) * lengths[0] if lengths[0] <= 16 else NotImplemented


@op("ConstantOfShape", since=9, host=("new",), on_host=_host_constant)
def constant_of_shape(
    new: Shape, *, value: Any = 0.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Fill a new tensor with one value."""
    return torch.full(tuple(hv.ints(new)), value, dtype=dtype)


@op("Range", since=11, loose=("start", "limit", "delta"), on_host=lambda *a: _range(*a))
def arange(start: hv.Value, limit: hv.Value, delta: hv.Value) -> Tensor:
    """Count from start to limit, limit left out."""
    dtype = next(v.dtype for v in (start, limit, delta) if isinstance(v, Tensor))
    device = next(v.device for v in (start, limit, delta) if isinstance(v, Tensor))
    return _range(start, limit, delta).to(dtype=dtype, device=device)


def _range(start: hv.Value, limit: hv.Value, delta: hv.Value) -> Tensor:
    return torch.arange(*(hv.scalar(hv.to_host(v)) for v in (start, limit, delta)))
