"""The CUDA C++ kernels themselves, run by the emulator of a warp, against float64."""

import ctypes
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from nm24_cases import nm14_matrix, nm24_matrix

from sparsec.backends.cuda import formats
from sparsec.backends.cuda.formats.nm24 import numpy_dtype
from sparsec.backends.cuda.formats.values import SCALED, decode
from sparsec.backends.cuda.native import (
    ACTIVATIONS,
    FRAGMENTS,
    NATIVE,
    NativeUnpack,
    NativeVariant,
)
from sparsec.backends.cuda.nvcc import source_text

sys.path.insert(0, str(Path(__file__).parent / "emulator"))
from emulation import COMPILER, Region, build, call, launch

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the emulator needs g++")


def weight(pattern, m, k, dtype="float16", sparsity=0.7, seed=0):
    if pattern == "nm24_sp":
        return nm24_matrix(m, k, dtype, seed=seed, sparsity=max(sparsity, 0.5))
    if pattern == "nm14_sp":
        return nm14_matrix(m, k, dtype, seed=seed, sparsity=max(sparsity, 0.75))
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((m, k)).astype(np.float32)
    dense[rng.random((m, k)) < sparsity] = 0
    return dense.astype(nm24_matrix(1, 4, dtype, seed=0).dtype)


def aligned(array):
    """Return a copy that starts on a 16-byte border, as every operand has to."""
    raw = np.empty(array.nbytes + 16, np.uint8)
    start = -raw.ctypes.data % 16
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def run(pattern, dense, x, bucket, *, clear=False, split=1, y=None, bias=None, residual=None,
        activation="none", order=0, eager=False, values=""):  # fmt: skip
    """Return y of the emulated kernel; NaN where it writes nothing."""
    (m, k), n = dense.shape, len(x)
    even = k % 64 == 0
    variant = NativeVariant(pattern, x.dtype.name, 90, bucket, k % 8 == 0, even, clear, values)
    y = aligned(np.full((n, m), np.nan, np.float32) if y is None else y)
    arrays = {"x": aligned(x), "y": y}
    packed = formats.get(pattern).pack(dense, values or dense.dtype.name)
    arrays |= {name: aligned(array) for name, array in packed.items()}
    if bias is not None:
        arrays["bias"] = aligned(bias)
    if residual is not None:
        arrays["residual"] = aligned(residual)
    sizes = {"M": m, "N": n, "K": k, "split": split, "wide": int(y.dtype == np.float32)}
    sizes["activation"] = ACTIVATIONS.index(activation)
    launch(variant, arrays, sizes, order, eager)
    return y


def product(x, dense):
    return x.astype(np.float64) @ dense.astype(np.float64).T


def close(y, exact, unit=2.0**-19):
    return np.abs(y.astype(np.float64) - exact).max() <= unit * np.abs(exact).max() + 1e-7


# (format, M, K, N, bucket, selective zeroing, split): few compilations, many shapes.
CASES = [
    ("nm24_sp", 128, 256, 16, 16, False, 1),
    ("nm24_sp", 33, 1088, 17, 16, False, 3),
    ("nm24_sp", 130, 100, 1, 8, False, 1),
    ("nm24_sp", 1, 4, 9, 8, False, 1),
    ("nm24_sp", 300, 712, 33, 32, False, 2),
    ("nm14_sp", 128, 512, 16, 16, False, 1),
    ("nm14_sp", 33, 1088, 17, 16, False, 3),
    ("nm14_sp", 130, 100, 1, 8, False, 1),
    ("nm14_sp", 1, 4, 9, 8, False, 1),
    ("nm14_sp", 300, 712, 33, 32, False, 2),
    ("lps", 128, 256, 16, 16, False, 1),
    ("lps", 65, 1088, 17, 16, False, 3),
    ("lps", 130, 101, 1, 8, True, 1),
    ("lps", 1, 3, 9, 8, True, 1),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_compute_the_product(case):
    pattern, m, k, n, bucket, clear, split = case
    dense = weight(pattern, m, k, seed=m)
    x = np.random.default_rng(k).standard_normal((n, k)).astype(np.float16)
    y = run(pattern, dense, x, bucket, clear=clear, split=split)
    assert close(y, product(x, dense))


@pytest.mark.parametrize("pattern", NATIVE)
def test_no_order_of_lanes_blocks_or_copies_changes_a_bit(pattern):
    dense = weight(pattern, 140, 640, sparsity=0.6)
    x = np.random.default_rng(1).standard_normal((16, 640)).astype(np.float16)
    first = run(pattern, dense, x, 16, split=2)
    for order, eager in ((-1, False), (1, False), (2, True), (0, True)):
        assert np.array_equal(run(pattern, dense, x, 16, split=2, order=order, eager=eager), first)


@pytest.mark.parametrize(
    "values", ["", *(pytest.param(each, marks=pytest.mark.slow) for each in SCALED)]
)
@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.9, 0.99, 1.0])
def test_any_sparsity_with_a_dense_tile_and_empty_rows(sparsity, clear, values):
    dense = weight("lps", 129, 256, sparsity=sparsity, seed=3)
    dense[:64, 64:128] = np.random.default_rng(4).standard_normal((64, 64))
    dense[70:75] = 0
    dense[128, :] = 1
    x = np.random.default_rng(5).standard_normal((3, 256)).astype(np.float16)
    y = run("lps", dense, x, 16, clear=clear, values=values)
    assert close(y, x.astype(np.float64) @ restored("lps", dense, values or "float16").T)
    assert not y[:, 70:75].any()


@pytest.mark.parametrize(("bucket", "clear", "k"), [(16, False, 512), (8, True, 511)])
def test_values_of_a_tile_do_not_leak_into_the_next_one(bucket, clear, k):
    dense = np.zeros((64, k), np.float16)
    dense[:, 0] = np.inf  # left behind in shared memory, it would meet the zeros of x: NaN
    x = np.zeros((1, k), np.float16)
    x[0, 0] = 1
    assert np.isposinf(run("lps", dense, x, bucket, clear=clear)).all()


def restored(pattern, dense, values):
    """Return W as it is stored, float64."""
    form = formats.get(pattern)
    return form.unpack(form.pack(dense, values), dense.shape, values).astype(np.float64)


# (format, values, type of x, M, K, N, bucket, selective zeroing, split)
NARROW = [
    ("nm24_sp", "float8_e4m3fn", "float16", 33, 204, 5, 8, False, 2),
    ("nm24_sp", "int8", "float16", 290, 256, 17, 32, False, 1),
    ("nm24_sp", "int8", "bfloat16", 33, 204, 5, 8, False, 1),
    ("nm24_sp", "float8_e4m3fn", "bfloat16", 130, 64, 3, 8, False, 1),
    ("nm14_sp", "float8_e4m3fn", "float16", 33, 204, 5, 8, False, 2),
    ("nm14_sp", "int8", "float16", 290, 256, 17, 32, False, 1),
    ("nm14_sp", "int8", "bfloat16", 33, 204, 5, 8, False, 1),
    ("nm14_sp", "float8_e4m3fn", "bfloat16", 130, 64, 3, 8, False, 1),
    ("lps", "float8_e4m3fn", "float16", 130, 201, 5, 8, False, 2),
    ("lps", "int8", "float16", 65, 256, 9, 16, True, 1),
    ("lps", "int8", "bfloat16", 65, 101, 9, 16, False, 1),
    ("lps", "float8_e4m3fn", "bfloat16", 130, 192, 2, 8, True, 1),
]


@pytest.mark.parametrize("case", NARROW, ids=str)
def test_8_bit_values_are_multiplied_as_they_are_stored(case):
    pattern, values, dtype, m, k, n, bucket, clear, split = case
    dense = weight(pattern, m, k, sparsity=0.85 if clear else 0.6, seed=m)
    if pattern == "lps":
        dense[:64, :64] = np.random.default_rng(8).standard_normal((64, 64))
    dense[m // 2] = 0
    x = np.random.default_rng(k).standard_normal((n, k)).astype(numpy_dtype(dtype))
    bias = np.random.default_rng(n).standard_normal(m).astype(np.float32)
    y = run(pattern, dense, x, bucket, clear=clear, split=split, bias=bias, values=values)
    exact = x.astype(np.float64) @ restored(pattern, dense, values).T + bias
    assert close(y, exact)


# (format, M, K, sparsity, type of w)
UNPACKED = [
    ("nm24_sp", 33, 100, 0.5, "float16"),
    ("nm24_sp", 64, 640, 0.7, "bfloat16"),
    ("nm14_sp", 33, 100, 0.75, "float16"),
    ("nm14_sp", 64, 640, 0.85, "bfloat16"),
    ("lps", 65, 640, 0.6, "float16"),
    ("lps", 130, 101, 0.9, "bfloat16"),
    ("lps", 64, 72, 1.0, "float16"),
]


@pytest.mark.parametrize("values", ["", "float8_e4m3fn", "int8"])
@pytest.mark.parametrize("case", UNPACKED, ids=str)
def test_weights_are_unpacked_for_many_rows_of_x(case, values):
    pattern, m, k, sparsity, dtype = case
    dense = weight(pattern, m, k, dtype, sparsity, seed=m)
    if pattern == "lps" and sparsity < 1:
        dense[:64, :64] = 1.5
    dense[m // 2] = 0
    packed = formats.get(pattern).pack(dense, values or dtype)
    arrays = {name: aligned(array) for name, array in packed.items()}
    w = np.full((m, k), np.nan, numpy_dtype(dtype))
    exact = restored(pattern, dense, values or dtype).astype(np.float32).astype(w.dtype)
    for order in (0, -1):
        arrays["w"] = aligned(w)
        variant = NativeUnpack(pattern, dtype, 90, k % 8 == 0 or pattern != "lps", values)
        launch(variant, arrays, {"M": m, "K": k}, order)
        assert np.array_equal(arrays["w"].view(np.uint16), exact.view(np.uint16))


def test_every_byte_is_widened_exactly():
    run_widen = build("widen", Path(__file__).parent / "emulator" / "widen.cu", "widen", {})
    words = np.random.default_rng(0).permuted(
        np.tile(np.arange(256, dtype=np.uint8), (8, 1)), axis=1
    )
    words[words == 0x7F], words[words == 0xFF] = 1, 2  # not a number in e4m3
    words = aligned(words.reshape(-1).view(np.uint32))
    out = aligned(np.zeros((2, 2, 2, len(words)), np.uint32))
    regions = [Region(words.ctypes.data, words.nbytes, 0), Region(out.ctypes.data, out.nbytes, 1)]
    values = [ctypes.c_void_p(words.ctypes.data), ctypes.c_void_p(out.ctypes.data)]
    call(run_widen, (1, 1, 1), 32, 64, [*values, ctypes.c_int32(len(words))], regions)
    stored = words.view(np.uint8).reshape(-1, 2, 2)  # [word, part, byte]
    for kind, name in enumerate(("float8_e4m3fn", "int8")):
        exact = decode(stored, name)
        for brain, dtype in enumerate(("float16", "bfloat16")):
            for part in range(2):
                got = out[kind, brain, part].view(numpy_dtype(dtype)).astype(np.float32)
                assert np.array_equal(got.reshape(-1, 2), exact[:, part])


@pytest.mark.parametrize("pattern", NATIVE)
def test_epilogue(pattern):
    dense = weight(pattern, 48, 64)
    rng = np.random.default_rng(6)
    x = rng.standard_normal((8, 64)).astype(np.float16)
    bias = rng.standard_normal(48).astype(np.float32)
    half = np.full((8, 48), np.nan, np.float16)
    residual = rng.standard_normal((8, 48)).astype(np.float16)
    sums = product(x, dense) + bias
    erf = np.vectorize(math.erf)
    expected = {
        "none": sums,
        "relu": np.maximum(sums, 0),
        "gelu": sums / 2 * (1 + erf(sums / np.sqrt(2))),
        "silu": sums / (1 + np.exp(-sums)),
        "gelu_tanh": sums / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (sums + 0.044715 * sums**3))),
    }
    for activation in ACTIVATIONS:
        wide = run(pattern, dense, x, 16, bias=bias, activation=activation)
        assert close(wide, expected[activation], 2.0**-17)
        y = run(pattern, dense, x, 16, bias=bias, residual=residual, activation=activation, y=half)
        assert y.dtype == np.float16
        assert close(y, expected[activation] + residual, 2.0**-10)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("bucket", [8, 16, 32, 64])
@pytest.mark.parametrize("pattern", NATIVE)
def test_every_variant(pattern, bucket, dtype):
    for k in (64, 200, 204, 330):
        if pattern in FRAGMENTS and k % 4:
            continue
        for clear in (False, True) if pattern == "lps" else (False,):
            dense = weight(pattern, 150, k, dtype, seed=k)
            for n in (1, bucket - 1, bucket, bucket + 1):
                x = np.random.default_rng(n).standard_normal((n, k)).astype(dense.dtype)
                y = run(
                    pattern, dense, x, bucket, clear=clear, split=1 + n % 2, order=n, eager=n % 2
                )
                assert close(y, product(x, dense))
            for values in ("float8_e4m3fn", "int8"):
                y = run(pattern, dense, x, bucket, clear=clear, values=values)
                assert close(y, x.astype(np.float64) @ restored(pattern, dense, values).T)


FAULTS = {
    1: "divided",
    2: "not a multiple of 16",
    3: "shared address 4096 of 4096",
    4: "outside all operands",
    5: "read only",
    6: "deadlock",
    7: "still under way",
    8: "metadata out of order",
    13: "lane 31 differs",
}


@pytest.fixture(scope="module")
def faulty():
    run_faulty = build("faulty", Path(__file__).parent / "emulator" / "faults.cu", "faulty", {})
    given, out = aligned(np.arange(256, dtype=np.uint32)), aligned(np.zeros(64, np.uint32))
    regions = [Region(given.ctypes.data, given.nbytes, 0), Region(out.ctypes.data, out.nbytes, 1)]

    def attempt(fault, order=0, eager=False):
        pointers = [ctypes.c_void_p(each.ctypes.data) for each in (given, out)]
        values = [*pointers, ctypes.c_int32(fault)]
        call(run_faulty, (1, 1, 1), 64, 4096, values, regions, order, eager)
        return out.copy()

    return attempt


@pytest.mark.parametrize("fault", FAULTS)
def test_the_emulator_finds_what_a_device_would_do_in_silence(faulty, fault):
    with pytest.raises(RuntimeError, match=FAULTS[fault]):
        faulty(fault)


def test_the_emulator_shows_races_by_the_order_of_lanes(faulty):
    assert not np.array_equal(faulty(9), faulty(9, order=-1))
    assert np.array_equal(faulty(10), faulty(10, order=-1))


def test_the_emulator_lands_copies_no_sooner_and_no_later_than_allowed(faulty):
    assert not np.array_equal(faulty(11), faulty(11, eager=True))
    assert np.array_equal(faulty(12), faulty(12, eager=True))


def test_the_joined_source_is_what_was_emulated():
    for pattern in NATIVE:
        text = source_text(NativeVariant(pattern, "float16", 90, 16))
        assert "#include" not in text.replace('#include "emulate.h"', "")
        assert text.count("LANE_FN void finish(") == 1
