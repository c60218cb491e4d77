"""Random numbers and dropout. Values differ from other runtimes: only their law is defined."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsec.ir.fx import host as hv
from sparsec.ir.fx.registry import op


@op("Dropout", since=12, many=True, host=("ratio", "training_mode"))
def dropout(
    x: Tensor,
    ratio: hv.Host | None = None,
    training_mode: hv.Host | None = None,
    *,
    seed: int | None = None,
    n_outputs: int = 1,
) -> tuple[Tensor, ...]:
    """Return x and a mask that keeps all; with training_mode drop a share of the elements."""
    share = 0.5 if ratio is None else hv.scalar(ratio)
    if training_mode is None or not hv.scalar(training_mode) or share == 0:
        return x, torch.ones_like(x, dtype=torch.bool)
    mask = torch.rand(x.shape, device=x.device, generator=_generator(seed, x.device)) >= share
    return x * mask / (1 - share), mask


@op("Dropout", many=True)
def dropout_inference(
    x: Tensor,
    *,
    consumed_inputs: tuple[int, ...] = (),
    is_test: int = 1,
    ratio: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Return x and a mask that keeps all."""
    return x, torch.ones_like(x, dtype=torch.bool)


def _generator(seed: float | None, device: torch.device) -> Any:
    return None if seed is None else torch.Generator(device).manual_seed(int(seed))


def _normal(shape: Any, dtype: torch.dtype, device: torch.device, seed: float | None) -> Tensor:
    return torch.randn(shape, dtype=dtype, device=device, generator=_generator(seed, device))


def _uniform(shape: Any, dtype: torch.dtype, device: torch.device, seed: float | None) -> Tensor:
    return torch.rand(shape, dtype=dtype, device=device, generator=_generator(seed, device))


@op("RandomNormal")
def random_normal(
    *,
    dtype: torch.dtype = torch.float32,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    shape: tuple[int, ...],
) -> Tensor:
    """Draw from a normal distribution."""
    return _normal(shape, dtype, torch.get_default_device(), seed) * scale + mean


@op("RandomNormalLike")
def random_normal_like(
    x: Tensor,
    *,
    dtype: torch.dtype | None = None,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
) -> Tensor:
    """Draw from a normal distribution in the shape of x."""
    return _normal(x.shape, dtype or x.dtype, x.device, seed) * scale + mean


@op("RandomUniform")
def random_uniform(
    *,
    dtype: torch.dtype = torch.float32,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
    shape: tuple[int, ...],
) -> Tensor:
    """Draw evenly from [low, high)."""
    return _uniform(shape, dtype, torch.get_default_device(), seed) * (high - low) + low


@op("RandomUniformLike")
def random_uniform_like(
    x: Tensor,
    *,
    dtype: torch.dtype | None = None,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
) -> Tensor:
    """Draw evenly from [low, high) in the shape of x."""
    return _uniform(x.shape, dtype or x.dtype, x.device, seed) * (high - low) + low


@op("Bernoulli", since=15)
def bernoulli(x: Tensor, *, dtype: torch.dtype | None = None, seed: float | None = None) -> Tensor:
    """Draw zeros and ones; x holds the chances of one."""
    return (_uniform(x.shape, x.dtype, x.device, seed) < x).to(dtype or x.dtype)
