"""Run the kernels from their sources on torch tensors, through Triton's own launcher.

What an artifact ships are compiled variants, and grids and arguments here are those that its
manifest describes.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparsec.backends.cuda import formats
from sparsec.backends.cuda.formats.base import SCALE
from sparsec.backends.cuda.formats.values import is_scaled
from sparsec.backends.cuda.variants import (
    BLOCK,
    FORMATS,
    MAX_N,
    SPARSE_MMA,
    Variant,
    shares,
    unpack_variant,
    variants_for,
)
from sparsec.ir.errors import ShapeError, UnsupportedTargetError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_KERNELS = "sparsec.backends.cuda.kernels"
_MOST_BLOCKS = 2**16 - 1  # along the second dimension of a grid
_FLOATS = ("float16", "bfloat16", "float32")


def packed_linear(
    form: str,
    x: Tensor,
    arrays: Mapping[str, Tensor],
    rows: int,
    values: str = "",
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    act: str = "none",
    out: Tensor | None = None,
    split: int | None = None,
    bucket: int | None = None,
    asm: bool = True,
) -> Tensor:
    """Return ``act(x @ W.T + bias) + residual`` for a packed W [M, K].

    Parameters
    ----------
    form : str
        Packed format of W.
    x : float16 or bfloat16 [N, K], contiguous
    arrays : mapping of str to Tensor
        W, as the format packs it; contiguous, on the device of x. Their contents are trusted: call
        ``Format.check`` when they are loaded.
    rows : int
        M.
    values : str
        Type of the stored values; that of x if empty.
    bias : float32 [M], optional
    residual : like the result, optional
        Added last.
    act : str
        ``"none"``, ``"relu"``, ``"silu"``, ``"gelu"`` or ``"gelu_tanh"``.
    out : float32 or of the type of x [N, M], contiguous, optional
        Written in full and returned; allocated in the type of x if absent.
    split : int, optional
        Shares of the reduction, added in a fixed order; chosen for the device if absent.
    bucket : int, optional
        Rows of x that one program handles; the smallest one that holds all if absent.
    asm : bool
        Decode with inline assembly, which the interpreter and AMD GPUs cannot run.

    Raises
    ------
    ShapeError
        If an operand has another shape, type, device or memory order.
    UnsupportedTargetError
        If no kernel here reads the format.
    """
    import torch

    if form not in FORMATS + SPARSE_MMA:
        raise UnsupportedTargetError(
            f"no Triton kernel multiplies the format {form!r}; there are kernels for "
            f"{', '.join(FORMATS + SPARSE_MMA)}"
        )
    if x.ndim != 2 or x.dtype not in (torch.float16, torch.bfloat16) or not x.numel():
        raise ShapeError(
            f"x: need float16 or bfloat16 [N, K], not empty, got {x.dtype} {list(x.shape)}"
        )
    if form in SPARSE_MMA and is_scaled(values):
        raise UnsupportedTargetError(
            f"the Gluon kernel of {form} reads 16-bit values, got {values}"
        )
    n, k = x.shape
    y = torch.empty((n, rows), dtype=x.dtype, device=x.device) if out is None else out
    values = values or _name(x.dtype)
    if not is_scaled(values) and values != _name(x.dtype):
        raise ShapeError(f"x: need {values}, the type of the stored values, got {x.dtype}")
    _check("x", x, (n, k), x.dtype, x)
    _check("out", y, (n, rows), torch.float32 if y.dtype == torch.float32 else x.dtype, x)
    grouped = _check_arrays(form, arrays, (rows, k), values, x)
    if bias is not None:
        _check("bias", bias, (rows,), torch.float32, x)
    if residual is not None:
        _check("residual", residual, (n, rows), y.dtype, x)
    variant = variant_for(
        n, k, _name(x.dtype), _arch(x.device), bucket=bucket, form=form, values=values, out=_name(y.dtype),
        bias=bias is not None, residual=residual is not None, act=act, grouped=grouped,
    )  # fmt: skip
    operands = {**arrays, "bias": bias, "residual": residual}
    if split is None:
        processors = 1
        if x.is_cuda:
            processors = torch.cuda.get_device_properties(x.device).multi_processor_count
        split = shares(rows, k, variant, processors)
    # x is transposed a bucket at a time; the second pass of a split reduction has a block for each row.
    chunk = variant.bucket * (1 if form in BLOCK else _MOST_BLOCKS // variant.bucket)
    for first in range(0, n, chunk):
        part = slice(first, first + chunk)
        of_part = {**operands, "residual": None if residual is None else residual[part]}
        _launch(variant, x[part], of_part, y[part], split, asm)
    return y


def _launch(
    variant: Variant,
    x: Tensor,
    operands: dict[str, Tensor | None],
    y: Tensor,
    split: int,
    asm: bool,
) -> None:
    import torch

    sizes = {"M": y.shape[1], "N": y.shape[0], "K": x.shape[1], "split": split}
    tensors: dict[str, Tensor | None] = {**operands, "x": x, "y": y}
    if before := variant.before():
        shape = (x.shape[1], variant.bucket)
        tensors["xt"] = torch.empty(shape, dtype=x.dtype, device=x.device)
        _run(before, tensors, sizes, asm)
    if split == 1 and not variant.split:
        _run(variant, tensors, sizes, asm)
        return
    first, second = variant.split_form()
    if variant.format in SPARSE_MMA:
        tensors["x"] = x.view(torch.int32)
    partial = torch.empty((split, *y.shape), dtype=torch.float32, device=x.device)
    _run(first, {**tensors, "y": partial}, sizes, asm)
    _run(second, {**tensors, "partial": partial}, sizes, asm)


def _run(
    variant: Variant, tensors: Mapping[str, Tensor | None], sizes: dict[str, int], asm: bool
) -> None:
    kernel, grid, arguments = bound(variant, tensors, sizes, asm)
    kernel[grid](**arguments)


def bound(
    variant: Variant, tensors: Mapping[str, Tensor | None], sizes: dict[str, int], asm: bool
) -> tuple[Any, tuple[int, ...], dict[str, Any]]:
    """Return what a launch of a variant is made of: the function, the grid, arguments and options."""
    kernel = kernel_function(variant)
    arguments = variant.constants
    if "ASM" in arguments:
        arguments["ASM"] = asm
    grid = tuple(
        each if isinstance(each, int) else -(-sizes[each["of"]] // each["per"])
        for each in variant.grid()
    )
    named = {each.get("parameter", each["name"]) for each in variant.arguments()}
    sizes = {**sizes, "S": sizes["split"]}
    for name in kernel.arg_names:
        if name in sizes:
            arguments[name] = sizes[name]
        elif name not in arguments:
            arguments[name] = tensors.get(name) if name in named else None
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    return kernel, grid, arguments | options


def kernel_function(variant: Variant) -> Any:
    """Return the function of a variant, as ``triton.jit`` made it."""
    return getattr(importlib.import_module(f"{_KERNELS}.{variant.module}"), variant.kernel)


def variant_for(
    rows: int, columns: int, dtype: str, arch: str, *, bucket: int | None = None, **what: Any
) -> Variant:
    """Return the variant for ``rows`` rows of x: the smallest bucket that holds them all.

    More rows than the largest bucket are spread over several programs: correct, but each of them
    reads the whole weight again.
    """
    found = variants_for(columns, dtype, arch, **what)
    wanted = min(bucket or rows, MAX_N)
    return next(variant for variant in found if variant.bucket >= wanted)


@functools.cache
def _arch(device: torch.device) -> str:
    """Return the architecture of a device; of the interpreter, one whose tiles exercise the most."""
    import torch

    if device.type != "cuda":
        return "sm90"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm{properties.major}{properties.minor}"


def unpack(
    form: str, arrays: Mapping[str, Tensor], out: Tensor, values: str = "", *, asm: bool = True
) -> Tensor:
    """Write the dense matrix of a packed one to ``out`` [M, K], and return it.

    16-bit values need an ``out`` of their own type; scaled ones are rounded to whatever float type
    it has.

    Raises
    ------
    ShapeError
        If an operand has another shape, type, device or memory order.
    UnsupportedTargetError
        If no kernel here reads the format.
    """
    if form not in FORMATS:
        raise UnsupportedTargetError(f"no Triton kernel unpacks the format {form!r}")
    values = values or _name(out.dtype)
    types = _FLOATS if is_scaled(values) else (values,)
    if out.ndim != 2 or _name(out.dtype) not in types:
        raise ShapeError(
            f"out: need {' or '.join(types)} [M, K], got {out.dtype} {list(out.shape)}"
        )
    m, k = out.shape
    grouped = _check_arrays(form, arrays, (m, k), values, out)
    _check("out", out, (m, k), out.dtype, out)
    variant = unpack_variant(form, k, values, _name(out.dtype), _arch(out.device), grouped=grouped)
    _run(variant, {**arrays, "w": out}, {"M": m, "K": k, "split": 1}, asm)
    return out


def _check_arrays(
    form: str, arrays: Mapping[str, Tensor], shape: tuple[int, int], values: str, like: Tensor
) -> bool:
    """Check the arrays of a weight as far as shapes tell; return whether scales go by group."""
    import torch

    fmt = formats.get(form)
    wanted = (*fmt.arrays, *([SCALE] if is_scaled(values) else []))
    if set(arrays) != set(wanted):
        raise ShapeError(f"{form} of {values} has the arrays {wanted}, got {sorted(arrays)}")
    expected = fmt.array_shapes(shape, values)
    for name in wanted:
        if name == SCALE:
            continue
        dtype, dims = expected[name]
        fixed = tuple(
            got if want is None else want
            for got, want in zip(arrays[name].shape, dims, strict=False)
        )
        if len(dims) != arrays[name].ndim:
            fixed = tuple(size or 0 for size in dims)
        _check(name, arrays[name], fixed, getattr(torch, dtype), like)
    if not is_scaled(values):
        return False
    groups = arrays[SCALE].shape[-1]
    whole = -(-shape[1] // 128)
    width = groups if groups in (1, whole) else 1
    _check(SCALE, arrays[SCALE], (shape[0], width), torch.float32, like)
    return bool(groups > 1)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check(
    name: str,
    tensor: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    like: Tensor,
) -> None:
    fits = tensor.shape == shape and tensor.dtype == dtype and tensor.device == like.device
    if not fits or not tensor.is_contiguous():
        raise ShapeError(
            f"{name}: need contiguous {dtype} {list(shape)} on {like.device}, got {tensor.dtype} "
            f"{list(tensor.shape)} on {tensor.device}, strides {list(tensor.stride())}"
        )
