"""Signal transforms and window functions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparsec.ir.fx import host as hv
from sparsec.ir.fx.registry import op


@op("DFT", since=20, host=("length", "axis"))
def dft(
    x: Tensor,
    length: hv.Host | None = None,
    axis: hv.Host | None = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Tensor:
    """Discrete Fourier transform along one axis; the last axis holds real and imaginary part."""
    along = (-2 if axis is None else hv.scalar(axis)) % x.ndim
    count = x.shape[along] if length is None else hv.scalar(length)
    if inverse and onesided:
        z = torch.view_as_complex(x.contiguous())
        return torch.fft.irfft(z, count, along).unsqueeze(-1)
    z = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x.squeeze(-1)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(z, count, along))
    y = torch.fft.fft(z, count, along)
    return torch.view_as_real(y.narrow(along, 0, count // 2 + 1) if onesided else y)


@op("DFT", since=17, host=("length",))
def dft_by_attribute(
    x: Tensor,
    length: hv.Host | None = None,
    *,
    axis: int = 1,
    inverse: int = 0,
    onesided: int = 0,
) -> Tensor:
    """Discrete Fourier transform along one axis; the last axis holds real and imaginary part."""
    return dft(x, length, axis, inverse=inverse, onesided=onesided)


@op("STFT", since=17, host=("frame_step", "frame_length"))
def stft(
    signal: Tensor,
    frame_step: hv.Host,
    window: Tensor | None = None,
    frame_length: hv.Host | None = None,
    *,
    onesided: int = 1,
) -> Tensor:
    """Short-time Fourier transform: [batch, length, 1 or 2] to [batch, frames, bins, 2]."""
    if frame_length is not None:
        size = hv.scalar(frame_length)
    else:
        size = signal.shape[1] if window is None else window.shape[0]
    frames = signal.unfold(1, size, hv.scalar(frame_step)).mT  # [batch, frames, size, 1 or 2]
    if window is not None:
        frames = frames * window[:, None]
    return dft(frames, None, 2, onesided=onesided)


def _cosine_window(
    size: hv.Host, periodic: int, dtype: torch.dtype, weights: tuple[float, ...]
) -> Tensor:
    count = hv.scalar(size)
    period = count if periodic else count - 1
    phase = torch.arange(count, dtype=torch.float64) * (2 * math.pi / period)
    terms = (w * torch.cos(k * phase) for k, w in enumerate(weights))
    return sum(terms, torch.zeros_like(phase)).to(dtype)


@op("HannWindow", since=17, host=("size",))
def hann_window(
    size: hv.Host, *, output_datatype: torch.dtype = torch.float32, periodic: int = 1
) -> Tensor:
    """Hann window."""
    return _cosine_window(size, periodic, output_datatype, (0.5, -0.5))


@op("HammingWindow", since=17, host=("size",))
def hamming_window(
    size: hv.Host, *, output_datatype: torch.dtype = torch.float32, periodic: int = 1
) -> Tensor:
    """Hamming window."""
    a = 25.0 / 46.0
    return _cosine_window(size, periodic, output_datatype, (a, a - 1.0))


@op("BlackmanWindow", since=17, host=("size",))
def blackman_window(
    size: hv.Host, *, output_datatype: torch.dtype = torch.float32, periodic: int = 1
) -> Tensor:
    """Blackman window."""
    return _cosine_window(size, periodic, output_datatype, (0.42, -0.5, 0.08))


@op("MelWeightMatrix", since=17, host=("bins", "length", "rate", "lowest", "highest"))
def mel_weight_matrix(
    bins: Any,
    length: Any,
    rate: Any,
    lowest: Any,
    highest: Any,
    *,
    output_datatype: torch.dtype = torch.float32,
) -> Tensor:
    """Triangular filters [length // 2 + 1, bins] that are even on the mel scale."""
    count, size = hv.scalar(bins), hv.scalar(length)
    low, high = (2595.0 * math.log10(1.0 + hv.scalar(f) / 700.0) for f in (lowest, highest))
    mels = low + torch.arange(count + 2, dtype=torch.float64) * ((high - low) / (count + 2))
    hertz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    edge = torch.floor((size + 1) * hertz / hv.scalar(rate))
    bottom, centre, top = edge[:-2], edge[1:-1], edge[2:]
    at = torch.arange(size // 2 + 1, dtype=torch.float64)[:, None]
    rise, fall = (centre - bottom), (top - centre)
    up = torch.where(rise == 0, torch.ones_like(at), (at - bottom) / rise.clamp(min=1))
    down = (top - at) / fall.clamp(min=1)
    rising = (at >= bottom) & (at <= centre) & ((rise > 0) | (at == centre))
    falling = (at > centre) & (at < top)
    zero = torch.zeros_like(up)
    return torch.where(rising, up, torch.where(falling, down, zero)).to(output_datatype)
