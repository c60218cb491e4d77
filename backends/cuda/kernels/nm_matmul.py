"""``y = act(x @ W.T + bias) + residual`` with W in a packed N:M format: load as sparse, compute dense.

While few rows of x are in flight, time is the bytes of W. The kernel reads packed words, rebuilds a
dense tile in registers, and hands it to the tensor cores with ``tl.dot``. It reads ``nm24`` and all
formats ``nmN_M``, with 16-bit values or with 8-bit values and scales.

Compiles unchanged under Triton 3.6 and 3.9.
"""
# Triton gives the parameters of a kernel their types.
# mypy: ignore-errors

import triton
import triton.language as tl

from sparsec.backends.cuda.kernels.epilogue import finish, store_partial
from sparsec.backends.cuda.kernels.nm_decode import (
    decode_prmt,
    decode_select,
    join_8,
    join_words,
    place,
    prmt_1_4,
    prmt_2_8,
    prmt_4_8,
    prmt_half_of_8_16,
    take_8,
    widen_bytes,
)


@triton.jit
def load_tile(
    vals,
    meta,
    row,  # int32 [BM], below M
    step,  # the tile starts at column step * BK
    K,
    BM: tl.constexpr,
    BK: tl.constexpr,
    KEPT: tl.constexpr,
    GROUP: tl.constexpr,
    VALUES: tl.constexpr,  # 16, or "float8_e4m3fn" or "int8"
    PAD: tl.constexpr,  # columns of a row are padded to a multiple of this
    EVEN_K: tl.constexpr,
    ASM: tl.constexpr,
):
    """Return 16-bit elements [BM, BK] of W as int16; zero beyond K."""
    UNIT: tl.constexpr = 16 if GROUP == 16 else (4 if KEPT == 2 and GROUP == 4 else 8)
    COVERED: tl.constexpr = 64 if KEPT == 1 else 32  # columns of a word of meta
    UNITS: tl.constexpr = COVERED // UNIT  # of a word of meta
    WORDS: tl.constexpr = BK // COVERED
    HALVES: tl.constexpr = UNIT * KEPT // GROUP  # values of a unit: 2, 4 or 8
    row_words = tl.cdiv(K, PAD) * (PAD // COVERED)
    at = step * WORDS + tl.arange(0, WORDS)
    unit = at[:, None] * UNITS + tl.arange(0, UNITS)[None, :]

    # A unit of 8-bit values takes half the memory; two of them are less than a word.
    PIECE: tl.constexpr = HALVES // 2 if VALUES == 16 else HALVES // 4  # in words
    STRIDE: tl.constexpr = PIECE if PIECE > 0 else 1
    if PIECE == 0:
        vals = vals.to(tl.pointer_type(tl.int16), bitcast=True)
    pieces = row_words * UNITS * STRIDE
    vals_at = vals + row[:, None, None].to(tl.int64) * pieces + unit[None] * STRIDE
    meta_at = meta + row[:, None].to(tl.int64) * row_words + at[None, :]
    if EVEN_K:
        word = tl.load(meta_at)
    else:
        word = tl.load(meta_at, mask=(at < row_words)[None, :], other=0)
    field = word[:, :, None] >> ((32 // UNITS) * tl.arange(0, UNITS))[None, None, :]
    if PIECE <= 1:
        if EVEN_K:
            v0 = tl.load(vals_at)
        else:
            v0 = tl.load(vals_at, mask=(at < row_words)[None, :, None], other=0)
        if PIECE == 0:
            v0 = v0.to(tl.int32)
    else:
        vals_at = vals_at[:, :, :, None] + tl.arange(0, PIECE)[None, None, None, :]
        if EVEN_K:
            v = tl.load(vals_at)
        else:
            v = tl.load(vals_at, mask=(at < row_words)[None, :, None, None], other=0)
        if PIECE == 2:
            v0, v1 = tl.split(v)
        else:
            even, odd = tl.split(tl.reshape(v, (BM, WORDS, UNITS, 2, 2)))
            v0, v2 = tl.split(even)
            v1, v3 = tl.split(odd)
    if VALUES != 16:
        INT8: tl.constexpr = VALUES == "int8"
        if HALVES == 8:
            v3 = widen_bytes(v1 >> 16, INT8, ASM)
            v2 = widen_bytes(v1, INT8, ASM)
        if HALVES >= 4:
            v1 = widen_bytes(v0 >> 16, INT8, ASM)
        v0 = widen_bytes(v0, INT8, ASM)

    if UNIT == 4:
        if ASM:
            e0, e1, e2, e3 = decode_prmt(v0, field)
        else:
            e0, e1, e2, e3 = decode_select(v0, field)
        tile = tl.join(tl.join(e0, e2), tl.join(e1, e3))
    elif KEPT == 1:
        if ASM:
            e0, e1, e2, e3, e4, e5, e6, e7 = prmt_1_4(v0, field << 3, (field << 1) & 24)
        else:
            low, high = (v0 & 0xFFFF).to(tl.int16), (v0 >> 16).to(tl.int16)
            i0, i1 = field & 3, (field >> 2) & 3
            e0, e1, e2, e3 = (
                place(low, i0, 0),
                place(low, i0, 1),
                place(low, i0, 2),
                place(low, i0, 3),
            )
            e4, e5, e6, e7 = (
                place(high, i1, 0), place(high, i1, 1), place(high, i1, 2), place(high, i1, 3),
            )  # fmt: skip
        tile = join_8(e0, e1, e2, e3, e4, e5, e6, e7)
    elif KEPT == 2:
        if ASM:
            firsts, seconds = (word << 3) & 0x38383838, (word >> 1) & 0x38383838
            e0, e1, e2, e3, e4, e5, e6, e7 = prmt_2_8(
                v0,
                firsts[:, :, None],
                seconds[:, :, None],
                (0x4440 + tl.arange(0, 4))[None, None, :],
            )
        else:
            low, high = (v0 & 0xFFFF).to(tl.int16), (v0 >> 16).to(tl.int16)
            i0, i1 = field & 7, (field >> 4) & 7
            e0, e1 = place(low, i0, 0) | place(high, i1, 0), place(low, i0, 1) | place(high, i1, 1)
            e2, e3 = place(low, i0, 2) | place(high, i1, 2), place(low, i0, 3) | place(high, i1, 3)
            e4, e5 = place(low, i0, 4) | place(high, i1, 4), place(low, i0, 5) | place(high, i1, 5)
            e6, e7 = place(low, i0, 6) | place(high, i1, 6), place(low, i0, 7) | place(high, i1, 7)
        tile = join_8(e0, e1, e2, e3, e4, e5, e6, e7)
    elif GROUP == 8:
        field &= 0xFF
        if ASM:
            e0, e1, e2, e3, e4, e5, e6, e7 = prmt_4_8(v0, v1, field)
        else:
            low = join_words(v0, v1)
            e0, e1, e2, e3, e4, e5, e6, e7, low, high = take_8(low, tl.zeros_like(low), field)
        tile = join_8(e0, e1, e2, e3, e4, e5, e6, e7)
    else:
        if ASM:
            e0, e1, e2, e3, e4, e5, e6, e7, v0, v1, v2, v3 = prmt_half_of_8_16(
                v0, v1, v2, v3, field & 0xFF
            )
            first = join_8(e0, e1, e2, e3, e4, e5, e6, e7)
            e0, e1, e2, e3, e4, e5, e6, e7, v0, v1, v2, v3 = prmt_half_of_8_16(
                v0, v1, v2, v3, (field >> 8) & 0xFF
            )
        else:
            low, high = join_words(v0, v1), join_words(v2, v3)
            e0, e1, e2, e3, e4, e5, e6, e7, low, high = take_8(low, high, field)
            first = join_8(e0, e1, e2, e3, e4, e5, e6, e7)
            e0, e1, e2, e3, e4, e5, e6, e7, low, high = take_8(low, high, field >> 8)
        second = join_8(e0, e1, e2, e3, e4, e5, e6, e7)
        # The half of the group becomes the outermost of the axes that are joined.
        tile = tl.permute(tl.join(first, second), (0, 1, 2, 6, 3, 4, 5))
    return tl.reshape(tile, (BM, BK))


@triton.jit
def operand_row(i, BM: tl.constexpr):
    """Return the row that stands at place ``i`` of a tile before :func:`as_operand`."""
    return i // 8 % (BM // 16) * 16 + i // (BM // 2) * 8 + i % 8


@triton.jit
def operand_column(k):
    """Return the column that stands at place ``k`` of a tile behind :func:`as_operand`."""
    column = k // 128 * 128 + k // 2 % 4 * 32 + k % 128 // 8 * 2 + k % 2
    # Pairs stay beside each other, which the compiler does not see.
    return tl.max_contiguous(tl.multiple_of(column, 2), 2)


@triton.jit
def as_operand(tile, BM: tl.constexpr, BK: tl.constexpr):
    """Rename rows and columns of a decoded tile so that no element has to change its thread.

    A thread loads 16 bytes of values and decodes them to 32 columns beside each other; four threads
    hold 128 columns of a row, and a warp of ``BM / 16`` holds rows 8 i to 8 i + 7 and as many of the
    tile's other half. An MMA wants rows 8 i to 8 i + 15 in one warp and, of 8 columns, 2 in each of
    four threads. Which column is which does not matter to a sum as long as x is read in the same
    order. Rows are sorted by this, since they were loaded in the order of :func:`operand_row`;
    columns come into that of :func:`operand_column`. Nothing passes through shared memory then.

    This holds for the layout that the compiler gives the load. With another one the result is the
    same and the elements do move; tests count the instructions.
    """
    tile = tl.reshape(tile, (2, BM // 16, 8, BK // 128, 4, 16, 2))
    return tl.reshape(tl.permute(tile, (1, 0, 2, 3, 5, 4, 6)), (BM, BK))


@triton.jit(do_not_specialize=["M", "N"])
def nm_matmul(
    x,  # dtype [N, K]
    vals,  # int32 [M, ...], see the formats
    meta,  # int32 [M, ...]
    scale,  # float32 [M] or [M, ceil(K / 128)], or None
    bias,  # float32 [M], or None
    residual,  # type of y [N, M], or None
    y,  # dtype or float32 [N, M]; float32 [S, N, M] if SPLIT
    M,
    N,
    K,
    BM: tl.constexpr,  # rows of W a program owns
    BN: tl.constexpr,  # rows of x a program owns
    BK: tl.constexpr,  # reduction elements a step: 64 or 128
    KEPT: tl.constexpr,  # N of N:M
    GROUP: tl.constexpr,  # M of N:M
    VALUES: tl.constexpr,  # 16, "float8_e4m3fn" or "int8"
    PAD: tl.constexpr,
    GROUP_SCALE: tl.constexpr,  # a scale every 128 columns
    EVEN_K: tl.constexpr,  # K is a multiple of BK
    ACT: tl.constexpr,
    SPLIT: tl.constexpr,  # y is partial sums: program_id(2) is the share
    LOCAL: tl.constexpr,  # every thread decodes its own part of the operand, see ``as_operand``
    ASM: tl.constexpr,  # decode by PRMT, else by selects (interpreter, other vendors)
):
    """Compute one tile [BN, BM] of y; the grid is (ceil(M / BM), ceil(N / BN), S).

    dtype is float16 or bfloat16, that of x. The sum is kept in float32, in one fixed order: two
    runs agree to the bit.
    """
    FACTOR: tl.constexpr = 256.0 if VALUES == "float8_e4m3fn" else 1.0
    # Rows past the end repeat the last one: loads need no mask, and only the store is guarded.
    row, k = tl.arange(0, BM), tl.arange(0, BK)
    if LOCAL:
        row, k = operand_row(row, BM), operand_column(k)
    row = tl.minimum(tl.program_id(0) * BM + row, M - 1)
    col = tl.minimum(tl.program_id(1) * BN + tl.arange(0, BN), N - 1)
    steps = tl.cdiv(K, BK)
    first, last = 0, steps
    if SPLIT:
        share = tl.cdiv(steps, tl.num_programs(2))
        first = tl.program_id(2) * share
        last = tl.minimum(first + share, steps)

    acc = tl.zeros((BM, BN), tl.float32)
    for step in range(first, last):
        tile = load_tile(vals, meta, row, step, K, BM, BK, KEPT, GROUP, VALUES, PAD, EVEN_K, ASM)
        if LOCAL:
            tile = as_operand(tile, BM, BK)
        x_at = x + col[None, :].to(tl.int64) * K + (step * BK + k)[:, None]
        if EVEN_K:
            b = tl.load(x_at)
        else:
            b = tl.load(x_at, mask=(step * BK + k < K)[:, None], other=0.0)
        if VALUES == 16:
            a = tile.to(x.dtype.element_ty, bitcast=True)
        else:
            a = tile.to(tl.float16, bitcast=True).to(x.dtype.element_ty)
        if GROUP_SCALE:
            of_group = tl.load(scale + row * tl.cdiv(K, 128) + step * BK // 128)
            acc += tl.dot(a, b) * (of_group * FACTOR)[:, None]
        else:
            acc = tl.dot(a, b, acc)

    row = tl.program_id(0) * BM + tl.arange(0, BM)
    col = tl.program_id(1) * BN + tl.arange(0, BN)
    if SPLIT:
        store_partial(acc, row, col, y, M, N)
    elif GROUP_SCALE:
        finish(acc, row, col, None, bias, residual, y, M, N, 1.0, ACT)
    else:
        finish(acc, row, col, scale, bias, residual, y, M, N, FACTOR, ACT)
