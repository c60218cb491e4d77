"""Normalisation layers, as inference sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sparsec.ir.fx.registry import op
from sparsec.ir.fx.windows import pad_spatial


def _per_channel(v: Tensor, x: Tensor) -> Tensor:
    """Shape a vector of channels to broadcast over x [N, C, ...]."""
    return v.reshape(-1, *(1,) * (x.ndim - 2))


@op("BatchNormalization", since=14, frozen=("mean", "var"), many=True)
def batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> tuple[Tensor, ...]:
    """Scale and shift channels by stored statistics, or by the batch's with training_mode."""
    if not training_mode:
        return (F.batch_norm(x, mean, var, scale, bias, eps=epsilon),)
    axes = [a for a in range(x.ndim) if a != 1]
    batch_var, batch_mean = torch.var_mean(x, axes, correction=0)
    y = F.batch_norm(x, batch_mean, batch_var, scale, bias, eps=epsilon)
    keep = 1.0 - momentum
    return y, mean * momentum + batch_mean * keep, var * momentum + batch_var * keep


def _no_per_element_statistics(attributes: Mapping[str, Any]) -> str | None:
    return None if attributes.get("spatial", 1) else "spatial=0 (statistics for each element)"


@op(
    "BatchNormalization",
    frozen=("mean", "var"),
    many=True,
    refuse=_no_per_element_statistics,
)
def batch_norm_inference(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    consumed_inputs: Sequence[int] = (),
    epsilon: float = 1e-5,
    is_test: int = 0,
    momentum: float = 0.9,
    spatial: int = 1,
) -> tuple[Tensor, ...]:
    """Scale and shift channels by stored statistics."""
    return (F.batch_norm(x, mean, var, scale, bias, eps=epsilon),)


@op("InstanceNormalization", since=6)
def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Normalise every map by its own mean and variance."""
    var, mean = torch.var_mean(x, tuple(range(2, x.ndim)), correction=0, keepdim=True)
    y = (x - mean) * torch.rsqrt(var + epsilon)
    return y * _per_channel(scale, x) + _per_channel(bias, x)


# Runtimes took LayerNormalization as an operator of the default domain long before opset 17.
@op("LayerNormalization", many=True)
def layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    n_outputs: int = 1,
) -> tuple[Tensor, ...]:
    """Normalise over all axes from ``axis`` on; also returns mean and inverse deviation."""
    axis = axis % x.ndim
    span = tuple(x.shape[axis:])
    fits = tuple(scale.shape) == span and (bias is None or tuple(bias.shape) == span)
    if n_outputs == 1 and fits:
        return (F.layer_norm(x, span, scale, bias, epsilon),)
    wide = x.float() if x.element_size() < 4 else x
    axes = tuple(range(axis, x.ndim))
    var, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    inverse = torch.rsqrt(var + epsilon)
    y = ((wide - mean) * inverse).to(x.dtype) * scale
    return (y if bias is None else y + bias), mean, inverse


@op("GroupNormalization", since=21)
def group_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    stash_type: int = 1,
) -> Tensor:
    """Normalise groups of channels; scale and bias are per channel."""
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@op("GroupNormalization", since=18)
def group_norm_by_group(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, num_groups: int
) -> Tensor:
    """Normalise groups of channels; scale and bias are per group."""
    width = x.shape[1] // num_groups
    scale, bias = (v.repeat_interleave(width) for v in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@op("RMSNormalization", since=23)
def rms_norm(
    x: Tensor,
    scale: Tensor,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """Divide by the root of the mean square over all axes from ``axis`` on."""
    wide = x.float() if x.element_size() < 4 else x
    axes = tuple(range(axis % x.ndim, x.ndim))
    square = torch.mean(wide * wide, axes, keepdim=True)
    return (wide * torch.rsqrt(square + epsilon)).to(x.dtype) * scale


@op("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divide by the 1- or 2-norm along one axis; zeros stay zero."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@op("MeanVarianceNormalization", since=9)
def mean_variance_normalization(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    """Subtract the mean and divide by the standard deviation."""
    var, mean = torch.var_mean(x, tuple(axes), correction=0, keepdim=True)
    return (x - mean) / (torch.sqrt(var) + 1e-9)


@op("LRN")
def local_response_norm(
    x: Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int
) -> Tensor:
    """Divide by a power of the mean square over neighbouring channels."""
    before = (size - 1) // 2
    rank = x.ndim - 2
    pads = (before, *(0,) * rank, size - 1 - before, *(0,) * rank)
    square = pad_spatial(x * x, pads).unfold(1, size, 1).sum(-1)
    return x / (bias + alpha / size * square) ** beta
