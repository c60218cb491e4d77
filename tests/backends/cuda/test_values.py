import ml_dtypes
import numpy as np
import pytest

from sparsec.backends.cuda.formats.values import (
    SCALE_GROUP,
    VALUES,
    check_scale,
    decode,
    encode,
)
from sparsec.ir.errors import PatternError, ShapeError

RNG = np.random.default_rng(0)
TYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
}


@pytest.mark.parametrize("values", TYPES)
def test_every_bit_pattern_decodes_as_the_reference_does(values):
    count = 256 if values == "float8_e4m3fn" else 65536
    bits = np.arange(count, dtype=np.uint8 if count == 256 else np.uint16)[None]
    expected = bits.view(TYPES[values]).astype(np.float32)
    np.testing.assert_array_equal(decode(bits, values), expected)


@pytest.mark.parametrize("values", ["float16", "bfloat16"])
def test_halves_round_as_the_reference_does(values):
    raw = RNG.integers(0, 2**32, 200000, dtype=np.uint32).view(np.float32)
    wide = raw[np.abs(raw) < 6e4]
    ties = (np.arange(1, 2000, dtype=np.uint32) << np.uint32(15) | np.uint32(0x40000000)).view(
        np.float32
    )
    wide = np.concatenate([wide, ties, np.float32([np.inf, -np.inf, np.nan, 0.0, -0.0, -1e-30])])[
        None
    ]
    bits, scale = encode(wide, values)
    with np.errstate(all="ignore"):
        expected = wide.astype(TYPES[values])
    assert scale is None
    got = bits.view(TYPES[values]).astype(np.float32)
    np.testing.assert_array_equal(got, expected.astype(np.float32))
    assert not (bits == 0x8000).any()  # no negative zero


def test_a_signalling_nan_stays_nan_in_bfloat16():
    raw = np.array([[0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF]], np.uint32).view(np.float32)
    assert np.isnan(decode(encode(raw, "bfloat16")[0], "bfloat16")).all()


def test_8_bit_floats_round_as_the_reference_does():
    wide = np.concatenate([RNG.uniform(-448, 448, 5000), RNG.uniform(-0.05, 0.05, 5000), [448.0]])
    wide = np.concatenate([wide, (np.arange(16, 32) + 0.5) / 4]).astype(np.float32)[None]
    bits, scale = encode(wide, "float8_e4m3fn")
    assert scale.tolist() == [[1.0]]
    expected = wide.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(decode(bits, "float8_e4m3fn"), expected)
    assert not (bits == 0x80).any()


@pytest.mark.parametrize("values", ["float8_e4m3fn", "int8"])
@pytest.mark.parametrize("group", [None, SCALE_GROUP])
def test_scales_bound_the_error_of_8_bit_values(values, group):
    wide = (RNG.standard_normal((5, 300)) * 10.0 ** RNG.integers(-6, 3, (5, 1))).astype(np.float32)
    wide[3] = 0
    bits, scale = encode(wide, values, group)
    assert scale.shape == (5, 3 if group else 1)
    check_scale(scale, values, wide.shape)
    back = decode(bits, values, scale)
    width = group or 300
    for first in range(0, 300, width):
        part = slice(first, first + width)
        top = np.abs(wide[:, part]).max(axis=1, keepdims=True)
        # Half a step of 1/127 of the largest; or 2^-4 of the value, half of 3 bits of mantissa.
        room = (
            top / 253 if values == "int8" else np.maximum(np.abs(wide[:, part]) / 15.9, top * 1e-5)
        )
        assert (np.abs(back - wide)[:, part] <= room).all()
    assert (back[3] == 0).all()


def test_what_a_type_cannot_hold_is_refused():
    with pytest.raises(PatternError, match=r"1e\+05 exceeds the range of float16"):
        encode(np.full((1, 4), 1e5, np.float32), "float16")
    with pytest.raises(PatternError, match="exceeds the range of bfloat16"):
        encode(np.full((1, 4), 3.4e38, np.float32), "bfloat16")
    for values in ("float8_e4m3fn", "int8"):
        with pytest.raises(PatternError, match="NaN or infinity"):
            encode(np.full((1, 4), np.nan, np.float32), values)
    with pytest.raises(ShapeError, match="no value type"):
        encode(np.zeros((1, 4), np.float32), "int4")
    with pytest.raises(ShapeError, match="by row or 128"):
        encode(np.zeros((1, 4), np.float32), "int8", 64)
    with pytest.raises(ShapeError, match="by row or 128"):
        encode(np.zeros((1, 4), np.float32), "float16", 128)


def test_scales_are_checked():
    good = np.ones((3, 1), np.float32)
    check_scale(good, "int8", (3, 300))
    check_scale(None, "float16", (3, 300))
    for scale in (None, good[:2], good.astype(np.float64), np.ones((3, 2), np.float32)):
        with pytest.raises(ShapeError, match="scale"):
            check_scale(scale, "int8", (3, 300), "somewhere")
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(PatternError, match="not finite and above zero"):
            check_scale(good * np.float32(bad), "int8", (3, 300))
    with pytest.raises(ShapeError, match="no scale"):
        check_scale(good, "float16", (3, 300))


def test_all_types_are_tested():
    assert set(VALUES) == {*TYPES, "int8"}
