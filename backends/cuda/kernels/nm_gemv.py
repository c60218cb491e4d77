"""``y = act(W @ x + bias) + residual`` for one row of x, with W in a packed N:M format.

One row keeps no tensor core busy: this kernel multiplies in float32 and needs no shared memory for
x. It decodes as ``nm_matmul`` does, and reads the same arrays.
"""
# Triton gives the parameters of a kernel their types.
# mypy: ignore-errors

import triton
import triton.language as tl

from sparsec.backends.cuda.kernels.epilogue import finish, store_partial
from sparsec.backends.cuda.kernels.nm_matmul import load_tile


@triton.jit(do_not_specialize=["M", "N"])
def nm_gemv(
    x,  # dtype [1, K]
    vals,
    meta,
    scale,  # float32 [M] or [M, ceil(K / 128)], or None
    bias,  # float32 [M], or None
    residual,  # type of y [1, M], or None
    y,  # dtype or float32 [1, M]; float32 [S, 1, M] if SPLIT
    M,
    N,  # 1
    K,
    BM: tl.constexpr,  # rows of W a program owns
    BK: tl.constexpr,  # reduction elements a step
    KEPT: tl.constexpr,
    GROUP: tl.constexpr,
    VALUES: tl.constexpr,
    PAD: tl.constexpr,
    GROUP_SCALE: tl.constexpr,
    EVEN_K: tl.constexpr,
    ACT: tl.constexpr,
    SPLIT: tl.constexpr,
    ASM: tl.constexpr,
):
    """Compute BM elements of y; the grid is (ceil(M / BM), 1, S). Arguments as in ``nm_matmul``."""
    FACTOR: tl.constexpr = 256.0 if VALUES == "float8_e4m3fn" else 1.0
    row = tl.minimum(tl.program_id(0) * BM + tl.arange(0, BM), M - 1)
    k = tl.arange(0, BK)
    steps = tl.cdiv(K, BK)
    first, last = 0, steps
    if SPLIT:
        share = tl.cdiv(steps, tl.num_programs(2))
        first = tl.program_id(2) * share
        last = tl.minimum(first + share, steps)

    acc = tl.zeros((BM, BK), tl.float32)
    for step in range(first, last):
        tile = load_tile(vals, meta, row, step, K, BM, BK, KEPT, GROUP, VALUES, PAD, EVEN_K, ASM)
        at = step * BK + k
        if EVEN_K:
            b = tl.load(x + at)
        else:
            b = tl.load(x + at, mask=at < K, other=0.0)
        if VALUES == 16:
            a = tile.to(x.dtype.element_ty, bitcast=True)
        else:
            a = tile.to(tl.float16, bitcast=True)
        b = b.to(tl.float32)[None, :]
        if GROUP_SCALE:
            groups = row[:, None] * tl.cdiv(K, 128) + tl.minimum(at, K - 1)[None, :] // 128
            b *= tl.load(scale + groups) * FACTOR
        acc += a.to(tl.float32) * b

    total = tl.sum(acc, axis=1)[:, None]
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    col = tl.arange(0, 1)
    if SPLIT:
        store_partial(total, row, col, y, M, N)
    elif GROUP_SCALE:
        finish(total, row, col, None, bias, residual, y, M, N, 1.0, ACT)
    else:
        finish(total, row, col, scale, bias, residual, y, M, N, FACTOR, ACT)
