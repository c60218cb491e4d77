"""Decompress a packed weight to a dense matrix, for products of many rows.

From a few hundred rows of x on, a product is bound by multiplication: the weight is rebuilt once in
scratch memory, and the vendor's dense product does the rest. One kernel for each family of formats;
they decode as their products do.
"""
# Triton gives the parameters of a kernel their types.
# mypy: ignore-errors

import triton
import triton.language as tl

from sparsec.backends.cuda.kernels.bitmap_matmul import load_bitmap_tile
from sparsec.backends.cuda.kernels.nm_matmul import load_tile


@triton.jit
def store_tile(
    tile,  # 16-bit elements as int16, or float16 of 8-bit values
    scale,
    w,
    row,
    k,
    M,
    K,
    VALUES: tl.constexpr,
    GROUP_SCALE: tl.constexpr,
):
    """Store a tile of w, scaled and rounded to its type."""
    inside = (row < M)[:, None] & (k < K)[None, :]
    if VALUES == 16:
        tile = tile.to(w.dtype.element_ty, bitcast=True)
    else:
        FACTOR: tl.constexpr = 256.0 if VALUES == "float8_e4m3fn" else 1.0
        if GROUP_SCALE:
            groups = row[:, None] * tl.cdiv(K, 128) + (k // 128)[None, :]
        else:
            groups = row[:, None] + (k * 0)[None, :]
        tile = tile.to(tl.float32) * (tl.load(scale + groups, mask=inside, other=0.0) * FACTOR)
    at = w + row[:, None].to(tl.int64) * K + k[None, :]
    tl.store(at, tile.to(w.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M"])
def nm_unpack(
    vals,
    meta,
    scale,
    w,  # float [M, K], written in full
    M,
    K,
    BM: tl.constexpr,
    BK: tl.constexpr,  # 64 or 128
    KEPT: tl.constexpr,
    GROUP: tl.constexpr,
    VALUES: tl.constexpr,
    PAD: tl.constexpr,
    GROUP_SCALE: tl.constexpr,
    ASM: tl.constexpr,
):
    """Write one tile [BM, BK] of w; the grid is (ceil(M / BM), ceil(K / BK))."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    step = tl.program_id(1)
    inside = tl.minimum(row, M - 1)
    tile = load_tile(vals, meta, inside, step, K, BM, BK, KEPT, GROUP, VALUES, PAD, False, ASM)
    if VALUES != 16:
        tile = tile.to(tl.float16, bitcast=True)
    store_tile(tile, scale, w, row, step * BK + tl.arange(0, BK), M, K, VALUES, GROUP_SCALE)


@triton.jit(do_not_specialize=["M"])
def bitmap_unpack(
    bits,
    offs,
    tile,
    vals,
    scale,
    w,  # float [M, K], written in full
    M,
    K,
    VALUES: tl.constexpr,
    GROUP_SCALE: tl.constexpr,
):
    """Write one tile [64, 64] of w; the grid is (ceil(M / 64), ceil(K / 64))."""
    row = tl.program_id(0) * 64 + tl.arange(0, 64)
    k = tl.program_id(1) * 64 + tl.arange(0, 64)
    dense = load_bitmap_tile(bits, offs, tile, vals, tl.program_id(0), tl.program_id(1), K, VALUES)
    store_tile(dense, scale, w, row, k, M, K, VALUES, GROUP_SCALE)


@triton.jit(do_not_specialize=["M"])
def block_unpack(
    vals,
    cols,
    start,
    scale,
    w,  # float [M, K], written in full
    M,
    K,
    BM: tl.constexpr,  # R
    BK: tl.constexpr,  # blocks a step
    VALUES: tl.constexpr,
    GROUP_SCALE: tl.constexpr,
):
    """Write one strip of w, zeros and then its blocks; the grid is (ceil(M / R),)."""
    ZEROED: tl.constexpr = 256  # columns at a time
    strip = tl.program_id(0)
    row = strip * BM + tl.arange(0, BM)
    zeros = tl.zeros((BM, ZEROED), w.dtype.element_ty)
    for first in range(0, K, ZEROED):
        k = first + tl.arange(0, ZEROED)
        inside = (row < M)[:, None] & (k < K)[None, :]
        tl.store(w + row[:, None].to(tl.int64) * K + k[None, :], zeros, mask=inside)
    tl.debug_barrier()  # blocks overwrite zeros that other threads wrote
    begin, end = tl.load(start + strip), tl.load(start + strip + 1)
    for at in range(begin, end, BK):
        block = at + tl.arange(0, BK)
        there = block < end
        col = tl.load(cols + block, mask=there, other=0).to(tl.int32) & 0xFFFF
        v_at = vals + block[None, :].to(tl.int64) * BM + tl.arange(0, BM)[:, None]
        v = tl.load(v_at, mask=there[None, :], other=0)
        # Padding blocks are zeros at column 0, which may be a real block of this strip.
        k = tl.where(there & (tl.max((v != 0).to(tl.int32), axis=0) > 0), col, K)
        if VALUES == "int8":
            v = v.to(tl.float16)
        elif VALUES == "float8_e4m3fn":
            code = v.to(tl.int16)
            moved = (code & -32768) | ((code & 0x7F) << 7)
            v = moved.to(tl.int16).to(tl.float16, bitcast=True)
        store_tile(v, scale, w, row, k, M, K, VALUES, GROUP_SCALE)
