"""Runs the CUDA C++ kernels on torch tensors: compiled on first use, launched by the driver."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from sparsec.backends.cuda import formats, nvcc, on_tensors
from sparsec.backends.cuda.formats.base import SCALE
from sparsec.backends.cuda.formats.values import is_scaled
from sparsec.backends.cuda.loader import Driver, Kernel
from sparsec.backends.cuda.native import (
    ACTIVATIONS,
    FRAGMENTS,
    NativeUnpack,
    NativeVariant,
    buckets,
    clears,
    split_for,
)
from sparsec.ir.errors import ShapeError


def native_linear(
    form: str,
    x: Tensor,
    arrays: Mapping[str, Tensor],
    y: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    act: str = "none",
    split: int | None = None,
    bucket: int | None = None,
    values: str = "",
) -> Tensor:
    """Write ``act(x @ W.T + bias) + residual`` to ``y`` and return it.

    Parameters
    ----------
    form : str
        One of ``native.NATIVE``.
    x : float16 or bfloat16 [N, K], contiguous, on a CUDA device
    arrays : mapping of str to Tensor
        W as the format packs it, checked when it was loaded.
    y : float32 or of the type of x [N, M], contiguous
    bias : float32 [M], optional
    residual : like y, optional
    act : str
        One of ``native.ACTIVATIONS``.
    split : int, optional
        Blocks that share the reduction; chosen for the device if absent.
    bucket : int, optional
        Rows of x of a block; the smallest that holds all if absent.
    values : str
        Type of the stored values; that of x if empty.

    Raises
    ------
    ShapeError
        If an operand has another shape, type, device or memory order.
    UnsupportedTargetError
        If the kernel cannot be compiled here.
    """
    (n, k), (_, m) = x.shape, y.shape
    wide = y.dtype == torch.float32
    _check("x", x, (n, k), x.dtype if x.dtype in (torch.float16, torch.bfloat16) else torch.float16)
    _check("y", y, (n, m), torch.float32 if wide else x.dtype)
    if bias is not None:
        _check("bias", bias, (m,), torch.float32)
    if residual is not None:
        _check("residual", residual, (n, m), y.dtype)
    for name in formats.get(form).arrays:
        _check(name, arrays[name], tuple(arrays[name].shape), torch.int32)
    scaled = values if is_scaled(values) else ""
    if scaled:
        _check(SCALE, arrays[SCALE], (m, 1), torch.float32)
    if 2 * n * max(k, m) >= 2**32:
        raise ShapeError(f"x and y of {n} rows take more than the 4 GiB that kernels address")
    sm = device_sm(x.device.index)
    stored = sum(each.nbytes for each in arrays.values()) / (m * k)
    variant = NativeVariant(
        form,
        str(x.dtype).removeprefix("torch."),
        sm,
        bucket or next((b for b in buckets(form, k) if b >= n), buckets(form, k)[-1]),
        k % 8 == 0,
        k % 64 == 0,
        clears(form, stored, scaled),
        scaled,
    )
    kernel = _kernel(variant, x.device.index)
    sizes = {"M": m, "N": n, "K": k, "wide": int(wide), "activation": ACTIVATIONS.index(act)}
    sizes["split"] = split or split_for(variant, m, k, _processors(x.device.index))
    on_tensors.launch(
        [kernel], {**arrays, "x": x, "y": y, "bias": bias, "residual": residual}, sizes
    )
    return y


def native_unpack(form: str, arrays: Mapping[str, Tensor], w: Tensor, values: str) -> Tensor:
    """Write the dense matrix of a packed one to ``w`` and return it.

    Parameters
    ----------
    form : str
        One of ``native.NATIVE``.
    arrays : mapping of str to Tensor
        W as the format packs it, checked when it was loaded.
    w : float16 or bfloat16 [M, K], contiguous, on a CUDA device
        Of the type of the stored values, if they have 16 bits.
    values : str
        Type of the stored values.

    Raises
    ------
    ShapeError
        If an operand has another shape, type, device or memory order.
    UnsupportedTargetError
        If the kernel cannot be compiled here.
    """
    (m, k), dtype = w.shape, str(w.dtype).removeprefix("torch.")
    scaled = values if is_scaled(values) else ""
    wide = w.dtype if w.dtype in (torch.float16, torch.bfloat16) else torch.float16
    _check("w", w, (m, k), wide if scaled else getattr(torch, values))
    for name in formats.get(form).arrays:
        _check(name, arrays[name], tuple(arrays[name].shape), torch.int32)
    if scaled:
        _check(SCALE, arrays[SCALE], (m, 1), torch.float32)
    aligned, index = k % 8 == 0 or form in FRAGMENTS, w.device.index
    kernel = _kernel(NativeUnpack(form, dtype, device_sm(index), aligned, scaled), index)
    on_tensors.launch([kernel], {"w": w, **arrays}, {"M": m, "K": k})
    return w


@functools.cache
def _kernel(variant: NativeVariant | NativeUnpack, device: int) -> Kernel:
    compiled = nvcc.compile_native(variant, nvcc.kept_in())
    return Kernel(_driver(device), compiled.cubin, compiled.launch)


@functools.cache
def _driver(device: int) -> Driver:
    torch.cuda.init()
    return Driver(device)


@functools.cache
def device_sm(device: int) -> int:
    """Return the compute capability of a device: 90 for 9.0."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * int(major) + int(minor)


@functools.cache
def _processors(device: int) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _on_device(tensor: Tensor) -> bool:
    return bool(tensor.is_cuda)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    fits = tensor.shape == shape and tensor.dtype == dtype and _on_device(tensor)
    if not fits or not tensor.is_contiguous():
        raise ShapeError(
            f"{name}: need contiguous {dtype} {list(shape)} on a CUDA device, got {tensor.dtype} "
            f"{list(tensor.shape)} on {tensor.device}, strides {list(tensor.stride())}"
        )
