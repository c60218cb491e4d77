"""Decompress a weight in the packed format ``nm24`` to a dense matrix, for products of many rows.

From a few hundred rows of x on, a product is bound by multiplication: the weight is rebuilt once in
scratch memory, and the vendor's dense product does the rest.

Imports nothing but triton and the decoders of its neighbour.
"""
# Triton gives the parameters of a kernel their types.
# mypy: ignore-errors

import triton
import triton.language as tl

from sparsec.backends.cuda.kernels.nm24_matmul import decode_prmt, decode_select


@triton.jit
def nm24_unpack(
    vals,  # int32 [M, KP / 4], KP = K rounded up to 32: the two kept values of each group
    meta,  # int32 [M, KP / 32]: eight 4-bit masks
    w,  # 16-bit [M, K], as int16; written in full
    M,  # noqa: N803
    K,  # noqa: N803
    BM: tl.constexpr,  # noqa: N803
    BK: tl.constexpr,  # noqa: N803  a multiple of 32
    ASM: tl.constexpr,  # noqa: N803  decode by PRMT, else by selects (interpreter, other vendors)
):
    """Write one tile [BM, BK] of w; the grid is (ceil(M / BM), ceil(K / BK))."""
    WORDS: tl.constexpr = BK // 32  # noqa: N806
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    at = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    group = tl.arange(0, 8)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    row_words = (K + 31) // 32
    inside = (row < M)[:, None] & (at < row_words)[None, :]
    mask = tl.load(meta + row[:, None] * row_words + at[None, :], mask=inside, other=0)
    vals_at = vals + row[:, None, None] * (row_words * 8) + (at[:, None] * 8 + group[None, :])[None]
    pair = tl.load(vals_at, mask=inside[:, :, None], other=0)
    nibble = mask[:, :, None] >> (4 * group)[None, None, :]
    if ASM:
        e0, e1, e2, e3 = decode_prmt(pair, nibble)
    else:
        e0, e1, e2, e3 = decode_select(pair, nibble)
    tile = tl.reshape(tl.join(tl.join(e0, e2), tl.join(e1, e3)), (BM, BK))
    w_at = w + row[:, None].to(tl.int64) * K + k[None, :]
    tl.store(w_at, tile, mask=(row < M)[:, None] & (k < K)[None, :])
