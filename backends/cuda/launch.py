"""Run ``nm24_matmul`` from its source on torch tensors, through Triton's own launcher.

For tests and benchmarks on a machine with a GPU: what an artifact ships is the cubin, and the grid
and arguments here are those that its manifest describes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsec.backends.cuda.formats.nm24 import padded_columns
from sparsec.backends.cuda.variants import BUCKETS, Variant, variants_for
from sparsec.ir.errors import ShapeError

if TYPE_CHECKING:
    import torch


def variant_for(rows: int, columns: int, dtype: str, sm: int, bias: bool) -> Variant:
    """Return the variant for ``rows`` rows of x: the smallest bucket that holds them all.

    More rows than the largest bucket are spread over several programs: correct, but each of them
    reads the whole weight again.
    """
    variants = variants_for(columns, dtype, sm, bias)
    fits = (variant for variant in variants if variant.bucket >= min(rows, BUCKETS[-1]))
    return next(fits)


def nm24_linear(
    x: torch.Tensor,
    vals: torch.Tensor,
    meta: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    asm: bool = True,
) -> torch.Tensor:
    """Return ``x @ W.T + bias`` for a packed W.

    Parameters
    ----------
    x : float16 or bfloat16 [N, K], contiguous
    vals, meta : int32 [M, KP / 4] and [M, KP / 32], contiguous
        W in the format ``nm24``; KP is K rounded up to 32.
    bias : float32 [M], optional
    out : float32 or of the type of x [N, M], contiguous, optional
        Written in full and returned; allocated in the type of x if absent.
    asm : bool
        Decode with inline assembly, which the interpreter and AMD GPUs cannot run.

    Raises
    ------
    ShapeError
        If an operand has another shape, type, device or memory order.
    """
    import torch

    from sparsec.backends.cuda.kernels.nm24_matmul import nm24_matmul

    if x.ndim != 2 or x.dtype not in (torch.float16, torch.bfloat16) or not x.numel():
        raise ShapeError(
            f"x: need float16 or bfloat16 [N, K], not empty, got {x.dtype} {list(x.shape)}"
        )
    (n, k), m = x.shape, vals.shape[0]
    out = torch.empty((n, m), dtype=x.dtype, device=x.device) if out is None else out
    _check("x", x, (n, k), x.dtype, x)
    _check("vals", vals, (m, padded_columns(k) // 4), torch.int32, x)
    _check("meta", meta, (m, padded_columns(k) // 32), torch.int32, x)
    _check("out", out, (n, m), torch.float32 if out.dtype == torch.float32 else x.dtype, x)
    if bias is not None:
        _check("bias", bias, (m,), torch.float32, x)
    dtype = str(x.dtype).removeprefix("torch.")
    # The architecture only names a variant; what the source is compiled for is the device of x.
    variant = variant_for(n, k, dtype, sm=0, bias=bias is not None)
    grid = (-(-m // variant.rows), -(-n // variant.bucket))
    constants = {**variant.constants, "ASM": asm}
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    nm24_matmul[grid](x, vals, meta, bias, out, m, n, k, **constants, **options)
    return out


def nm24_unpack(
    vals: torch.Tensor, meta: torch.Tensor, out: torch.Tensor, *, asm: bool = True
) -> torch.Tensor:
    """Write the dense matrix of a packed one to ``out``, float16 or bfloat16 [M, K], and return it.

    Raises
    ------
    ShapeError
        If an operand has another shape, type, device or memory order.
    """
    import torch

    from sparsec.backends.cuda.kernels.nm24_unpack import nm24_unpack as kernel

    if out.ndim != 2 or out.dtype not in (torch.float16, torch.bfloat16):
        raise ShapeError(f"out: need float16 or bfloat16 [M, K], got {out.dtype} {list(out.shape)}")
    m, k = out.shape
    _check("vals", vals, (m, padded_columns(k) // 4), torch.int32, out)
    _check("meta", meta, (m, padded_columns(k) // 32), torch.int32, out)
    _check("out", out, (m, k), out.dtype, out)
    rows, columns = 16, 256
    grid = (-(-m // rows), -(-k // columns))
    kernel[grid](vals, meta, out.view(torch.int16), m, k, BM=rows, BK=columns, ASM=asm, num_warps=4)
    return out


def _check(
    name: str,
    tensor: torch.Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    like: torch.Tensor,
) -> None:
    fits = tensor.shape == shape and tensor.dtype == dtype and tensor.device == like.device
    if not fits or not tensor.is_contiguous():
        raise ShapeError(
            f"{name}: need contiguous {dtype} {list(shape)} on {like.device}, got {tensor.dtype} "
            f"{list(tensor.shape)} on {tensor.device}, strides {list(tensor.stride())}"
        )
