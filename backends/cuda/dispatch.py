"""From an operator on CUDA tensors to a kernel: which one multiplies a format, which one unpacks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsec.backends.cuda import compiled, launch, nvcc, torch_formats
from sparsec.backends.cuda.formats.values import is_scaled
from sparsec.backends.cuda.native import NATIVE
from sparsec.backends.cuda.native_launch import device_sm, native_linear, native_unpack
from sparsec.backends.cuda.variants import FORMATS, SPARSE_MMA
from sparsec.ir.errors import UnsupportedTargetError


def linear(
    name: str,
    x: Tensor,
    packed: Sequence[Tensor],
    y: Tensor,
    values: str,
    kernels: str,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    act: str = "none",
) -> None:
    """Write ``act(x @ W.T + bias) + residual`` to ``y``.

    It is done by an artifact's own kernels, by CUDA C++, or by Triton.

    Parameters
    ----------
    name : str
        The format.
    x : float16 or bfloat16 [N, K]
    packed : sequence of Tensor
    y : float32 or of the type of x [N, M]
    values : str
        Type of the stored values.
    kernels : str
        Compiled kernels of an artifact, see :func:`sparsec.backends.cuda.compiled.as_text`; those that
        are not loaded, and none, mean kernels from source.
    bias : float32 [M], optional
    residual : like y, optional
    act : str
        One of ``variants.ACTIVATIONS``.

    Raises
    ------
    UnsupportedTargetError
        If no kernel multiplies the format.
    """
    arrays = torch_formats.named(name, packed, values)
    finish: dict[str, Any] = {"bias": bias, "residual": residual, "act": act}
    if compiled.loaded(kernels):
        compiled.linear(kernels, x, arrays, y, **finish)
    elif name in NATIVE and not _by_gluon(name, values, x):
        if not is_scaled(values) and torch_formats.VALUES[values] != x.dtype:
            raise UnsupportedTargetError(
                f"{name} of {values} is multiplied by {values}, got {x.dtype}"
            )
        native_linear(name, x, arrays, y, values=values, **finish)
    else:
        _known(name, NATIVE + FORMATS, "multiplies")
        launch.packed_linear(name, x, arrays, y.shape[1], values, out=y, **finish)


def _by_gluon(name: str, values: str, x: Tensor) -> bool:
    """Whether a format of the CUDA C++ kernels is multiplied by Gluon: if nothing compiles those here."""
    fits = name in SPARSE_MMA and not is_scaled(values)
    return fits and nvcc.why_not(device_sm(x.device.index)) is not None


def unpack(
    name: str, packed: Sequence[Tensor], shape: tuple[int, int], values: str, dtype: torch.dtype
) -> Tensor:
    """Return W [M, K], rebuilt on the device by an artifact's kernel, by CUDA C++, or by Triton.

    Raises
    ------
    UnsupportedTargetError
        If no kernel unpacks the format.
    """
    _known(name, NATIVE + FORMATS, "unpacks")
    narrow = dtype.itemsize == 2 and is_scaled(values)  # bits of 16-bit values only move
    made = dtype if narrow else torch_formats.multiplied_in(values)
    weight = torch.empty(shape, dtype=made, device=packed[0].device)
    arrays = torch_formats.named(name, packed, values)
    if not compiled.unpack(name, arrays, weight, values):
        by_source = native_unpack if name in NATIVE else launch.unpack
        by_source(name, arrays, weight, values)
    return weight.to(dtype)


def multiplies(name: str) -> bool:
    """Whether some kernel multiplies the format."""
    return name in NATIVE + FORMATS


def unpacks(name: str) -> bool:
    """Whether some kernel unpacks the format."""
    return name in NATIVE + FORMATS


def _known(name: str, there_are: tuple[str, ...], does: str) -> None:
    if name not in there_are:
        raise UnsupportedTargetError(
            f"no GPU kernel {does} the format {name!r} (there are: {', '.join(there_are)}); "
            "pack in one of these, or run on the CPU"
        )
