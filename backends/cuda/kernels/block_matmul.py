"""``y = act(x @ W.T + bias) + residual`` with W in kept blocks of R x 1 (``block8x1``, ``block16x1``).

A strip of R outputs needs only the columns of x that its blocks name. Gathered, they make a dense
product: [N, blocks] by [blocks, R]. Nothing is decoded and no zero is multiplied.

x is read transposed, so that one column for all rows of x is one wide load: ``transpose_x`` writes
it, padded with zeros to the bucket of N, before the product runs.
"""
# Triton gives the parameters of a kernel their types.
# mypy: ignore-errors

import triton
import triton.language as tl

from sparsec.backends.cuda.kernels.epilogue import finish, store_partial


@triton.jit(do_not_specialize=["N"])
def transpose_x(
    x,  # 16-bit [N, K]
    xt,  # 16-bit [K, NP], written in full: zero beyond N
    N,
    K,
    BK: tl.constexpr,
    NP: tl.constexpr,
):
    """Transpose BK columns of a bucket of rows of x; the grid is (ceil(K / BK), 1)."""
    k = tl.program_id(0) * BK + tl.arange(0, BK)
    n = tl.arange(0, NP)
    at = x + n[None, :].to(tl.int64) * K + k[:, None]
    columns = tl.load(at, mask=(n < N)[None, :] & (k < K)[:, None], other=0.0)
    tl.store(xt + k[:, None].to(tl.int64) * NP + n[None, :], columns, mask=(k < K)[:, None])


@triton.jit(do_not_specialize=["M", "N"])
def block_matmul(
    xt,  # dtype [K, BN]
    vals,  # int16 or int8 [B, R]
    cols,  # int16 [B], unsigned
    start,  # int32 [ceil(M / R) + 1]
    scale,  # float32 [M] or [M, ceil(K / 128)], or None
    bias,  # float32 [M], or None
    residual,  # type of y [N, M], or None
    y,  # dtype or float32 [N, M]; float32 [S, N, M] if SPLIT
    M,
    N,
    K,
    BM: tl.constexpr,  # R: 8 or 16
    BN: tl.constexpr,  # rows of x: 16, 32 or 64
    BK: tl.constexpr,  # blocks a step
    VALUES: tl.constexpr,  # 16, "float8_e4m3fn" or "int8"
    GROUP_SCALE: tl.constexpr,  # a scale every 128 columns
    ACT: tl.constexpr,
    SPLIT: tl.constexpr,  # y is partial sums: program_id(2) is the share
):
    """Compute one strip [BN, R] of y; the grid is (ceil(M / R), 1, S), and N is at most BN."""
    FACTOR: tl.constexpr = 256.0 if VALUES == "float8_e4m3fn" else 1.0
    strip = tl.program_id(0)
    row = strip * BM + tl.arange(0, BM)
    n = tl.arange(0, BN)
    j = tl.arange(0, BK)
    begin, end = tl.load(start + strip), tl.load(start + strip + 1)
    first, last = begin, end
    if SPLIT:
        share = tl.cdiv(tl.cdiv(end - begin, BK), tl.num_programs(2)) * BK
        first = begin + tl.program_id(2) * share
        last = tl.minimum(first + share, end)

    acc = tl.zeros((BN, BM), tl.float32)
    for at in range(first, last, BK):
        block = at + j
        # Strips are whole multiples of 16 blocks: 16 neighbours are all there, or none of them.
        there = tl.max_constancy(block < end, 16)
        col = tl.load(cols + block, mask=there, other=0).to(tl.int32) & 0xFFFF
        v = tl.load(
            vals + block[:, None].to(tl.int64) * BM + tl.arange(0, BM)[None, :],
            mask=there[:, None],
            other=0,
        )
        gathered = tl.load(xt + col[:, None].to(tl.int64) * BN + n[None, :])
        if VALUES == 16:
            v = v.to(xt.dtype.element_ty, bitcast=True)
        elif VALUES == "int8":
            v = v.to(tl.float16)
        else:
            # The float16 of 2^-8 times the number: the exponents differ by 8 in their bias.
            code = v.to(tl.int16)
            moved = (code & -32768) | ((code & 0x7F) << 7)
            v = moved.to(tl.int16).to(tl.float16, bitcast=True)
        if GROUP_SCALE:
            groups = tl.minimum(row, M - 1)[None, :] * tl.cdiv(K, 128) + (col // 128)[:, None]
            v = (v.to(tl.float32) * (tl.load(scale + groups) * FACTOR)).to(xt.dtype.element_ty)
        acc = tl.dot(tl.trans(gathered), v.to(xt.dtype.element_ty), acc)

    acc = tl.trans(acc)
    if SPLIT:
        store_partial(acc, row, n, y, M, N)
    elif GROUP_SCALE:
        finish(acc, row, n, None, bias, residual, y, M, N, 1.0, ACT)
    else:
        finish(acc, row, n, scale, bias, residual, y, M, N, FACTOR, ACT)
