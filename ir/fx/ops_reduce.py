"""Reductions over axes, extremum positions and running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsec.ir.fx import host as hv
from sparsec.ir.fx.registry import op

Shape = tuple[int, ...]
Reduction = Callable[[Tensor, Shape, bool], Tensor]


def _prod(x: Tensor, axes: Shape, keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: Shape, keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keepdim=keep)
    count = hv.product(x.shape[a] for a in axes)
    return torch.div(torch.sum(x, axes, keepdim=keep), count, rounding_mode="trunc")


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": lambda x, axes, keep: torch.sum(x, axes, keepdim=keep),
    "ReduceMean": _mean,
    "ReduceMax": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
    "ReduceProd": _prod,
    "ReduceL1": lambda x, axes, keep: torch.sum(torch.abs(x), axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: torch.sqrt(torch.sum(x * x, axes, keepdim=keep)),
    "ReduceLogSum": lambda x, axes, keep: torch.log(torch.sum(x, axes, keepdim=keep)),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: torch.sum(x * x, axes, keepdim=keep),
}

_HOST: dict[str, Callable[..., Any]] = {
    "ReduceSum": np.sum,
    "ReduceProd": np.prod,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
}


def _on_host(name: str) -> Callable[..., hv.Value] | None:
    function = _HOST.get(name)
    if function is None:
        return None

    def apply(
        x: hv.Host,
        axes: hv.Host | None = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> hv.Value:
        if not hv.ints(axes) and noop_with_empty_axes:
            return x
        along = tuple(hv.ints(axes)) or None
        return hv.from_array(function(hv.to_array(x), axis=along, keepdims=bool(keepdims)))

    return apply


def _by_input(function: Reduction) -> Callable[..., Tensor]:
    def apply(
        x: Tensor, axes: Shape | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        """Reduce over the axes of an input, over all if there is none."""
        along = tuple(hv.ints(axes))
        if not along and noop_with_empty_axes:
            return x
        return function(x, along or tuple(range(x.ndim)), bool(keepdims)).to(x.dtype)

    return apply


def _by_attribute(function: Reduction) -> Callable[..., Tensor]:
    def apply(x: Tensor, *, axes: Shape = (), keepdims: int = 1) -> Tensor:
        """Reduce over the axes of an attribute, over all if there is none."""
        return function(x, axes or tuple(range(x.ndim)), bool(keepdims)).to(x.dtype)

    return apply


for _name, _function in _REDUCTIONS.items():
    op(_name, on_host=_on_host(_name))(_by_attribute(_function))
    op(
        _name,
        since=13 if _name == "ReduceSum" else 18,
        host=("axes",),
        on_host=_on_host(_name),
    )(_by_input(_function))


def _extremum(find: Callable[..., Any]) -> Callable[..., Tensor]:
    def apply(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        """Position of the extreme element along one axis, the first or the last of equals."""
        if select_last_index:
            return x.shape[axis] - 1 - find(x.flip(axis), axis, keepdim=bool(keepdims))
        return find(x, axis, keepdim=bool(keepdims))

    return apply


op("ArgMax")(_extremum(torch.argmax))
op("ArgMin")(_extremum(torch.argmin))


@op("CumSum", since=11, host=("axis",))
def cumsum(x: Tensor, axis: hv.Host, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Sum of all elements up to each one, or without it, or from the end."""
    along = hv.scalar(axis)
    y = x.flip(along) if reverse else x
    running = torch.cumsum(y, along, dtype=x.dtype)
    running = running - y if exclusive else running
    return running.flip(along) if reverse else running
