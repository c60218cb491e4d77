"""What is particular to the formats of the CUDA C++ kernels; what all formats share is tested by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nm24_cases import nm14_matrix, nm24_matrix

from sparsec.backends.cuda import formats
from sparsec.ir.errors import PatternError, ShapeError

LPS, SP, SP14 = (formats.get(name) for name in ("lps", "nm24_sp", "nm14_sp"))


def sparse(rows, columns, sparsity, seed=0):
    rng = np.random.default_rng(seed)
    bits = rng.integers(1, 2**16, (rows, columns)).astype(np.uint16)  # any pattern: NaN, Inf, -0.0
    bits[(rng.random(bits.shape) < sparsity) | (bits == 0x8000)] = 0
    return bits


def back(form, bits, values="float16"):
    arrays = form.pack_bits(bits)
    form.check(arrays, bits.shape, values)
    return form.unpack_bits(arrays, bits.shape, values)


@given(
    st.integers(1, 140), st.integers(1, 140), st.sampled_from([0, 0.01, 0.3, 0.5, 0.7, 0.9, 0.999, 1]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_lps_comes_back_bit_for_bit(rows, columns, sparsity, seed):
    bits = sparse(rows, columns, sparsity, seed)
    assert np.array_equal(back(LPS, bits), bits)


def test_lps_gaps_of_16_and_17_and_the_last_place():
    bits = np.zeros((64, 64), np.uint16)
    for row, column in ((0, 0), (0, 8), (8, 40), (63, 63), (63, 0)):
        bits[row, column] = 7
    assert np.array_equal(back(LPS, bits), bits)
    dense_row = np.zeros((128, 256), np.uint16)
    dense_row[77] = 9
    assert np.array_equal(back(LPS, dense_row), dense_row)


def test_a_dense_tile_in_an_empty_matrix():
    bits = np.zeros((192, 192), np.uint16)
    bits[64:128, 64:128] = 5
    arrays = LPS.pack_bits(bits)
    assert np.diff(arrays["tiles"][:, 0]).tolist() == [0, 0, 0, 0, 16, 0, 0, 0, 0]
    assert np.array_equal(back(LPS, bits), bits)


# The table of docs/formats/lps.md, bytes an element of a 2048x2048 matrix with random zeros.
MEASURED = {0.0: 2.502, 0.5: 1.351, 0.6: 1.099, 0.7: 0.851, 0.8: 0.582, 0.9: 0.349, 0.95: 0.218}


@pytest.mark.parametrize("sparsity", MEASURED)
def test_lps_sizes_are_the_documented_ones_and_what_the_model_expects(sparsity):
    bits = np.ones((512, 2048), np.uint16)
    bits[np.random.default_rng(0).random(bits.shape) < sparsity] = 0
    size = LPS.nbytes(LPS.pack_bits(bits)) / bits.size
    assert size == pytest.approx(MEASURED[sparsity], rel=0.005)
    assert LPS.expected_bytes(bits.shape, sparsity, "float16") / bits.size == pytest.approx(
        size,
        rel=0.05 if sparsity > 0.9 else 0.01,  # lists so short come in few lengths
    )


def test_lps_refuses_what_would_leave_a_tile():
    bits = sparse(70, 130, 0.7)
    good = LPS.pack_bits(bits)
    LPS.check(good, bits.shape)

    def refused(match, kind=PatternError, **changed):
        with pytest.raises(kind, match=match):
            LPS.check({**good, **changed}, bits.shape)

    wide = good["chunks"].copy()
    wide[0, 128:] = -1  # gaps of 16 only
    refused("leaves its tile|two entries", chunks=wide)
    beyond = good["overflow"].copy()
    beyond[0] |= np.int32(0x7FFE0000)
    refused("overflow entry leaves|two entries", overflow=beyond)
    odd = good["overflow"].copy()
    odd[0] |= np.int32(1 << 16)
    refused("overflow entry leaves", overflow=odd)
    twice = good["overflow"].copy()
    twice[1] = twice[0]
    refused("two entries for one place", overflow=twice)
    tiles = good["tiles"].copy()
    tiles[1, 0] += 1000
    refused("partition", tiles=tiles)
    refused("tiles int32", ShapeError, tiles=good["tiles"][:-1])
    padded = LPS.pack_bits(sparse(128, 192, 0.7))
    with pytest.raises(PatternError, match="padding"):
        LPS.check(padded, bits.shape)


@pytest.mark.parametrize("shape", [(1, 4), (31, 60), (33, 64), (64, 68), (100, 132)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nm24_sp_comes_back_bit_for_bit(shape, dtype):
    bits = nm24_matrix(*shape, dtype, seed=shape[0], sparsity=0.6).view(np.uint16)
    assert np.array_equal(back(SP, bits, dtype), bits)


def test_nm24_sp_takes_9_bits_an_element_where_the_shape_fits():
    assert SP.expected_bytes((4096, 4096), 0.5, "float16") / 4096**2 == 1.125


def test_nm24_sp_stands_as_the_fragments_of_the_instruction():
    bits = np.zeros((32, 64), np.uint16)
    bits[16 + 3, 32 + 20 + 1], bits[16 + 3, 32 + 20 + 3] = 11, 12  # half 1, row 3, half 1, group 5
    packed = SP.pack_bits(bits)["packed"].view(np.uint32)[0, 0]
    # lane (g=3, t=1), register 2 (groups 4 to 7, upper rows) of the fragment (half 1, half 1)
    assert packed[(2 * 1 + 1) * 128 + (4 * 3 + 1) * 4 + 2] == 12 << 16 | 11
    # metadata: lane (g=3, half 1 of the columns, groups 4 to 7), word of half 1, row g in the low half
    assert packed[512 + (4 * 3 + 2 * 1 + 1) * 2 + 1] >> 4 & 15 == 1 | 3 << 2


def sixteen_by_32(fragments, metadata, selector):
    """Return what ``mma.sp.m16n8k32`` takes its operand A for, read off the manual's figures.

    fragments : [32 threads][4 registers][2 halves], metadata : [32 threads]. Written from the figures
    alone, and element by element: "Tk: [m..n]" in a cell says that these bits of thread k hold the
    columns of the kept elements of that row and those columns, two bits each, ascending.
    """
    kept = {}  # (row, kept column): the layout of A in the dense mma.m16n8k16
    for thread in range(32):
        group, in_group = thread >> 2, thread % 4
        for i in range(8):  # a0 to a7, two a register
            row = group if i in (0, 1, 4, 5) else group + 8
            column = in_group * 2 + (i & 1) + (8 if i >= 4 else 0)
            kept[row, column] = fragments[thread][i // 2][i % 2]
    dense = [[0] * 32 for _ in range(16)]
    for row in range(16):
        for columns, of_pair in (((0, 16), 0), ((16, 32), 1)):
            # Selector 0: threads T0 and T1 of four. Selector 1: T2 and T3.
            thread = 4 * (row % 8) + 2 * selector + of_pair
            shift = 0 if row < 8 else 16  # T: [15..0] in rows 0 to 7, [31..16] in rows 8 to 15
            for chunk in range(columns[0] // 4, columns[1] // 4):
                for which in range(2):
                    bit = shift + 4 * (chunk % 4) + 2 * which
                    column = 4 * chunk + (metadata[thread] >> bit & 3)
                    dense[row][column] = kept[row, 2 * chunk + which]
    return dense


def test_nm24_sp_is_what_the_figures_of_the_manual_say():
    bits = nm24_matrix(32, 64, "float16", seed=7).view(np.uint16)
    words = SP.pack_bits(bits)["packed"].view(np.uint32)[0, 0]
    values = words[:512].reshape(2, 2, 32, 4)
    halves = np.stack([values & 0xFFFF, values >> 16], axis=-1).tolist()
    metadata = words[512:].reshape(32, 2).T.tolist()
    for i in range(2):
        for q in range(2):
            expected = bits[16 * i : 16 * i + 16, 32 * q : 32 * q + 32]
            assert sixteen_by_32(halves[i][q], metadata[i], q) == expected.tolist()


def reordered_for_ldmatrix(metadata):
    """Return the words that a warp of a CUTLASS 2:4 product of sm_80 holds, lane by lane, for 32 rows.

    ``metadata`` [32, C]: 16 bits, four groups each. What its ``reorder_meta`` does, in other words: rows 8
    apart come beside each other; in 2 x 2 squares the off-diagonal elements change places; two columns
    make a word. ``ldmatrix`` then gives word l to lane l, and rows 0 to 15 are multiplied with selector 0,
    rows 16 to 31 with selector 1.
    """
    rows, columns = metadata.shape
    assert rows == 32
    mixed = metadata.reshape(4, 8, columns).swapaxes(0, 1).reshape(16, 2, columns // 2, 2)
    mixed = mixed.swapaxes(1, 3).reshape(32, columns // 2, 2).astype(np.uint32)
    return (mixed[..., 0] | mixed[..., 1] << 16).T


def test_nm24_sp_has_the_metadata_that_cutlass_multiplies_with():
    """A second source, which runs on devices, for what rests on reading the manual."""
    bits = nm24_matrix(32, 64, "float16", seed=3).view(np.uint16)
    packed = SP.pack_bits(bits)["packed"].view(np.uint32)[0, 0]
    ours = packed[512:].reshape(
        8, 2, 2, 2
    )  # g, half of the columns, lane of a pair, half of the rows
    metadata = np.zeros((32, 4), np.uint32)
    for row, group in np.ndindex(32, 16):
        kept = np.flatnonzero(bits[row, 4 * group : 4 * group + 4])
        assert len(kept) == 2
        metadata[row, group // 4] |= (kept[0] | kept[1] << 2) << 4 * (group % 4)
    theirs = reordered_for_ldmatrix(metadata).reshape(2, 8, 2, 2)  # half, g, half of the rows, lane
    assert np.array_equal(ours, theirs.transpose(1, 0, 3, 2))


def test_nm24_sp_refuses_pairs_that_do_not_ascend():
    bits = nm24_matrix(33, 68, "float16", seed=0).view(np.uint16)
    good = SP.pack_bits(bits)["packed"]
    equal, padded = good.copy(), good.copy()
    equal[1, 0, 512] = 0
    with pytest.raises(PatternError, match="do not ascend"):
        SP.check({"packed": equal}, bits.shape)
    padded[1, 1, 2] = 1
    with pytest.raises(PatternError, match="padding"):
        SP.check({"packed": padded}, bits.shape)
    with pytest.raises(ShapeError, match="packed int32"):
        SP.check({"packed": good[:, :1]}, bits.shape)


@pytest.mark.parametrize("shape", [(1, 4), (31, 60), (33, 64), (64, 68), (100, 132)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nm14_sp_comes_back_bit_for_bit(shape, dtype):
    bits = nm14_matrix(*shape, dtype, seed=shape[0], sparsity=0.8).view(np.uint16)
    assert np.array_equal(back(SP14, bits, dtype), bits)


def test_nm14_sp_takes_half_the_bytes_of_2_to_4():
    for values, size in (("float16", 0.5625), ("float8_e4m3fn", 0.3125)):
        scales = 4 * 4096 * (size < 0.5)
        assert SP14.expected_bytes((4096, 4096), 0.75, values) == size * 4096**2 + scales


def test_nm14_sp_stands_where_a_lane_of_2_to_4_looks_for_it():
    bits = np.zeros((32, 64), np.uint16)
    bits[16 + 8 + 3, 32 + 20 + 3] = 11  # half 1, lower rows, row 3, half 1 of the columns, group 5
    packed = SP14.pack_bits(bits)["packed"].view(np.uint32)[0, 0]
    # lane (g=3, t=1), the word of half 1 of the columns and groups 4 to 7, upper half
    assert packed[1 * 128 + (4 * 3 + 1) * 4 + 2 * 1 + 1] == 11 << 16
    # column 3: the upper bit in the word of that lane, of pairs 4 i + 2 q + u = 7, lower rows
    assert packed[256 + 4 * 3 + 1] >> 16 & 0xCCCC == 1 << 15
    # the lower bit in that of lane (g=3, q=1, u=1), half 1 of the rows, lower rows, t=1
    assert packed[256 + 4 * 3 + 2 * 1 + 1] & 0x33333333 == 1 << 16 + 4 * 1 + 1


def test_nm14_sp_becomes_what_the_figures_of_the_manual_say():
    """As the kernel does it, in other words: two bits of a place make columns and halves."""
    bits = nm14_matrix(32, 64, "float16", seed=7).view(np.uint16)
    words = SP14.pack_bits(bits)["packed"].view(np.uint32)[0, 0].tolist()
    values, places = words[:256], words[256:]
    for i, q in np.ndindex(2, 2):
        fragments = [[[0, 0] for _ in range(4)] for _ in range(32)]
        for lane, u, lower in np.ndindex(32, 2, 2):
            kept = values[i * 128 + 4 * lane + 2 * q + u] >> 16 * lower & 0xFFFF
            second = places[lane] >> (8 * i + 4 * q + 2 + u + 16 * lower) & 1
            fragments[lane][2 * u + lower][second] = kept
        metadata = []
        for lane in range(32):
            odd = [places[lane] >> 4 * n + i & 1 for n in range(8)]
            metadata.append(
                sum(((1 | 3 << 2) if each else 2 << 2) << 4 * n for n, each in enumerate(odd))
            )
        expected = bits[16 * i : 16 * i + 16, 32 * q : 32 * q + 32]
        assert sixteen_by_32(fragments, metadata, q) == expected.tolist()


def test_nm14_sp_refuses_what_it_cannot_hold():
    bits = nm14_matrix(33, 68, "float16", seed=0).view(np.uint16)
    good = SP14.pack_bits(bits)["packed"]
    padded = good.copy()
    padded[1, 1, 2] = 1
    with pytest.raises(PatternError, match="padding"):
        SP14.check({"packed": padded}, bits.shape)
    with pytest.raises(ShapeError, match="packed int32"):
        SP14.check({"packed": good[:, :1]}, bits.shape)
    with pytest.raises(ShapeError, match="multiple of 4 columns"):
        SP14.pack_bits(np.zeros((2, 6), np.uint16))
    with pytest.raises(PatternError, match="not 1:4"):
        SP14.pack_bits(np.ones((2, 8), np.uint16))
