"""``y = act(W @ x + bias) + residual`` for one row of x, with W in the packed format ``bm32``.

Decodes as ``bitmap_matmul`` does and reads the same arrays; multiplies in float32.
"""
# Triton gives the parameters of a kernel their types.
# mypy: ignore-errors

import triton
import triton.language as tl

from sparsec.backends.cuda.kernels.bitmap_matmul import load_bitmap_tile
from sparsec.backends.cuda.kernels.epilogue import finish, store_partial


@triton.jit(do_not_specialize=["M", "N"])
def bitmap_gemv(
    x,  # dtype [1, K]
    bits,
    offs,
    tile,
    vals,
    scale,  # float32 [M] or [M, ceil(K / 128)], or None
    bias,  # float32 [M], or None
    residual,  # type of y [1, M], or None
    y,  # dtype or float32 [1, M]; float32 [S, 1, M] if SPLIT
    M,
    N,  # 1
    K,
    BM: tl.constexpr,  # 64
    BK: tl.constexpr,  # 64
    VALUES: tl.constexpr,
    GROUP_SCALE: tl.constexpr,
    EVEN_K: tl.constexpr,
    ACT: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Compute 64 elements of y; the grid is (ceil(M / 64), 1, S). Arguments as in the product."""
    FACTOR: tl.constexpr = 256.0 if VALUES == "float8_e4m3fn" else 1.0
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    k = tl.arange(0, BK)
    steps = tl.cdiv(K, BK)
    first, last = 0, steps
    if SPLIT:
        share = tl.cdiv(steps, tl.num_programs(2))
        first = tl.program_id(2) * share
        last = tl.minimum(first + share, steps)

    acc = tl.zeros((BM, BK), tl.float32)
    for step in range(first, last):
        a = load_bitmap_tile(bits, offs, tile, vals, tl.program_id(0), step, K, VALUES)
        if VALUES == 16:
            a = a.to(x.dtype.element_ty, bitcast=True)
        at = step * BK + k
        if EVEN_K:
            b = tl.load(x + at)
        else:
            b = tl.load(x + at, mask=at < K, other=0.0)
        b = b.to(tl.float32)[None, :]
        if GROUP_SCALE:
            groups = tl.minimum(row, M - 1) * tl.cdiv(K, 128) + step * BK // 128
            b = b * (tl.load(scale + groups) * FACTOR)[:, None]
        acc += a.to(tl.float32) * b

    total = tl.sum(acc, axis=1)[:, None]
    col = tl.arange(0, 1)
    if SPLIT:
        store_partial(total, row, col, y, M, N)
    elif GROUP_SCALE:
        finish(total, row, col, None, bias, residual, y, M, N, 1.0, ACT)
    else:
        finish(total, row, col, scale, bias, residual, y, M, N, FACTOR, ACT)
