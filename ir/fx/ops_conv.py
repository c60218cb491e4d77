"""Convolution and its transpose, of any spatial rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sparsec.ir.errors import ShapeError
from sparsec.ir.fx.registry import op
from sparsec.ir.fx.windows import pad_spatial, same_pads

_CONV: dict[int, Callable[..., Any]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Any]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def _of_rank(table: dict[int, Callable[..., Any]], rank: int, name: str) -> Callable[..., Any]:
    if rank not in table:
        raise ShapeError(f"{name}: needed 1, 2 or 3 spatial axes, got {rank}", where=name)
    return table[rank]


@op("Conv")
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (),
    group: int = 1,
    kernel_shape: Sequence[int] = (),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Tensor:
    """Convolve x [N, C, *spatial] with w [O, C / group, *kernel]."""
    rank = w.ndim - 2
    run = _of_rank(_CONV, rank, "Conv")
    kernel = tuple(w.shape[2:])
    strides = tuple(strides) or (1,) * rank
    dilations = tuple(dilations) or (1,) * rank
    pads = same_pads(x, kernel, strides, dilations, auto_pad, pads)
    if pads[:rank] == pads[rank:]:
        return run(x, w, b, strides, pads[:rank], dilations, group)
    return run(pad_spatial(x, pads), w, b, strides, 0, dilations, group)


@op("ConvTranspose")
def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (),
    group: int = 1,
    kernel_shape: Sequence[int] = (),
    output_padding: Sequence[int] = (),
    output_shape: Sequence[int] = (),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Tensor:
    """Gradient of a convolution: x [N, C, *spatial], w [C, O / group, *kernel]."""
    rank = w.ndim - 2
    run = _of_rank(_CONV_TRANSPOSE, rank, "ConvTranspose")
    strides = tuple(strides) or (1,) * rank
    dilations = tuple(dilations) or (1,) * rank
    extra = tuple(output_padding) or (0,) * rank
    pads = tuple(pads) or (0,) * 2 * rank
    if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = tuple(output_shape)[-rank:] or tuple(
            size * stride for size, stride in zip(x.shape[2:], strides, strict=True)
        )
        cuts = [
            stride * (size - 1) + more + (k - 1) * dilation + 1 - out
            for stride, size, more, k, dilation, out in zip(
                strides, x.shape[2:], extra, w.shape[2:], dilations, wanted, strict=True
            )
        ]
        less = [cut // 2 for cut in cuts]
        more_ = [cut - cut // 2 for cut in cuts]
        pads = tuple(less + more_ if auto_pad == "SAME_UPPER" else more_ + less)
    if pads[:rank] == pads[rank:] and all(p >= 0 for p in pads):
        return run(x, w, b, strides, pads[:rank], extra, group, dilations)
    full = run(x, w, b, strides, 0, extra, group, dilations)
    return pad_spatial(full, tuple(-p for p in pads))
