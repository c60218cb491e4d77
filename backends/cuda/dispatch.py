"""From an operator on CUDA tensors to a kernel: which one multiplies a format, which one unpacks it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparsec.backends.cuda import formats, launch
from sparsec.backends.cuda.native_launch import native_linear
from sparsec.ir.errors import UnsupportedTargetError

Linear = Callable[[Tensor, Sequence[Tensor], "Tensor | None", Tensor], None]
Unpack = Callable[[Sequence[Tensor], Tensor], None]


def linear(
    name: str,
    x: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    y: Tensor,
    kernels: str,
) -> None:
    """Write ``x @ W.T + bias`` to ``y``.

    Parameters
    ----------
    name : str
        The format.
    x : float16 or bfloat16 [N, K]
    packed : sequence of Tensor
    bias : float32 [M], optional
    y : float32 or of the type of x [N, M]
    kernels : str
        Names of compiled kernels of an artifact, smallest bucket of N first, joined by commas; from
        source if there are none.

    Raises
    ------
    UnsupportedTargetError
        If no kernel multiplies the format.
    """
    _known(_LINEAR, name, "multiplies")(x, packed, bias, y)


def unpack(
    name: str, packed: Sequence[Tensor], shape: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """Return W [M, K], rebuilt on the device.

    Raises
    ------
    UnsupportedTargetError
        If no kernel unpacks the format.
    """
    weight = torch.empty(shape, dtype=dtype, device=packed[0].device)
    _known(_UNPACK, name, "unpacks")(packed, weight)
    return weight


def multiplies(name: str) -> bool:
    """Whether some kernel multiplies the format."""
    return name in _LINEAR


def unpacks(name: str) -> bool:
    """Whether some kernel unpacks the format."""
    return name in _UNPACK


def _nm24_linear(x: Tensor, packed: Sequence[Tensor], bias: Tensor | None, y: Tensor) -> None:
    vals, meta = packed
    launch.nm24_linear(x, vals, meta, bias, out=y)


def _nm24_unpack(packed: Sequence[Tensor], weight: Tensor) -> None:
    vals, meta = packed
    launch.nm24_unpack(vals, meta, weight)


def _native_linear(
    name: str, x: Tensor, packed: Sequence[Tensor], bias: Tensor | None, y: Tensor
) -> None:
    arrays = dict(zip(formats.get(name).arrays, packed, strict=True))
    native_linear(name, x, arrays, y, bias=bias)


_LINEAR: dict[str, Linear] = {
    "nm24": _nm24_linear,
    "nm24_sp": functools.partial(_native_linear, "nm24_sp"),
    "lps": functools.partial(_native_linear, "lps"),
}
_UNPACK: dict[str, Unpack] = {"nm24": _nm24_unpack}


def _known(table: dict[str, Callable[..., None]], name: str, does: str) -> Callable[..., None]:
    if name not in table:
        raise UnsupportedTargetError(
            f"no GPU kernel {does} the format {name!r} (there are: {', '.join(sorted(table))}); "
            "pack in one of these, or run on the CPU"
        )
    return table[name]
