"""``y = act(x @ W.T + bias) + residual`` with W in the packed format ``bm32``, zeros anywhere.

The portable way to multiply an unstructured weight: each element looks at its bit, counts the bits
below it, and reads its value from there. That costs more instructions than a fast GPU has time for
while the weight streams in; there ``lps`` is the format, and this the fallback.
"""
# Triton gives the parameters of a kernel their types.
# mypy: ignore-errors

import triton
import triton.language as tl

from sparsec.backends.cuda.kernels.epilogue import finish, store_partial


@triton.jit
def count_bits(word):
    """Return the number of set bits of a uint32; the compiler knows this pattern (POPC)."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    return (((word + (word >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24


@triton.jit
def load_bitmap_tile(
    bits,
    offs,
    tile,
    vals,
    down,  # rows from 64 * down on
    step,  # columns from 64 * step on
    K,
    VALUES: tl.constexpr,
):
    """Return one tile [64, 64] of W: as 16-bit elements in int16, or as float16 of 8-bit values."""
    index = down * tl.cdiv(K, 64) + step
    at = index.to(tl.int64) * 128 + tl.arange(0, 64)[:, None] * 2 + tl.arange(0, 2)[None, :]
    word = tl.load(bits + at).to(tl.uint32, bitcast=True)[:, :, None]
    before = (tl.load(offs + at).to(tl.int32) & 0xFFFF) + tl.load(tile + index)
    bit = tl.arange(0, 32).to(tl.uint32)[None, None, :]
    kept = ((word >> bit) & 1) != 0
    below = count_bits(word & ((1 << bit) - 1)).to(tl.int32)
    value = tl.load(vals + (before[:, :, None] + below), mask=kept, other=0)
    if VALUES == "int8":
        value = value.to(tl.float16)
    elif VALUES == "float8_e4m3fn":
        # The float16 of 2^-8 times the number: the exponents differ by 8 in their bias.
        code = value.to(tl.int16)
        moved = (code & -32768) | ((code & 0x7F) << 7)
        value = moved.to(tl.int16).to(tl.float16, bitcast=True)
    return tl.reshape(value, (64, 64))


@triton.jit(do_not_specialize=["M", "N"])
def bitmap_matmul(
    x,  # dtype [N, K]
    bits,
    offs,
    tile,
    vals,
    scale,  # float32 [M] or [M, ceil(K / 128)], or None
    bias,  # float32 [M], or None
    residual,  # type of y [N, M], or None
    y,  # dtype or float32 [N, M]; float32 [S, N, M] if SPLIT
    M,
    N,
    K,
    BM: tl.constexpr,  # 64
    BN: tl.constexpr,  # rows of x a program owns
    BK: tl.constexpr,  # 64
    VALUES: tl.constexpr,  # 16, "float8_e4m3fn" or "int8"
    GROUP_SCALE: tl.constexpr,  # a scale every 128 columns
    EVEN_K: tl.constexpr,  # K is a multiple of 64
    ACT: tl.constexpr,
    SPLIT: tl.constexpr,  # y is partial sums: program_id(2) is the share
):
    """Compute one tile [BN, 64] of y; the grid is (ceil(M / 64), ceil(N / BN), S)."""
    FACTOR: tl.constexpr = 256.0 if VALUES == "float8_e4m3fn" else 1.0
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    col = tl.minimum(tl.program_id(1) * BN + tl.arange(0, BN), N - 1)
    k = tl.arange(0, BK)
    steps = tl.cdiv(K, BK)
    first, last = 0, steps
    if SPLIT:
        share = tl.cdiv(steps, tl.num_programs(2))
        first = tl.program_id(2) * share
        last = tl.minimum(first + share, steps)

    acc = tl.zeros((BM, BN), tl.float32)
    for step in range(first, last):
        a = load_bitmap_tile(bits, offs, tile, vals, tl.program_id(0), step, K, VALUES)
        if VALUES == 16:
            a = a.to(x.dtype.element_ty, bitcast=True)
        else:
            a = a.to(x.dtype.element_ty)
        x_at = x + col[None, :].to(tl.int64) * K + (step * BK + k)[:, None]
        if EVEN_K:
            b = tl.load(x_at)
        else:
            b = tl.load(x_at, mask=(step * BK + k < K)[:, None], other=0.0)
        if GROUP_SCALE:
            groups = tl.minimum(row, M - 1) * tl.cdiv(K, 128) + step * BK // 128
            acc += tl.dot(a, b) * (tl.load(scale + groups) * FACTOR)[:, None]
        else:
            acc = tl.dot(a, b, acc)

    col = tl.program_id(1) * BN + tl.arange(0, BN)
    if SPLIT:
        store_partial(acc, row, col, y, M, N)
    elif GROUP_SCALE:
        finish(acc, row, col, None, bias, residual, y, M, N, 1.0, ACT)
    else:
        finish(acc, row, col, scale, bias, residual, y, M, N, FACTOR, ACT)
