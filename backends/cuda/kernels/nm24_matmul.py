"""``y = x @ W.T + bias`` with W in the packed format ``nm24``: load as sparse, compute as dense.

While few rows of x are in flight, time is the bytes of W. This kernel reads the packed 1.125 bytes
an element, rebuilds the dense tile in registers, and hands it to the tensor cores with ``tl.dot``.

The file imports nothing but triton, so that it travels with an artifact as the source of its
cubins, and compiles unchanged under Triton 3.6 and 3.9.
"""
# Triton gives the parameters of a kernel their types.
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def decode_prmt(pair, nibble):
    """Return the four elements of each group as int16, by two byte permutations.

    ``prmt`` picks four bytes of (pair, 0) by four selector nibbles, where 4 is a zero byte. Each of
    the two 64-bit constants is a table of four 16-bit selectors, indexed by two bits of the mask.
    """
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b32 shift, selector, half;
        .reg .b64 table;
        shl.b32 shift, $5, 4;
        and.b32 shift, shift, 48;
        mov.b64 table, 0x3210104444104444;
        shr.u64 table, table, shift;
        cvt.u32.u64 selector, table;
        prmt.b32 half, $4, 0, selector;
        mov.b32 {$0, $1}, half;
        shl.b32 shift, $5, 2;
        and.b32 shift, shift, 48;
        mov.b64 table, 0x3210324444324444;
        shr.u64 table, table, shift;
        cvt.u32.u64 selector, table;
        prmt.b32 half, $4, 0, selector;
        mov.b32 {$2, $3}, half;
        }
        """,
        "=h,=h,=h,=h,r,r",
        [pair, nibble],
        dtype=(tl.int16, tl.int16, tl.int16, tl.int16),
        is_pure=True,
        pack=1,
    )


@triton.jit
def decode_select(pair, nibble):
    """Return what :func:`decode_prmt` returns, without inline assembly."""
    first, second = (pair & 0xFFFF).to(tl.int16), (pair >> 16).to(tl.int16)
    zero = tl.zeros_like(first)
    has0, has1 = (nibble & 1) != 0, (nibble & 2) != 0
    has2, has3 = (nibble & 4) != 0, (nibble & 8) != 0
    e0 = tl.where(has0, first, zero)
    e1 = tl.where(has1, tl.where(has0, second, first), zero)
    e2 = tl.where(has2, tl.where(has3, first, second), zero)
    e3 = tl.where(has3, second, zero)
    return e0, e1, e2, e3


@triton.jit
def nm24_matmul(
    x,  # dtype [N, K]
    vals,  # int32 [M, KP / 4], KP = K rounded up to 32: the two kept values of each group
    meta,  # int32 [M, KP / 32]: eight 4-bit masks
    bias,  # float32 [M], or None
    y,  # dtype or float32 [N, M], written in full
    M,  # noqa: N803
    N,  # noqa: N803
    K,  # noqa: N803
    BM: tl.constexpr,  # noqa: N803  rows of W a program owns
    BN: tl.constexpr,  # noqa: N803  rows of x a program owns
    BK: tl.constexpr,  # noqa: N803  reduction elements a step, a multiple of 32
    EVEN_K: tl.constexpr,  # noqa: N803  K is a multiple of BK
    ASM: tl.constexpr,  # noqa: N803  decode by PRMT, else by selects (interpreter, other vendors)
):
    """Compute one tile [BN, BM] of y; the grid is (ceil(M / BM), ceil(N / BN)).

    dtype is float16 or bfloat16, that of x. The sum is kept in float32, in one fixed order: two
    runs agree to the bit.
    """
    WORDS: tl.constexpr = BK // 32  # noqa: N806
    # Rows past the end repeat the last one: loads need no mask, and only the store is guarded.
    row = tl.minimum(tl.program_id(0) * BM + tl.arange(0, BM), M - 1)
    col = tl.minimum(tl.program_id(1) * BN + tl.arange(0, BN), N - 1)
    word = tl.arange(0, WORDS)
    group = tl.arange(0, 8)
    k = tl.arange(0, BK)
    row_words = (K + 31) // 32

    acc = tl.zeros((BM, BN), tl.float32)
    for step in range(tl.cdiv(K, BK)):
        at = step * WORDS + word
        meta_at = meta + row[:, None] * row_words + at[None, :]
        vals_at = (
            vals + row[:, None, None] * (row_words * 8) + (at[:, None] * 8 + group[None, :])[None]
        )
        x_at = x + col[None, :] * K + (step * BK + k)[:, None]
        if EVEN_K:
            mask = tl.load(meta_at)
            pair = tl.load(vals_at)
            b = tl.load(x_at)
        else:
            # A mask word of zero decodes to zeros whatever the values are, NaN included.
            inside = at < row_words
            mask = tl.load(meta_at, mask=inside[None, :], other=0)
            pair = tl.load(vals_at, mask=inside[None, :, None], other=0)
            b = tl.load(x_at, mask=(step * BK + k < K)[:, None], other=0.0)
        nibble = mask[:, :, None] >> (4 * group)[None, None, :]
        if ASM:
            e0, e1, e2, e3 = decode_prmt(pair, nibble)
        else:
            e0, e1, e2, e3 = decode_select(pair, nibble)
        # join puts its second operand innermost-odd: this order reads 0, 1, 2, 3 after the reshape.
        tile = tl.join(tl.join(e0, e2), tl.join(e1, e3))
        a = tl.reshape(tile, (BM, BK)).to(x.dtype.element_ty, bitcast=True)
        acc = tl.dot(a, b, acc)

    row = tl.program_id(0) * BM + tl.arange(0, BM)
    col = tl.program_id(1) * BN + tl.arange(0, BN)
    if bias is not None:
        acc += tl.load(bias + row, mask=row < M, other=0.0)[:, None]
    y_at = y + col[None, :] * M + row[:, None]
    tl.store(y_at, acc.to(y.dtype.element_ty), mask=(row[:, None] < M) & (col[None, :] < N))
