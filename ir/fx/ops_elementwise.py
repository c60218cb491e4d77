"""Elementwise arithmetic, comparison, logic and casts."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsec.ir.fx import host as hv
from sparsec.ir.fx.registry import op

_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,  # both round halves to even
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}

_BINARY: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None]] = {
    "Add": (torch.add, operator.add),
    "Sub": (torch.sub, operator.sub),
    "Mul": (torch.mul, operator.mul),
    "And": (torch.logical_and, lambda a, b: a and b),
    "Or": (torch.logical_or, lambda a, b: a or b),
    "Xor": (torch.logical_xor, operator.ne),
    "Equal": (torch.eq, operator.eq),
    "Greater": (torch.gt, operator.gt),
    "GreaterOrEqual": (torch.ge, operator.ge),
    "Less": (torch.lt, operator.lt),
    "LessOrEqual": (torch.le, operator.le),
    "BitwiseAnd": (torch.bitwise_and, None),
    "BitwiseOr": (torch.bitwise_or, None),
    "BitwiseXor": (torch.bitwise_xor, None),
}


def _unary(function: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    def apply(x: Tensor) -> Tensor:
        """Apply one function to every element."""
        return function(x)

    return apply


def _binary(function: Callable[..., Any]) -> Callable[[Tensor, Tensor], Tensor]:
    def apply(a: Tensor, b: Tensor) -> Tensor:
        """Combine elements pairwise, broadcasting as NumPy does."""
        return function(a, b)

    return apply


def _legacy(function: Callable[..., Any]) -> Callable[..., Tensor]:
    def apply(a: Tensor, b: Tensor, *, broadcast: int = 0, axis: int | None = None) -> Tensor:
        """Combine elements; before opset 7 ``b`` lines up with ``a`` from ``axis`` on."""
        if broadcast and axis is not None:
            b = b.reshape(tuple(b.shape) + (1,) * (a.ndim - axis % a.ndim - b.ndim))
        return function(a, b)

    return apply


for _name, _function in _UNARY.items():
    op(_name)(_unary(_function))
for _name, (_function, _number) in _BINARY.items():
    op(_name, since=7, on_host=_number and hv.elementwise(_number))(_binary(_function))


@op("Neg", on_host=hv.elementwise(operator.neg))
def neg(x: Tensor) -> Tensor:
    """Change the sign."""
    return -x


@op("Div", since=7, on_host=hv.elementwise(hv.truncated_div))
def div(a: Tensor, b: Tensor) -> Tensor:
    """Divide; integers towards zero."""
    if a.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


for _name, _function in {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": div}.items():
    op(_name)(_legacy(_function))


def _host_mod(a: hv.Host, b: hv.Host, *, fmod: int = 0) -> hv.Value:
    return NotImplemented if fmod else hv.elementwise(operator.mod)(a, b)


@op("Mod", since=10, on_host=_host_mod)
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Remainder with the sign of the divisor, or of the dividend with ``fmod``."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@op("Pow", since=7)
def power(x: Tensor, y: Tensor) -> Tensor:
    """Raise to a power; the result has the type of the base."""
    return torch.pow(x, y).to(x.dtype)


@op("BitShift", since=11)
def bit_shift(x: Tensor, y: Tensor, *, direction: str) -> Tensor:
    """Shift unsigned integers left or right."""
    wide, by = x.to(torch.int64), y.to(torch.int64)
    shifted = wide << by if direction == "LEFT" else wide >> by
    return shifted.to(x.dtype)


def _fold(number: Callable[..., Any]) -> Callable[..., hv.Value]:
    return lambda *values: functools.reduce(hv.elementwise(number), values)


@op("Max", since=8, on_host=_fold(torch.sym_max))
def maximum(*values: Tensor) -> Tensor:
    """Largest of the operands, elementwise."""
    return functools.reduce(torch.maximum, values)


@op("Min", since=8, on_host=_fold(torch.sym_min))
def minimum(*values: Tensor) -> Tensor:
    """Smallest of the operands, elementwise."""
    return functools.reduce(torch.minimum, values)


@op("Sum", since=6)
def total(*values: Tensor) -> Tensor:
    """Sum of the operands, elementwise."""
    return functools.reduce(torch.add, values)


@op("Mean", since=8)
def mean(*values: Tensor) -> Tensor:
    """Mean of the operands, elementwise."""
    return functools.reduce(torch.add, values) / len(values)


@op("Where", since=9, on_host=hv.elementwise(lambda c, a, b: a if c else b))
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Choose from ``a`` where the condition holds, else from ``b``."""
    return torch.where(condition, a, b)


@op("IsInf", since=10)
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Find infinities of the wanted signs."""
    found = torch.isinf(x)
    if not detect_negative:
        found = found & (x > 0)
    if not detect_positive:
        found = found & (x < 0)
    return found


@op("Identity", on_host=lambda x: x)
def identity(x: hv.Value) -> hv.Value:
    """Return the operand."""
    return x


def _host_cast(x: hv.Host, *, to: torch.dtype, saturate: int = 1, round_mode: str = "") -> hv.Value:
    if to == torch.bool:
        return hv.elementwise(bool)(x)
    numbers = hv.elements(x)
    if to == torch.int64 and not any(isinstance(n, (float, torch.SymFloat)) for n in numbers):
        return hv.elementwise(lambda n: int(n) if isinstance(n, bool) else n)(x)
    return NotImplemented


@op("Cast", since=6, on_host=_host_cast)
def cast(x: Tensor, *, to: torch.dtype, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Convert to another type; float8 saturates unless told not to."""
    if to.is_floating_point and to.itemsize == 1 and saturate:
        limit = torch.finfo(to).max
        finite = torch.clamp(x, -limit, limit)
        return torch.where(torch.isnan(x), x, finite).to(to)
    return x.to(to)


@op("CastLike", since=15)
def cast_like(x: Tensor, target: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Convert to the type of another tensor."""
    return cast(x, to=target.dtype, saturate=saturate)


@op("Clip", since=11, inline=("low", "high"))
def clip(x: Tensor, low: hv.Value = None, high: hv.Value = None) -> Tensor:
    """Limit to [low, high]; a missing limit limits nothing."""
    if low is None and high is None:
        return x.clone()
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        bounds = (
            b if b is None else torch.as_tensor(b, dtype=x.dtype, device=x.device).reshape(())
            for b in (low, high)
        )
        return torch.clamp(x, *bounds)
    return torch.clamp(x, *(None if b is None else hv.scalar(b) for b in (low, high)))


@op("Clip", since=6)
def clip_by_attributes(x: Tensor, *, min: float = -math.inf, max: float = math.inf) -> Tensor:
    """Limit to [min, max]."""
    return torch.clamp(x, min, max)
