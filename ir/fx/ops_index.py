"""Slicing, gathering, scattering and searching."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsec.ir.fx import host as hv
from sparsec.ir.fx.registry import op

Shape = tuple[int, ...]

_REDUCE = {"mul": "prod", "max": "amax", "min": "amin", "add": "sum"}


_FAR = -(2**31)  # no axis is as long: a bound below it means the beginning


def _slice_axis(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    before = (slice(None),) * (axis % x.ndim)
    if step > 0:
        return x[(*before, slice(_near(start), _near(end), step))]
    # Torch steps forwards only: mirror the axis and the bounds.
    first, last = _backward_bounds(x.shape[axis], start, end)
    mirrored = slice(x.shape[axis] - 1 - first, x.shape[axis] - 1 - last, -step)
    return x.flip(axis)[(*before, mirrored)]


def _near(bound: int) -> int:
    return 0 if isinstance(bound, int) and bound < _FAR else bound


def _backward_bounds(length: int, start: int, end: int) -> tuple[int, int]:
    """Cut the bounds of a backward slice to the axis: start to an element, end to one before it.

    NumPy differs: there a start before the axis gives nothing, here the first element.
    """
    start = start + length if start < 0 else start
    end = end + length if end < 0 else end
    start = length - 1 if start > length - 1 else start
    end = length - 1 if end > length - 1 else end
    return (start if start > 0 else 0), (end if end > -1 else -1)


def _slices(
    starts: hv.Host, ends: hv.Host, axes: hv.Host | None, steps: hv.Host | None
) -> list[tuple[Any, ...]]:
    first = hv.ints(starts)
    along = hv.ints(axes) or list(range(len(first)))
    by = hv.ints(steps) or [1] * len(first)
    return list(zip(along, first, hv.ints(ends), by, strict=True))


def _host_slice(
    x: hv.Host,
    starts: hv.Host,
    ends: hv.Host,
    axes: hv.Host | None = None,
    steps: hv.Host | None = None,
) -> hv.Value:
    array = hv.to_array(x)
    for axis, start, end, step in _slices(starts, ends, axes, steps):
        if step < 0:
            start, end = _backward_bounds(array.shape[axis], start, end)
            end = None if end < 0 else end
        array = array[(slice(None),) * (axis % array.ndim) + (slice(start, end, step),)]
    return hv.from_array(array)


@op("Slice", since=10, host=("starts", "ends", "axes", "steps"), on_host=_host_slice)
def slice_(
    x: Tensor, starts: Shape, ends: Shape, axes: Shape | None = None, steps: Shape | None = None
) -> Tensor:
    """Take a range of each axis; bounds past the end are cut, negative ones count from it."""
    for axis, start, end, step in _slices(starts, ends, axes, steps):
        x = _slice_axis(x, axis, start, end, step)
    return x


@op("Slice", on_host=_host_slice)
def slice_by_attributes(
    x: Tensor, *, starts: Shape, ends: Shape, axes: Shape | None = None
) -> Tensor:
    """Take a range of each axis; bounds past the end are cut, negative ones count from it."""
    return slice_(x, starts, ends, axes)


def _host_gather(x: hv.Host, indices: hv.Host, *, axis: int = 0) -> hv.Value:
    return hv.from_array(np.take(hv.to_array(x), np.array(indices, dtype=np.int64), axis))


@op("Gather", loose=("indices",), on_host=_host_gather)
def gather(x: Tensor, indices: hv.Value, *, axis: int = 0) -> Tensor:
    """Take the entries of one axis that an index tensor of any rank names."""
    x, axis = hv.to_tensor(x), axis % x.ndim
    if hv.is_host(indices) and not isinstance(indices, tuple):
        return x.select(axis, indices)
    at = hv.to_tensor(indices, x.device).to(device=x.device, dtype=torch.int64)
    if not torch.compiler.is_exporting():
        return x[(slice(None),) * axis + (at,)]
    # These become ONNX's Gather again. In torch, unlike there, they refuse negative indices.
    if x.ndim == 2 and axis == 0:
        return torch.embedding(x, at)
    return x.index_select(axis, at.reshape(-1)).reshape(
        *x.shape[:axis], *at.shape, *x.shape[axis + 1 :]
    )


def _from_end(indices: Tensor, length: int) -> Tensor:
    """Turn negative indices into what they mean."""
    return torch.where(indices < 0, indices + length, indices)


@op("GatherElements", since=11)
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Take one element for each index, from the same place but for one axis."""
    return torch.gather(x, axis, _from_end(indices.to(torch.int64), x.shape[axis]))


@op("GatherND", since=11)
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Take the slices of x that the last axis of ``indices`` addresses."""
    if indices.shape[-1] == 1 and batch_dims == 0:
        return gather(x, indices.squeeze(-1))
    batch = []
    for axis in range(batch_dims):
        shape = [1] * (indices.ndim - 1)
        shape[axis] = indices.shape[axis]
        batch.append(torch.arange(indices.shape[axis], device=x.device).reshape(shape))
    return x[(*batch, *indices.to(torch.int64).unbind(-1))]


@op("ScatterElements", since=11)
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """Write or accumulate one element for each index."""
    at = _from_end(indices.to(torch.int64), x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, at, updates)
    return x.scatter_reduce(axis, at, updates, _REDUCE[reduction])


@op("Scatter", since=9)
def scatter(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0) -> Tensor:
    """Write one element for each index."""
    return scatter_elements(x, indices, updates, axis=axis)


@op("ScatterND", since=11)
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Write or accumulate the slices of x that the last axis of ``indices`` addresses."""
    indices = indices.to(torch.int64)
    if reduction == "none":
        return x.index_put(tuple(indices.unbind(-1)), updates)
    depth = indices.shape[-1]
    row = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for axis, at in enumerate(indices.unbind(-1)):
        row = row * x.shape[axis] + _from_end(at, x.shape[axis])
    width = hv.product(x.shape[depth:])
    table = x.reshape(hv.product(x.shape[:depth]), width)
    at = row.reshape(-1, 1).expand(-1, width)
    table = table.scatter_reduce(0, at, updates.reshape(at.shape), _REDUCE[reduction])
    return table.reshape(x.shape)


@op("NonZero", since=9)
def non_zero(x: Tensor) -> Tensor:
    """Return the indices of the non-zero elements, one column each."""
    return torch.nonzero(x).T


@op("Compress", since=9)
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Keep the entries of one axis, or of the flattened whole, where a condition holds."""
    at = torch.nonzero(condition).reshape(-1)
    return x.reshape(-1)[at] if axis is None else x.index_select(axis, at)


@op("Unique", since=11, many=True)
def unique(
    x: Tensor, *, axis: int | None = None, sorted: int = 1
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distinct entries with their first places, the way back and their counts."""
    values, inverse, counts = torch.unique(
        x, sorted=True, return_inverse=True, return_counts=True, dim=axis
    )
    inverse = inverse.reshape(-1)
    places = torch.arange(inverse.numel(), device=x.device)
    first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, places, "amin")
    if not sorted:
        order = torch.argsort(first)
        values = values.index_select(0 if axis is None else axis, order)
        first, counts, inverse = first[order], counts[order], torch.argsort(order)[inverse]
    return values, first, inverse, counts


@op("OneHot", since=9, host=("depth",))
def one_hot(indices: Tensor, depth: hv.Host, values: Tensor, *, axis: int = -1) -> Tensor:
    """Put the second of two values where the new axis equals the index, the first elsewhere."""
    classes = int(hv.scalar(depth))
    rank = indices.ndim + 1
    at = indices.to(torch.int64).unsqueeze(axis)
    at = torch.where(at < 0, at + classes, at)
    shape = [1] * rank
    shape[axis] = classes
    hit = at == torch.arange(classes, device=indices.device).reshape(shape)
    return torch.where(hit, values[1], values[0])


@op("Trilu", since=14, host=("k",))
def trilu(x: Tensor, k: hv.Host | None = None, *, upper: int = 1) -> Tensor:
    """Keep the upper or lower triangle from the k-th diagonal on."""
    diagonal = 0 if k is None else hv.scalar(k)
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@op("EyeLike", since=9)
def eye_like(x: Tensor, *, dtype: torch.dtype | None = None, k: int = 0) -> Tensor:
    """Ones on the k-th diagonal."""
    ones = torch.ones(x.shape, dtype=dtype or x.dtype, device=x.device)
    return torch.triu(torch.tril(ones, k), k)


@op("ReverseSequence", since=10)
def reverse_sequence(
    x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0
) -> Tensor:
    """Reverse the first ``lengths[b]`` time steps of each batch entry."""
    steps = torch.arange(x.shape[time_axis], device=x.device)
    at = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)  # [batch, time]
    at = at if batch_axis < time_axis else at.T
    shape = [1] * x.ndim
    shape[batch_axis], shape[time_axis] = x.shape[batch_axis], x.shape[time_axis]
    return torch.gather(x, time_axis, at.reshape(shape).expand(x.shape))


@op("TopK", since=11, host=("k",), many=True)
def top_k(x: Tensor, k: hv.Host, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:
    """Return the k largest or smallest elements; of equals, the first come first."""
    if torch.compiler.is_exporting():  # becomes ONNX's TopK again, which has the same rule
        return torch.topk(x, hv.scalar(k), axis, bool(largest), bool(sorted))
    values, at = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, hv.scalar(k)), at.narrow(axis, 0, hv.scalar(k))


@op("TopK", since=10, host=("k",), many=True)
def top_k_largest(x: Tensor, k: hv.Host, *, axis: int = -1) -> Any:
    """Return the k largest elements; of equals, the first come first."""
    return top_k(x, k, axis=axis)


@op("TopK", many=True)
def top_k_by_attribute(x: Tensor, *, k: int, axis: int = -1) -> Any:
    """Return the k largest elements; of equals, the first come first."""
    return top_k(x, k, axis=axis)
