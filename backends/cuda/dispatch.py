"""From an operator on CUDA tensors to a kernel: which one multiplies a format, which one unpacks it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsec.backends.cuda import launch
from sparsec.backends.cuda.formats.values import is_scaled
from sparsec.backends.cuda.native import NATIVE
from sparsec.backends.cuda.native_launch import native_linear
from sparsec.backends.cuda.torch_formats import array_names
from sparsec.backends.cuda.variants import FORMATS
from sparsec.ir.errors import UnsupportedTargetError


def linear(
    name: str,
    x: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    y: Tensor,
    values: str,
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
    values : str
        Type of the stored values.
    kernels : str
        Names of compiled kernels of an artifact, smallest bucket of N first, joined by commas; from
        source if there are none.

    Raises
    ------
    UnsupportedTargetError
        If no kernel multiplies the format.
    """
    _known(name, NATIVE + FORMATS, "multiplies")
    if name in NATIVE:
        native_linear(name, x, _arrays(name, packed, values), y, bias=bias)
        return
    launch.packed_linear(
        name, x, _arrays(name, packed, values), y.shape[1], values, bias=bias, out=y
    )


def unpack(
    name: str, packed: Sequence[Tensor], shape: tuple[int, int], values: str, dtype: torch.dtype
) -> Tensor:
    """Return W [M, K], rebuilt on the device.

    Raises
    ------
    UnsupportedTargetError
        If no kernel unpacks the format.
    """
    _known(name, FORMATS, "unpacks")
    stored = dtype if is_scaled(values) else getattr(torch, values)
    weight = torch.empty(shape, dtype=stored, device=packed[0].device)
    return launch.unpack(name, _arrays(name, packed, values), weight, values).to(dtype)


def multiplies(name: str) -> bool:
    """Whether some kernel multiplies the format."""
    return name in NATIVE + FORMATS


def unpacks(name: str) -> bool:
    """Whether some kernel unpacks the format."""
    return name in FORMATS


def _arrays(name: str, packed: Sequence[Tensor], values: str) -> dict[str, Tensor]:
    return dict(zip(array_names(name, values), packed, strict=True))


def _known(name: str, there_are: tuple[str, ...], does: str) -> None:
    if name not in there_are:
        raise UnsupportedTargetError(
            f"no GPU kernel {does} the format {name!r} (there are: {', '.join(there_are)}); "
            "pack in one of these, or run on the CPU"
        )
