"""Partial sums of ``x @ W.T`` with W 2:4 in the format ``nm24_sp``: the sparse tensor cores, from Gluon.

``tl.dot`` has no sparse form. ``mma.sp`` is inline assembly here: it wants in each lane's registers what
the format stores for that lane, and a layout of Gluon says in which register of which lane an element
lies. The last axis of a tensor [warps, 2, BN / 8, 32, 4] is four registers of a lane, which ``pack=4``
hands to one instruction; the axes before it repeat it.

Compiles under Triton 3.6 and 3.9. Where nvcc or NVRTC is there, ``csrc/nm24_sp.cu`` is taken instead: it
brings weights through shared memory while it multiplies.
"""
# Triton gives the parameters of a kernel their types.
# mypy: ignore-errors

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def multiply_f16(acc, low, high, meta, x_low, x_high):
    """Add the products over 64 columns of float16, 32 by each of two instructions."""
    return gl.inline_asm_elementwise(
        """
        mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32
            {$0, $1, $2, $3}, {$8, $9, $10, $11}, {$20, $21, $22, $23}, {$4, $5, $6, $7}, $16, 0x0;
        mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32
            {$0, $1, $2, $3}, {$12, $13, $14, $15}, {$24, $25, $26, $27}, {$0, $1, $2, $3}, $16, 0x1;
        """,
        "=&f,=&f,=&f,=&f,f,f,f,f,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r",
        [acc, low, high, meta, x_low, x_high],
        dtype=gl.float32,
        is_pure=True,
        pack=4,
    )


@gluon.jit
def multiply_bf16(acc, low, high, meta, x_low, x_high):
    """Add the products over 64 columns of bfloat16, 32 by each of two instructions."""
    return gl.inline_asm_elementwise(
        """
        mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32
            {$0, $1, $2, $3}, {$8, $9, $10, $11}, {$20, $21, $22, $23}, {$4, $5, $6, $7}, $16, 0x0;
        mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32
            {$0, $1, $2, $3}, {$12, $13, $14, $15}, {$24, $25, $26, $27}, {$0, $1, $2, $3}, $16, 0x1;
        """,
        "=&f,=&f,=&f,=&f,f,f,f,f,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r",
        [acc, low, high, meta, x_low, x_high],
        dtype=gl.float32,
        is_pure=True,
        pack=4,
    )


@gluon.constexpr_function
def along(layout, axis):
    """Return the layout of one axis of a tensor of five."""
    for each in (4, 3, 2, 1, 0):
        if each != axis:
            layout = gl.SliceLayout(each, layout)
    return layout


@gluon.jit
def number(layout: gl.constexpr, axis: gl.constexpr, size: gl.constexpr):
    """Return 0 to size - 1 along one axis of a tensor of five."""
    value = gl.arange(0, size, layout=along(layout, axis))
    for each in gl.static_range(5):
        if each != axis:
            value = gl.expand_dims(value, each)
    return value


@gluon.jit(do_not_specialize=["M", "N"])
def sp_matmul(
    x,  # int32 [N, K / 2]: pairs of float16 or bfloat16
    packed,  # int32 [ceil(M / 32), ceil(K / 64), 576]
    y,  # float32 [S, N, M], written in full
    M,
    N,
    K,
    BM: gl.constexpr,  # rows of W a program owns: 32 for each warp
    BN: gl.constexpr,  # rows of x a program owns
    BRAIN: gl.constexpr,  # bfloat16
    EVEN_K: gl.constexpr,  # K is a multiple of 64
):
    """Write the sums of a share of the reduction; the grid is (ceil(M / BM), ceil(N / BN), S)."""
    WARPS: gl.constexpr = BM // 32
    J: gl.constexpr = BN // 8
    ALL: gl.constexpr = gl.BlockedLayout(
        [1, 2, J, 1, 4], [1, 1, 1, 32, 1], [WARPS, 1, 1, 1, 1], [4, 3, 2, 1, 0]
    )
    warp, half, tile = number(ALL, 0, WARPS), number(ALL, 1, 2), number(ALL, 2, J)
    lane, register = number(ALL, 3, 32), number(ALL, 4, 4)
    g, t = lane // 4, lane % 4  # as in the PTX manual's figures of fragments

    steps = gl.cdiv(K, 64)
    share = gl.cdiv(steps, gl.num_programs(2))
    first = gl.program_id(2) * share
    last = gl.minimum(first + share, steps)
    # Strips and rows of x past the end repeat the last one; they are not stored.
    strip = gl.minimum(gl.program_id(0) * WARPS + warp, gl.cdiv(M, 32) - 1)
    col = gl.minimum(gl.program_id(1) * BN + 8 * tile + g, N - 1)
    block = packed + strip.to(gl.int64) * steps * 576
    low_at = block + 256 * half + 4 * lane + register
    meta_at = block + 512 + 2 * lane + half
    x_at = x + col.to(gl.int64) * (K // 2) + first * 32 + t + 4 * register

    acc = gl.full([WARPS, 2, J, 32, 4], 0.0, gl.float32, layout=ALL)
    at = gl.minimum(first, steps - 1) * 576
    low, high, meta = gl.load(low_at + at), gl.load(low_at + 128 + at), gl.load(meta_at + at)
    for step in range(first, last):
        # The next weights are on their way while these are multiplied; behind the last, the last again.
        at = gl.minimum(step + 1, steps - 1) * 576
        next_low, next_high = gl.load(low_at + at), gl.load(low_at + 128 + at)
        next_meta = gl.load(meta_at + at)
        if EVEN_K:
            x_low, x_high = gl.load(x_at), gl.load(x_at + 16)
        else:
            column = step * 64 + 2 * t + 8 * register
            x_low = gl.load(x_at, mask=(column < K) & (col >= 0), other=0)
            x_high = gl.load(x_at + 16, mask=(column + 32 < K) & (col >= 0), other=0)
        if BRAIN:
            acc = multiply_bf16(acc, low, high, meta, x_low, x_high)
        else:
            acc = multiply_f16(acc, low, high, meta, x_low, x_high)
        low, high, meta = next_low, next_high, next_meta
        x_at += 32

    row = (gl.program_id(0) * WARPS + warp) * 32 + 16 * half + g + 8 * (register // 2)
    col = gl.program_id(1) * BN + 8 * tile + 2 * t + register % 2
    at = (gl.program_id(2) * N + col).to(gl.int64) * M + row
    gl.store(y + at, acc, mask=(row < M) & (col < N))
