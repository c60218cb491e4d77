import itertools

import ml_dtypes
import numpy as np
import pytest
from format_cases import matrix_for

from sparsec.backends.cuda.formats import Packed, get, names
from sparsec.backends.cuda.formats.values import SCALE_GROUP, decode, encode
from sparsec.ir.errors import PatternError, ShapeError

FORMATS = [get(name) for name in names()]
SHAPES = [(1, 4), (3, 64), (16, 100), (17, 132), (65, 68), (70, 300)]
CASES = [(form, values) for form in FORMATS for values in form.values]
HALVES = [form for form in FORMATS if "float16" in form.values]
IDS = [f"{form.name}-{values}" for form, values in CASES]


def rounded(dense, values, group=None):
    bits, scale = encode(dense, values, group)
    return decode(bits, values, scale)


def test_names_are_those_of_the_formats():
    assert [form.name for form in FORMATS] == list(names())
    with pytest.raises(ShapeError, match="no packed format; known: nm24"):
        get("csr")


@pytest.mark.parametrize(("form", "values"), CASES, ids=IDS)
def test_a_packed_matrix_comes_back(form, values):
    for shape, sparsity in itertools.product(SHAPES, (0.0, 0.5, 0.9, 0.999, 1.0)):
        dense = matrix_for(form.pattern, *shape, seed=shape[1], sparsity=sparsity)
        packed = Packed.of(form, dense, values)
        packed.check("here")
        back = packed.unpack()
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, rounded(dense, values))
        assert not (np.signbit(back) & (back == 0)).any()


@pytest.mark.parametrize(("form", "values"), CASES, ids=IDS)
def test_scales_by_group(form, values):
    dense = matrix_for(form.pattern, 20, 300, seed=1)
    if values in ("float16", "bfloat16"):
        with pytest.raises(ShapeError, match="by row or 128"):
            form.pack(dense, values, SCALE_GROUP)
        return
    if not form.scales_by_group:
        with pytest.raises(ShapeError, match="a scale for each row"):
            form.pack(dense, values, SCALE_GROUP)
        arrays = form.pack(dense, values)
        arrays["scale"] = np.repeat(arrays["scale"], 3, axis=1)
        with pytest.raises(ShapeError, match="scale float32"):
            form.check(arrays, dense.shape, values)
        return
    packed = Packed.of(form, dense, values, SCALE_GROUP)
    assert packed.arrays["scale"].shape == (20, 3)
    np.testing.assert_array_equal(packed.unpack(), rounded(dense, values, SCALE_GROUP))


@pytest.mark.parametrize("form", HALVES, ids=lambda form: form.name)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_bit_pattern_of_a_half_survives(form, dtype):
    rng = np.random.default_rng(3)
    keep = matrix_for(form.pattern, 64, 512, seed=2) != 0
    bits = np.where(keep, rng.integers(0, 1 << 16, keep.shape), 0).astype(np.uint16)
    bits[keep & (rng.random(keep.shape) < 0.1)] = 0x8000  # -0.0 is a zero
    dense = bits.view(dtype)
    values = np.dtype(dtype).name
    back = form.unpack_bits(form.pack(dense, values), dense.shape, values)
    np.testing.assert_array_equal(back, np.where(bits == 0x8000, 0, bits))


@pytest.mark.parametrize("form", HALVES, ids=lambda form: form.name)
def test_awkward_matrices(form):
    for build in (one_dense_row, one_dense_tile, with_infinities):
        dense = build(form)
        np.testing.assert_array_equal(form.unpack(form.pack(dense), dense.shape), dense)


def one_dense_row(form):
    dense = np.zeros((20, 256), np.float32)
    dense[7] = matrix_for(form.pattern, 20, 256, seed=0, sparsity=0.0)[7]
    return dense


def one_dense_tile(form):
    dense = np.zeros((192, 192), np.float32)
    dense[64:128, 64:128] = matrix_for(form.pattern, 64, 64, seed=0, sparsity=0.0)
    return dense


def with_infinities(form):
    dense = matrix_for(form.pattern, 20, 128, seed=5)
    places = np.argwhere(dense)
    for place, special in zip(places[::7], [np.inf, -np.inf, np.nan], strict=False):
        dense[tuple(place)] = special
    return dense


@pytest.mark.parametrize(("form", "values"), CASES, ids=IDS)
def test_sizes_are_what_the_cost_model_expects(form, values):
    for sparsity in (0.5, 0.7, 0.9):
        dense = matrix_for(form.pattern, 256, 1024, seed=9, sparsity=sparsity)
        packed = Packed.of(form, dense, values)
        zeros = 1 - np.count_nonzero(dense) / dense.size
        expected = form.expected_bytes(dense.shape, zeros, values)
        # Strips of blocks and lists of lanes are padded one by one: an average, no formula.
        room = {"block8x1": 0.03, "block16x1": 0.03, "lps": 0.1}.get(form.name, 1e-9)
        assert packed.nbytes == pytest.approx(expected, rel=room)


@pytest.mark.parametrize("form", [f for f in FORMATS if f.name.startswith("nm")],
                         ids=lambda form: form.name)  # fmt: skip
def test_packing_never_drops_a_weight(form):
    dense = matrix_for(form.pattern, 3, 64, seed=0)
    dense[2, 32:48] = 1.0
    with pytest.raises(
        PatternError, match=rf"not {form.pattern}: row 2, columns 32 to .* non-zeros"
    ):
        form.pack(dense, form.values[0])


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize(
    "dense",
    [np.zeros((0, 8), np.float16), np.zeros(8, np.float16), np.zeros((2, 8), np.int32)],
    ids=["empty", "vector", "integers"],
)
def test_what_cannot_be_packed_is_refused(form, dense):
    with pytest.raises(ShapeError, match="packs a float matrix"):
        form.pack(dense, form.values[0])


def mutations(arrays):
    """Yield ``(what, arrays)`` with one thing wrong each, that any reader has to notice."""
    for name in arrays:
        yield f"no {name}", {key: value for key, value in arrays.items() if key != name}
        yield f"{name} of int64", {**arrays, name: arrays[name].astype(np.int64)}
        yield f"{name} cut", {**arrays, name: arrays[name][:-1]}
        yield f"{name} longer", {**arrays, name: np.concatenate([arrays[name], arrays[name][:1]])}
    yield "an unknown array", {**arrays, "more": next(iter(arrays.values()))}


def altered(array, index, value):
    copy = array.copy()
    copy[index] = value
    return copy


WRONG = {  # contents of a 20 x 100 matrix that no packer writes, by kind of format
    "nm24": [("meta", (3, 0), 0), ("meta", (3, 0), -1), ("vals", (0, -1), 1)],
    "nm1_4": [("vals", (0, -1), 1)],
    "nm2_4": [("meta", (3, 0), 0), ("meta", (3, 0), -1), ("vals", (0, -1), 1)],
    "nm2_8": [("meta", (3, 0), 0), ("meta", (3, 0), -1), ("vals", (0, -1), 1)],
    "nm4_8": [("meta", (3, 0), 0), ("meta", (3, 0), -1), ("vals", (0, -1), 1)],
    "nm8_16": [("meta", (3, 0), 0), ("meta", (3, 0), -1), ("vals", (0, -1), 1)],
    "bm32": [("bits", (0, 0, 0, 0), 0), ("bits", (0, 1, 3, 1), -1), ("bits", (0, 0, 63, 0), 1),
             ("offs", (0, 0, 1, 0), -1), ("tile", 0, 1), ("tile", 1, -5), ("tile", -1, 10**9)],
    "block8x1": [("start", 0, 16), ("start", 1, 15), ("start", -1, 10**6), ("cols", 0, 100),
                 ("cols", 0, -1), ("cols", 1, 0), ("vals", (-16, 7), 1)],
    "block16x1": [("start", 0, 16), ("start", 1, -16), ("start", -1, 10**6), ("cols", 0, 100),
                  ("cols", 0, -1), ("cols", 1, 0), ("vals", (-16, 15), 1)],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_checks_refuse_what_a_kernel_would_trip_over(form):
    shape = (20, 100)
    arrays = form.pack(matrix_for(form.pattern, *shape, seed=4), form.values[0])
    form.check(arrays, shape, form.values[0])
    for what, broken in mutations(arrays):
        assert refused(form, broken, shape), f"accepted: {what}"
    for name, index, value in WRONG.get(form.name, []):
        broken = {**arrays, name: altered(arrays[name], index, value)}
        assert "layer 3" in refused(form, broken, shape), f"accepted: {name}[{index}] = {value}"
    for wrong_shape in ((90, 100), (20, 356), (20, 0), (20,)):
        if form.name.startswith("block") and wrong_shape[1:] == (356,):
            continue  # more columns than blocks name are legal
        assert refused(form, arrays, wrong_shape), f"accepted: {wrong_shape}"


def refused(form, arrays, shape):
    """Return the message of the error; empty if the arrays are accepted."""
    try:
        form.check(arrays, shape, form.values[0], where="layer 3")
    except (ShapeError, PatternError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("form", [f for f in FORMATS if "int8" in f.values], ids=lambda f: f.name)
def test_a_bad_scale_is_refused(form):
    shape = (20, 100)
    arrays = form.pack(matrix_for(form.pattern, *shape, seed=4), "int8")
    for scale in (arrays["scale"] * np.float32("nan"), -arrays["scale"], arrays["scale"].T):
        with pytest.raises((ShapeError, PatternError), match="scale"):
            form.check({**arrays, "scale": scale}, shape, "int8")
    with pytest.raises(ShapeError, match=r"arrays|holds"):
        form.check(arrays, shape, "float16")
