"""Padding and output sizes of sliding windows, shared by convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def same_pads(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    auto_pad: str,
    pads: Sequence[int],
) -> tuple[Any, ...]:
    """Return explicit pads (all beginnings, then all ends) for an ``auto_pad`` mode.

    SAME pads so that the output has ceil(input / stride) elements; an odd pad goes to the end for
    SAME_UPPER and to the beginning for SAME_LOWER.
    """
    rank = len(kernel)
    if auto_pad == "VALID":
        return (0,) * 2 * rank
    if auto_pad == "NOTSET" or not auto_pad:
        return tuple(pads) or (0,) * 2 * rank
    less, more = [], []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        out = (size + stride - 1) // stride
        missing = (out - 1) * stride + (k - 1) * dilation + 1 - size
        missing = missing if missing > 0 else 0
        less.append(missing // 2)
        more.append(missing - missing // 2)
    return tuple(less + more if auto_pad == "SAME_UPPER" else more + less)


def pad_spatial(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes of x by all beginnings, then all ends; negative pads crop."""
    rank = len(pads) // 2
    pairs = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[axis + rank])]
    return F.pad(x, pairs, value=value)


def ceil_overhang(size: int, kernel: int, stride: int, dilation: int, begin: int, end: int) -> int:
    """Return how far the last window of a ceil_mode pooling reaches past the padded input.

    A window that would start in the padding at the end is left out.
    """
    reach = (kernel - 1) * dilation + 1
    free = size + begin + end - reach
    out = (free + stride - 1) // stride + 1
    if (out - 1) * stride >= size + begin:
        out = out - 1
    overhang = (out - 1) * stride + reach - (size + begin + end)
    return overhang if overhang > 0 else 0
