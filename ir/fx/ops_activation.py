"""Activation functions and soft maxima."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sparsec.ir.fx.registry import op


@op("Relu")
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.relu(x)


@op("Sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


@op("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """X where positive, else alpha x."""
    return F.leaky_relu(x, alpha)


@op("PRelu", since=7)
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """X where positive, else slope x; the slope broadcasts to x."""
    return torch.where(x < 0, x * slope, x)


@op("PRelu")
def prelu_by_channel(x: Tensor, slope: Tensor) -> Tensor:
    """X where positive, else slope x; before opset 7 the slope is one value or one a channel."""
    return F.prelu(x, slope.reshape(-1))


@op("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """X where positive, else alpha (exp(x) - 1)."""
    return F.elu(x, alpha)


@op("Celu", since=12)
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1))."""
    return F.celu(x, alpha)


@op("Selu")
def selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    """Gamma times x where positive, else gamma alpha (exp(x) - 1)."""
    return gamma * F.elu(x, alpha)


@op("Gelu", since=20)
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """X times the normal distribution function, exact or by tanh."""
    return F.gelu(x, approximate=approximate)


@op("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Alpha x + beta, cut to [0, 1]."""
    if beta == 0.5 and abs(alpha - 1 / 6) < 1e-7:  # torch's own, and ONNX's again when exported
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@op("HardSwish", since=14)
def hard_swish(x: Tensor) -> Tensor:
    """X times HardSigmoid with alpha 1/6."""
    return F.hardswish(x)


@op("Mish", since=18)
def mish(x: Tensor) -> Tensor:
    """X tanh(softplus(x))."""
    return F.mish(x)


@op("Swish", since=24)
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """X sigmoid(alpha x)."""
    return x * torch.sigmoid(alpha * x)


@op("Softplus")
def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return F.softplus(x, threshold=40.0)  # torch's 20 is visible in float64


@op("Softsign")
def softsign(x: Tensor) -> Tensor:
    """X / (1 + abs(x))."""
    return F.softsign(x)


@op("ThresholdedRelu", since=10)
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """X where greater than alpha, else 0."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@op("Shrink", since=9)
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Bring values outside [-lambd, lambd] nearer to zero by bias; the others are zero."""
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))


def _hardmax(x: Tensor, axis: int) -> Tensor:
    first = torch.argmax(x, dim=axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1)


def _flattened(function: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    """Make the form before opset 13: all axes from ``axis`` on count as one."""

    def apply(x: Tensor, *, axis: int = 1) -> Tensor:
        """Normalise over all axes from ``axis`` on together."""
        axis = axis + x.ndim if axis < 0 else axis
        rows = x.reshape(*x.shape[:axis], -1)
        return function(rows, -1).reshape(x.shape)

    return apply


def _along(function: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    def apply(x: Tensor, *, axis: int = -1) -> Tensor:
        """Normalise over one axis."""
        return function(x, axis)

    return apply


for _name, _function in {
    "Softmax": torch.softmax,
    "LogSoftmax": torch.log_softmax,
    "Hardmax": _hardmax,
}.items():
    op(_name)(_flattened(_function))
    op(_name, since=13)(_along(_function))
