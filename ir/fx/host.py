"""Host values: the small integers of shape arithmetic, kept out of tensors.

An ONNX graph computes shapes with the same operators as data. As tensors those values would cost a
device round trip each, and under :func:`torch.export.export` they would be unknown numbers. So an
int64 or bool value whose elements Python knows is a *host value*: a number for rank 0, nested
tuples for higher ranks. Its elements may be :class:`torch.SymInt`, so that a dynamic shape stays
symbolic. ``Shape`` makes host values, small constants are host values, and operators that have a
host rule keep them so; every other operator turns them into tensors. An integer element stands
for int64, a bool for bool; floats occur only as literals of attributes-to-be (scales, limits).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import torch

Host: TypeAlias = "int | float | bool | tuple[Any, ...]"
Value: TypeAlias = Any  # torch.Tensor, Host, list of tensors (an ONNX sequence) or None (absent)

_NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


def is_host(value: Value) -> bool:
    """Say whether ``value`` is a host value."""
    return isinstance(value, (tuple, *_NUMBERS))


def to_array(value: Host) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Return a host value as an object array of its shape."""
    return np.array(value, dtype=object)


def from_array(array: Any) -> Value:
    """Return an object array as a host value; as an int64 tensor if tuples cannot hold its shape.

    Examples
    --------
    >>> from_array(np.array([[1, 2], [3, 4]], dtype=object))
    ((1, 2), (3, 4))
    """
    array = np.asarray(array, dtype=object)
    if array.size == 0 and array.ndim > 1:
        return torch.zeros(array.shape, dtype=torch.int64)
    return _tuples(array.tolist())


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def elements(value: Host) -> list[Any]:
    """Return the numbers in a host value, row by row."""
    if not isinstance(value, tuple):
        return [value]
    return [number for item in value for number in elements(item)]


def to_tensor(value: Value, device: torch.device | None = None) -> Any:
    """Return a host value as an int64, bool or float tensor; anything else unchanged."""
    if not is_host(value):
        return value
    numbers = elements(value)
    if any(isinstance(n, _SYMBOLS) for n in numbers):
        parts = [
            torch.scalar_tensor(n, dtype=_element_dtype(n), device=device)  # keeps n symbolic
            for n in numbers
        ]
        return torch.stack(parts).reshape(np.shape(to_array(value)))
    if not numbers:
        return torch.zeros(np.shape(to_array(value)), dtype=torch.int64, device=device)
    return torch.tensor(value, dtype=_element_dtype(numbers[0]), device=device)


def _element_dtype(number: Any) -> torch.dtype:
    if isinstance(number, (bool, torch.SymBool)):
        return torch.bool
    if isinstance(number, (float, torch.SymFloat)):
        return torch.get_default_dtype()
    return torch.int64


def to_host(value: Value) -> Any:
    """Return a tensor's elements as a host value; anything else unchanged.

    Reading a tensor waits for its device, and under export makes its elements unknown.
    """
    return _tuples(value.tolist()) if isinstance(value, torch.Tensor) else value


def elementwise(function: Callable[..., Any]) -> Callable[..., Value]:
    """Lift a function of numbers to host values, with ONNX (NumPy) broadcasting."""

    def apply(*values: Host) -> Value:
        arrays = np.broadcast_arrays(*(to_array(v) for v in values))
        flat = [function(*numbers) for numbers in zip(*(a.ravel() for a in arrays), strict=True)]
        result = np.empty(len(flat), dtype=object)
        result[:] = flat
        return from_array(result.reshape(arrays[0].shape))

    return apply


def truncated_div(a: Any, b: Any) -> Any:
    """Divide integers as ONNX does: towards zero.

    Examples
    --------
    >>> truncated_div(-7, 2), truncated_div(7, 2)
    (-3, 3)
    """
    return a // b if (a >= 0) == (b > 0) else -(-a // b)


def ints(value: Host | None) -> list[Any]:
    """Return a host value of rank 0 or 1 as a list of integers; an absent one as no integers."""
    if value is None:
        return []
    return list(value) if isinstance(value, tuple) else [value]


def scalar(value: Any) -> Any:
    """Return the only element of a host value."""
    (number,) = elements(value)
    return number


def product(numbers: Iterable[Any]) -> Any:
    """Multiply integers that may be symbolic."""
    result: Any = 1
    for number in numbers:
        result = result * number
    return result
