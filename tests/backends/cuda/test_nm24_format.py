import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nm24_cases import DTYPES, nm24_matrix

from sparsec.backends.cuda.formats.nm24 import NM24Matrix, packed_bytes, padded_columns
from sparsec.ir.errors import PatternError, ShapeError

dtypes = st.sampled_from(sorted(DTYPES))


@st.composite
def matrices(draw):
    """Any 2:4 matrix: any bit pattern (NaN, Inf, -0.0, subnormal) at up to two places of four."""
    rows = draw(st.integers(1, 5))
    groups = draw(st.integers(1, 19))
    halves = st.integers(0, 0xFFFF) | st.sampled_from([0x8000, 0x7C00, 0xFC00, 0x7E01, 0x7F80, 1])
    places = st.lists(st.integers(0, 3), max_size=2, unique=True)
    bits = np.zeros((rows * groups, 4), dtype=np.uint16)
    for row in bits:
        for place in draw(places):
            row[place] = draw(halves)
    return bits.reshape(rows, groups * 4).view(DTYPES[draw(dtypes)])


@given(matrices())
@settings(max_examples=150, deadline=None)
def test_a_packed_matrix_comes_back_bit_for_bit(dense):
    packed = NM24Matrix.pack(dense)
    expected = np.where(dense != 0, dense.view(np.uint16), 0)  # -0.0 comes back as +0.0
    unpacked = packed.unpack()
    assert unpacked.dtype == dense.dtype
    assert np.array_equal(unpacked.view(np.uint16), expected)


@given(matrices())
@settings(max_examples=50, deadline=None)
def test_every_mask_has_two_bits_and_every_filler_is_plus_zero(dense):
    packed = NM24Matrix.pack(dense)
    nibbles = packed.meta.view(np.uint32)[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15
    assert set(nibbles.reshape(-1).tolist()) <= {3, 5, 6, 9, 10, 12}
    kept = np.count_nonzero(packed.vals.view(np.uint16))
    assert kept == np.count_nonzero(dense)  # a filler is never counted, so it is +0.0


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("columns", [4, 28, 32, 36, 100, 128])
@pytest.mark.parametrize("sparsity", [0.5, 0.6, 0.75, 0.9, 0.999, 1.0])
def test_sizes_follow_the_formula(dtype, columns, sparsity):
    packed = NM24Matrix.pack(nm24_matrix(7, columns, dtype, seed=columns, sparsity=sparsity))
    assert packed.vals.shape == (7, padded_columns(columns) // 4)
    assert packed.meta.shape == (7, padded_columns(columns) // 32)
    assert packed.nbytes == packed_bytes(7, columns) == 7 * padded_columns(columns) * 9 // 8
    assert packed.shape == (7, columns)


def test_the_layout_is_the_documented_one():
    dense = np.zeros((2, 36), dtype=np.float16)
    dense[0, [1, 2]] = 1.0, 2.0  # 0x3c00, 0x4000
    dense[0, 35] = -1.0  # 0xbc00: group 8, in the second word of meta
    packed = NM24Matrix.pack(dense)
    assert packed.vals[0, 0] == 0x4000_3C00
    assert packed.meta.view(np.uint32)[0].tolist() == [0x3333_3336, 0x3333_3339]
    assert packed.vals.view(np.uint32)[0, 8] == 0xBC00_0000  # the filler is the lower half
    assert not packed.vals[1].any()


def test_packing_never_drops_a_weight():
    dense = nm24_matrix(3, 64, "float16", seed=0)
    dense[2, 40:43] = 1.0
    with pytest.raises(PatternError, match=r"row 2, columns 40 to 43 hold [34] non-zeros"):
        NM24Matrix.pack(dense)


@pytest.mark.parametrize(
    "dense",
    [
        np.zeros((3, 6), np.float16),
        np.zeros((0, 8), np.float16),
        np.zeros((2, 0), np.float16),
        np.zeros(8, np.float16),
        np.zeros((2, 8), np.float32),
        np.zeros((2, 8), np.int16),
    ],
)
def test_what_cannot_be_packed_is_refused(dense):
    with pytest.raises(ShapeError, match="nm24"):
        NM24Matrix.pack(dense)


def test_a_strided_matrix_packs_like_its_copy():
    dense = nm24_matrix(8, 64, "float16", seed=1)
    wide = np.zeros((16, 64), np.float16)
    wide[::2] = dense
    assert np.array_equal(NM24Matrix.pack(wide[::2]).vals, NM24Matrix.pack(dense).vals)


def test_checks_refuse_what_the_decoder_cannot_read():
    good = NM24Matrix.pack(nm24_matrix(4, 36, "float16", seed=2))
    one_bit = good.meta.copy()
    one_bit[3, 0] ^= one_bit[3, 0] & 15 ^ 1  # group 0 of row 3 keeps element 0 only
    padding = good.vals.copy()
    padding[0, -1] = 7
    broken = {
        "row 3, group 0": dataclasses.replace(good, meta=one_bit),
        "padding": dataclasses.replace(good, vals=padding),
        "meta int32": dataclasses.replace(good, meta=good.meta[:, :1]),
        "vals int32": dataclasses.replace(good, vals=good.vals.astype(np.int64)),
        "multiple of 4": dataclasses.replace(good, columns=35),
        "float16 or bfloat16": dataclasses.replace(good, dtype="float32"),
    }
    good.check()
    for message, packed in broken.items():
        with pytest.raises((ShapeError, PatternError), match=message):
            packed.unpack()
