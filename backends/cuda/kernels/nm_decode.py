"""From the packed words of N:M groups to dense elements, in registers.

A unit is what one call decodes: 4 elements for 2:4, 8 for 1:4 (two groups), 2:8 and 4:8, 16 for
8:16. Values come as words of two 16-bit halves. Each decoder exists twice: by ``prmt``, the byte
permutation of PTX, which places two values at once, and by selects, for other vendors and for
Triton's interpreter.

In a selector of ``prmt(v, 0, s)`` the nibble 4 names a byte of zeros; 10 and 32 (in hexadecimal)
name the two bytes of the first and of the second half of v.
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
def prmt_1_4(pair, first, second):
    """Place the values of two 1:4 groups: first and second are eight times their columns.

    A rotation takes the part of a selector that names the value from column 0 to its own. It counts
    modulo 32: bits from 5 on may be anything.
    """
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b32 selector, start, half;
        mov.b32 start, 0x44444410;
        shf.l.wrap.b32 selector, start, start, $9;
        prmt.b32 half, $8, 0, selector;
        mov.b32 {$0, $1}, half;
        shr.u32 selector, selector, 16;
        prmt.b32 half, $8, 0, selector;
        mov.b32 {$2, $3}, half;
        mov.b32 start, 0x44444432;
        shf.l.wrap.b32 selector, start, start, $10;
        prmt.b32 half, $8, 0, selector;
        mov.b32 {$4, $5}, half;
        shr.u32 selector, selector, 16;
        prmt.b32 half, $8, 0, selector;
        mov.b32 {$6, $7}, half;
        }
        """,
        "=h,=h,=h,=h,=h,=h,=h,=h,r,r,r",
        [pair, first, second],
        dtype=(
            tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16,
        ),
        is_pure=True,
        pack=1,
    )  # fmt: skip


@triton.jit
def prmt_2_8(pair, firsts, seconds, unit):
    """Place the two values of a 2:8 group.

    Their columns, times eight, are in the byte of firsts and of seconds that the last digit of unit
    names, a selector for ``prmt`` that picks one byte.
    """
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b32 selector, half, low, high, low_second, high_second, shift;
        .reg .b64 start;
        mov.b64 start, 0x54;
        prmt.b32 shift, $9, 0, $11;
        shl.b64 start, start, shift;
        mov.b64 {low, high}, start;
        mov.b64 start, 0x76;
        prmt.b32 shift, $10, 0, $11;
        shl.b64 start, start, shift;
        mov.b64 {low_second, high_second}, start;
        lop3.b32 low, low, low_second, 0x44444444, 0x96;
        lop3.b32 high, high, high_second, 0x44444444, 0x96;
        prmt.b32 half, $8, 0, low;
        mov.b32 {$0, $1}, half;
        shr.u32 selector, low, 16;
        prmt.b32 half, $8, 0, selector;
        mov.b32 {$2, $3}, half;
        prmt.b32 half, $8, 0, high;
        mov.b32 {$4, $5}, half;
        shr.u32 selector, high, 16;
        prmt.b32 half, $8, 0, selector;
        mov.b32 {$6, $7}, half;
        }
        """,
        "=h,=h,=h,=h,=h,=h,=h,=h,r,r,r,r",
        [pair, firsts, seconds, unit],
        dtype=(
            tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16,
        ),
        is_pure=True,
        pack=1,
    )  # fmt: skip


@triton.jit
def prmt_4_8(v0, v1, field):
    """Place the four values of a 4:8 group, whose mask is field.

    The values before a pair of columns are as many as mask bits below it: their number, times 16,
    shifts the 64 bits of values so that the pair's own come first. Counts of two bits come from
    m - (m >> 1 & 0x55), as in a population count.
    """
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b32 counts, shift, count, bits, selector, half;
        .reg .b64 values, table, window;
        mov.b64 values, {$8, $9};
        mov.b64 table, 0x3210104444104444;
        shr.u32 counts, $10, 1;
        and.b32 counts, counts, 0x55;
        sub.u32 counts, $10, counts;
        shl.b32 bits, $10, 4;
        and.b32 bits, bits, 48;
        shr.u64 window, table, bits;
        cvt.u32.u64 selector, window;
        prmt.b32 half, $8, 0, selector;
        mov.b32 {$0, $1}, half;
        shl.b32 shift, counts, 4;
        and.b32 shift, shift, 48;
        shr.u64 window, values, shift;
        cvt.u32.u64 half, window;
        shl.b32 bits, $10, 2;
        and.b32 bits, bits, 48;
        shr.u64 window, table, bits;
        cvt.u32.u64 selector, window;
        prmt.b32 half, half, 0, selector;
        mov.b32 {$2, $3}, half;
        shl.b32 count, counts, 2;
        and.b32 count, count, 48;
        add.u32 shift, shift, count;
        shr.u64 window, values, shift;
        cvt.u32.u64 half, window;
        and.b32 bits, $10, 48;
        shr.u64 window, table, bits;
        cvt.u32.u64 selector, window;
        prmt.b32 half, half, 0, selector;
        mov.b32 {$4, $5}, half;
        and.b32 count, counts, 48;
        add.u32 shift, shift, count;
        shr.u64 window, values, shift;
        cvt.u32.u64 half, window;
        shr.u32 bits, $10, 2;
        and.b32 bits, bits, 48;
        shr.u64 window, table, bits;
        cvt.u32.u64 selector, window;
        prmt.b32 half, half, 0, selector;
        mov.b32 {$6, $7}, half;
        }
        """,
        "=h,=h,=h,=h,=h,=h,=h,=h,r,r,r",
        [v0, v1, field],
        dtype=(
            tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16,
        ),
        is_pure=True,
        pack=1,
    )  # fmt: skip


@triton.jit
def prmt_half_of_8_16(v0, v1, v2, v3, field):
    """Place the values of the first eight columns of an 8:16 group, and return the rest of them.

    The mask of these columns is in the low byte of field. After each pair of columns the values
    move down by as many halves as the pair took: the next ones always stand in the first word.
    """
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b32 counts, shift, bits, selector, half, a, b, c, d;
        .reg .b64 table, window;
        mov.b64 table, 0x3210104444104444;
        mov.b32 a, $12;
        mov.b32 b, $13;
        mov.b32 c, $14;
        mov.b32 d, $15;
        shr.u32 counts, $16, 1;
        and.b32 counts, counts, 0x55;
        sub.u32 counts, $16, counts;
        shl.b32 bits, $16, 4;
        and.b32 bits, bits, 48;
        shr.u64 window, table, bits;
        cvt.u32.u64 selector, window;
        prmt.b32 half, a, 0, selector;
        mov.b32 {$0, $1}, half;
        shl.b32 shift, counts, 4;
        and.b32 shift, shift, 48;
        shf.r.clamp.b32 a, a, b, shift;
        shf.r.clamp.b32 b, b, c, shift;
        shf.r.clamp.b32 c, c, d, shift;
        shr.u32 d, d, shift;
        shl.b32 bits, $16, 2;
        and.b32 bits, bits, 48;
        shr.u64 window, table, bits;
        cvt.u32.u64 selector, window;
        prmt.b32 half, a, 0, selector;
        mov.b32 {$2, $3}, half;
        shl.b32 shift, counts, 2;
        and.b32 shift, shift, 48;
        shf.r.clamp.b32 a, a, b, shift;
        shf.r.clamp.b32 b, b, c, shift;
        shf.r.clamp.b32 c, c, d, shift;
        shr.u32 d, d, shift;
        and.b32 bits, $16, 48;
        shr.u64 window, table, bits;
        cvt.u32.u64 selector, window;
        prmt.b32 half, a, 0, selector;
        mov.b32 {$4, $5}, half;
        and.b32 shift, counts, 48;
        shf.r.clamp.b32 a, a, b, shift;
        shf.r.clamp.b32 b, b, c, shift;
        shf.r.clamp.b32 c, c, d, shift;
        shr.u32 d, d, shift;
        shr.u32 bits, $16, 2;
        and.b32 bits, bits, 48;
        shr.u64 window, table, bits;
        cvt.u32.u64 selector, window;
        prmt.b32 half, a, 0, selector;
        mov.b32 {$6, $7}, half;
        shr.u32 shift, counts, 2;
        and.b32 shift, shift, 48;
        shf.r.clamp.b32 $8, a, b, shift;
        shf.r.clamp.b32 $9, b, c, shift;
        shf.r.clamp.b32 $10, c, d, shift;
        shr.u32 $11, d, shift;
        }
        """,
        "=h,=h,=h,=h,=h,=h,=h,=h,=r,=r,=r,=r,r,r,r,r,r",
        [v0, v1, v2, v3, field],
        dtype=(
            tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16, tl.int16,
            tl.int32, tl.int32, tl.int32, tl.int32,
        ),
        is_pure=True,
        pack=1,
    )  # fmt: skip


@triton.jit
def place(value, column, at: tl.constexpr):
    """Return the value where its column is ``at``, else zero."""
    return tl.where(column == at, value, tl.zeros_like(value))


@triton.jit
def take(low, high, mask, at: tl.constexpr):
    """Return element ``at`` and the values behind it: uint64 ``low`` holds the next four."""
    kept = ((mask >> at) & 1) != 0
    element = tl.where(kept, (low & 0xFFFF).to(tl.int16), 0).to(tl.int16)
    low = tl.where(kept, (low >> 16) | (high << 48), low)
    return element, low, tl.where(kept, high >> 16, high)


@triton.jit
def take_8(low, high, mask):
    """Return the elements of eight columns and the values behind them."""
    e0, low, high = take(low, high, mask, 0)
    e1, low, high = take(low, high, mask, 1)
    e2, low, high = take(low, high, mask, 2)
    e3, low, high = take(low, high, mask, 3)
    e4, low, high = take(low, high, mask, 4)
    e5, low, high = take(low, high, mask, 5)
    e6, low, high = take(low, high, mask, 6)
    e7, low, high = take(low, high, mask, 7)
    return e0, e1, e2, e3, e4, e5, e6, e7, low, high


@triton.jit
def join_words(v0, v1):
    """Return two int32 words as one uint64, the first one low."""
    low = v0.to(tl.uint32, bitcast=True).to(tl.uint64)
    return low | (v1.to(tl.uint32, bitcast=True).to(tl.uint64) << 32)


@triton.jit
def join_8(e0, e1, e2, e3, e4, e5, e6, e7):
    """Return [..., 2, 2, 2], which reads 0 to 7 when it is reshaped to [..., 8]."""
    even = tl.join(tl.join(e0, e4), tl.join(e2, e6))
    return tl.join(even, tl.join(tl.join(e1, e5), tl.join(e3, e7)))


@triton.jit
def widen_bytes(pair, INT8: tl.constexpr, ASM: tl.constexpr):
    """Return two float16 in a word for two 8-bit values in the low half of ``pair``.

    e4m3 becomes the float16 of 2^-8 times the number, by moving its bits: the exponents of the two
    types differ by 8 in their bias. For int8 the byte, sign flipped, is the mantissa of 1024 +
    128 + value.
    """
    if INT8:
        biased = ((pair & 0xFF) | ((pair & 0xFF00) << 8)) ^ 0x64806480
        if ASM:
            return subtract_1152(biased)
        low = (biased & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True) - 1152.0
        high = ((biased >> 16) & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True) - 1152.0
        low = low.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        return low | (high.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) << 16)
    high_bytes = ((pair & 0xFF) << 8) | ((pair & 0xFF00) << 16)
    return (high_bytes & -0x7FFF8000) | ((high_bytes & 0x7F007F00) >> 1)


@triton.jit
def subtract_1152(pair):
    """Subtract 1152 from two float16 in a word."""
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b32 offset;
        mov.b32 offset, 0x64806480;
        sub.rn.f16x2 $0, $1, offset;
        }
        """,
        "=r,r",
        [pair],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )
