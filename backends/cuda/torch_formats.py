"""Packed formats on torch tensors: packing and unpacking by the format's code, launching by ours."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparsec.backends.cuda import formats
from sparsec.backends.cuda.formats.base import SCALE, Format
from sparsec.backends.cuda.formats.values import is_scaled
from sparsec.ir.patterns import Pattern

VALUES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "int8": torch.int8,
}


@functools.cache
def form_of(name: str) -> Format:
    """Return the format of that name; its arrays are passed in the order of :func:`array_names`."""
    return formats.get(name)


def array_names(name: str, values: str) -> tuple[str, ...]:
    """Return the arrays of a format in their order; 8-bit values add their scale."""
    return (*form_of(name).arrays, *([SCALE] if is_scaled(values) else []))


def named(name: str, packed: Sequence[Tensor], values: str) -> dict[str, Tensor]:
    """Return the arrays by name."""
    return dict(zip(array_names(name, values), packed, strict=True))


def multiplied_in(values: str) -> torch.dtype:
    """Return the type that x is brought to: that of the values, float16 for 8-bit ones."""
    dtype = VALUES[values]
    return dtype if dtype.itemsize == 2 else torch.float16


def pack(name: str, dense: Tensor, values: str, group: int | None = None) -> list[Tensor]:
    """Pack a matrix [M, K] of any float type into tensors on the CPU.

    Raises
    ------
    ShapeError, PatternError
        If the format cannot hold it.
    """
    wide = dense.detach().to("cpu", torch.float32).contiguous().numpy()
    arrays = form_of(name).pack(wide, values, group)
    return [torch.from_numpy(np.ascontiguousarray(arrays[k])) for k in array_names(name, values)]


def unpack(name: str, packed: Sequence[Tensor], shape: tuple[int, int], values: str) -> Tensor:
    """Return W as float32 [M, K] on the CPU, scales applied; the arrays are checked first."""
    arrays = _arrays(name, packed, values)
    return torch.from_numpy(form_of(name).unpack(arrays, shape, values))


def check(name: str, packed: Sequence[Tensor], shape: tuple[int, int], values: str) -> None:
    """Accept only what kernels can read.

    Raises
    ------
    ShapeError, PatternError
    """
    form_of(name).check(_arrays(name, packed, values), shape, values)


def format_for(pattern: Pattern, values: str) -> str | None:
    """Return the first format for ``pattern`` in values of that type, else one that holds anything."""
    fit = [name for name in formats.names() if values in form_of(name).values]
    for wanted in (str(pattern), "unstructured"):
        for name in fit:
            if form_of(name).pattern == wanted:
                return name
    return None


def refusal(name: str, pattern: Pattern, values: str) -> str | None:
    """Return why a format cannot hold a pattern in values of that type, or None."""
    form = form_of(name)
    if form.pattern not in (str(pattern), "unstructured"):
        return f"{name} holds {form.pattern}"
    if values not in form.values:
        return f"{name} holds {' or '.join(form.values)}"
    return None


def _arrays(name: str, packed: Sequence[Tensor], values: str) -> dict[str, np.ndarray]:
    return {key: array.cpu().numpy() for key, array in named(name, packed, values).items()}
