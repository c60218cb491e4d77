"""What all kernels do with a finished sum: scale, bias, activation, residual, one rounding.

Also the second pass of a split reduction: the partial sums are added in a fixed order, so that two
runs agree to the bit, and finished as a kernel that is not split finishes its own.
"""
# Triton gives the parameters of a kernel their types.
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def activate(value, ACT: tl.constexpr):
    """Return the activation of float32 values: none, relu, silu, gelu (exact) or gelu_tanh."""
    if ACT == "relu":
        value = tl.where(value < 0, 0.0, value)  # NaN stays
    elif ACT == "silu":
        value = value / (1 + tl.exp(-value))
    elif ACT == "gelu":
        value = 0.5 * value * (1 + tl.erf(value * 0.7071067811865476))
    elif ACT == "gelu_tanh":
        inner = 0.7978845608028654 * (value + 0.044715 * value * value * value)
        value = value * (1 - 1 / (1 + tl.exp(2 * inner)))
    return value


@triton.jit
def finish(
    acc,  # float32 [BM, BN]
    row,  # int32 [BM]: rows of W
    col,  # int32 [BN]: rows of x
    scale,  # float32 [M], or None
    bias,  # float32 [M], or None
    residual,  # dtype of y [N, M], or None
    y,  # [N, M]
    M,
    N,
    FACTOR: tl.constexpr,  # a power of two that the decoder left out
    ACT: tl.constexpr,
):
    """Store ``activate(acc * scale + bias) + residual``, rounded once to the type of y."""
    inside = (row < M)[:, None] & (col < N)[None, :]
    at = col[None, :].to(tl.int64) * M + row[:, None]
    if scale is not None:
        acc *= tl.load(scale + row, mask=row < M, other=0.0)[:, None] * FACTOR
    if bias is not None:
        acc += tl.load(bias + row, mask=row < M, other=0.0)[:, None]
    acc = activate(acc, ACT)
    if residual is not None:
        acc += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, acc.to(y.dtype.element_ty), mask=inside)


@triton.jit
def store_partial(acc, row, col, partial, M, N):
    """Store the sum of this program's share of the reduction in ``partial`` float32 [S, N, M]."""
    inside = (row < M)[:, None] & (col < N)[None, :]
    share = tl.program_id(2).to(tl.int64) * N * M
    tl.store(partial + share + col[None, :].to(tl.int64) * M + row[:, None], acc, mask=inside)


@triton.jit(do_not_specialize=["M", "N", "S"])
def reduce_partials(
    partial,  # float32 [S, N, M]
    scale,  # float32 [M], or None
    bias,  # float32 [M], or None
    residual,  # dtype of y [N, M], or None
    y,  # dtype or float32 [N, M], written in full
    M,
    N,
    S,
    BM: tl.constexpr,
    FACTOR: tl.constexpr,
    ACT: tl.constexpr,
):
    """Add the S partial sums of BM outputs of one row of x; the grid is (ceil(M / BM), N)."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1)
    acc = tl.zeros((BM,), tl.float32)
    at = partial + n.to(tl.int64) * M + row
    for _ in range(S):
        acc += tl.load(at, mask=row < M, other=0.0)
        at += tl.cast(N, tl.int64) * M
    finish(acc[:, None], row, n + tl.arange(0, 1), scale, bias, residual, y, M, N, FACTOR, ACT)
