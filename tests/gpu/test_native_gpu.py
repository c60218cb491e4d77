"""The CUDA C++ kernels on a device: what the emulator claims about it, and the kernels themselves.

Needs numpy, pytest, triton (for its disassembler), and nvcc or NVRTC; no torch.
"""

import functools
import time

import numpy as np
import pytest

from benchmarks.gpu import prepare
from sparsec.backends.cuda import formats, nvcc
from sparsec.backends.cuda.loader import Driver, Kernel
from sparsec.backends.cuda.native import (
    ACTIVATIONS,
    BUCKETS,
    FRAGMENTS,
    NATIVE,
    NativeUnpack,
    NativeVariant,
    buckets,
    split_for,
)
from sparsec.ir.errors import UnsupportedTargetError

SHAPES = [(128, 128), (2048, 4096), (1000, 1280), (33, 192), (77, 96), (15, 100), (1, 4)]
# K of fragments is a multiple of 4; of lps it is any.
UNPACKED = [
    *((each, m, k) for each in FRAGMENTS for m, k in ((33, 100), (128, 640), (2048, 4096))),
    *(("lps", m, k) for m, k in ((130, 101), (64, 72), (2048, 4096))),
]
STORED = ("float16", "float8_e4m3fn", "int8")
pytestmark = pytest.mark.gpu
if nvcc.why_not(90):
    pytest.skip(nvcc.why_not(90), allow_module_level=True)


@pytest.fixture(scope="module")
def driver():
    try:
        return Driver()
    except UnsupportedTargetError as error:
        pytest.skip(str(error))


def compiled_ahead(sm):
    """Return what the tests launch, as ``prepare.compile_file`` takes it."""
    found = [
        NativeVariant(name, "float16", sm, bucket, k % 8 == 0, k % 64 == 0, clear)
        for k in prepare.kinds(k for _, k in SHAPES)
        for name, clear in (*((each, False) for each in NATIVE), ("lps", True))
        for bucket in ((16,) if clear else buckets(name, k))
    ]
    found += [unpacking(name, sm, k, values) for name, _, k in UNPACKED for values in STORED]
    return [(each,) for each in dict.fromkeys(found)]


def unpacking(pattern, sm, k, values):
    scaled = "" if values == "float16" else values
    return NativeUnpack(pattern, "float16", sm, k % 8 == 0 or pattern != "lps", scaled)


@pytest.fixture(scope="module")
def cache(driver):
    """Compile side by side what would otherwise be compiled one after the other for minutes."""
    calls = compiled_ahead(driver.sm)
    with prepare.Preparation(driver.sm, time.monotonic() + 240) as made:
        made.compile(prepare.compile_file, calls)
        made.compiled(prepare.compile_file, calls)
    return nvcc.kept_in()


@functools.cache
def loaded(driver, cache, variant):
    compiled = nvcc.compile_native(variant, cache)
    return Kernel(driver, compiled.cubin, compiled.launch)


class Memory:
    """Device copies of arrays, freed together."""

    def __init__(self, driver):
        self.driver, self.held = driver, []

    def upload(self, array):
        address = self.new(max(array.nbytes, 16))
        self.driver.copy_in(address, np.ascontiguousarray(array).tobytes())
        return address

    def new(self, nbytes, byte=0xFF):
        address = self.driver.allocate(nbytes)
        self.driver.fill(address, byte, nbytes)
        self.held.append(address)
        return address

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for address in self.held:
            self.driver.free(address)


def weight(pattern, m, k, sparsity, seed):
    rng = np.random.default_rng(seed)
    if pattern in FRAGMENTS:
        groups, zeros = (
            rng.standard_normal((m * k // 4, 4)).astype(np.float16),
            2 + (pattern == "nm14_sp"),
        )
        np.put_along_axis(groups, rng.random(groups.shape).argsort(axis=-1)[:, :zeros], 0, axis=-1)
        return groups.reshape(m, k)
    dense = rng.standard_normal((m, k)).astype(np.float16)
    dense[rng.random((m, k)) < sparsity] = 0
    return dense


_PACKED = {}  # the last one


def packed(pattern, dense):
    """Pack a weight; the same one again comes from memory."""
    key = pattern, dense.tobytes()
    if key not in _PACKED:
        _PACKED.clear()
        _PACKED[key] = formats.get(pattern).pack(dense)
    return _PACKED[key]


def run(driver, cache, pattern, dense, x, bucket, *, clear=False, bias=None, split=None, times=1):
    """Return y float32 of each launch; outputs are poisoned with NaN before each."""
    (m, k), n = dense.shape, len(x)
    variant = NativeVariant(pattern, "float16", driver.sm, bucket, k % 8 == 0, k % 64 == 0, clear)
    kernel = loaded(driver, cache, variant)
    sizes = {"M": m, "N": n, "K": k, "activation": ACTIVATIONS.index("none"), "wide": 1}
    sizes["split"] = split or split_for(variant, m, k)
    with Memory(driver) as memory:
        arrays = {**packed(pattern, dense), "x": x}
        if bias is not None:
            arrays["bias"] = bias
        pointers = {name: memory.upload(array) for name, array in arrays.items()}
        pointers["y"] = memory.new(4 * n * m)
        for name, (nbytes, zero) in kernel.scratch(sizes).items():
            pointers[name] = memory.new(nbytes, 0 if zero else 0xFF)
        results = []
        for _ in range(times):
            driver.fill(pointers["y"], 0xFF, 4 * n * m)
            kernel.launch(pointers, sizes)
            raw = driver.copy_out(pointers["y"], 4 * n * m)
            results.append(np.frombuffer(raw, np.float32).reshape(n, m))
    return results


def check(y, x, dense, bias=0.0):
    exact = x.astype(np.float64) @ dense.astype(np.float64).T + bias
    assert np.abs(y - exact).max() <= 2.0**-17 * np.abs(exact).max() + 1e-6


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("pattern", NATIVE)
def test_kernels_agree_with_float64(driver, cache, pattern, bucket, shape):
    if bucket not in buckets(pattern, shape[1]):
        pytest.skip("lps has no kernel of 64 rows that reads x in pieces: it would spill")
    dense = weight(pattern, *shape, 0.7, seed=0)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(shape[0]).astype(np.float32)
    for n in {1, bucket - 1, bucket, bucket + 1}:
        x = rng.standard_normal((n, shape[1])).astype(np.float16)
        check(run(driver, cache, pattern, dense, x, bucket, bias=bias)[0], x, dense, bias)


@pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.5, 0.7, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("clear", [False, True])
def test_scattered_weights_of_any_sparsity_and_shape(driver, cache, sparsity, clear):
    for m, k in ((512, 1024), (65, 101), (130, 72)):
        dense = weight("lps", m, k, sparsity, seed=2)
        dense[: min(m, 64), :64] = 1
        dense[m // 2] = 0
        x = np.random.default_rng(3).standard_normal((16, k)).astype(np.float16)
        check(run(driver, cache, "lps", dense, x, 16, clear=clear)[0], x, dense)


@pytest.mark.parametrize("values", STORED)
@pytest.mark.parametrize("case", UNPACKED, ids=str)
def test_unpacked_weights_are_the_stored_ones_to_the_bit(driver, cache, case, values):
    pattern, m, k = case
    dense = weight(pattern, m, k, 0.7, seed=k)
    if pattern == "lps":
        dense[:64, :64] = 1.5
    dense[m // 2] = 0
    form = formats.get(pattern)
    packed = form.pack(dense, values)
    exact = form.unpack(packed, (m, k), values).astype(np.float32).astype(np.float16)
    kernel = loaded(driver, cache, unpacking(pattern, driver.sm, k, values))
    with Memory(driver) as memory:
        pointers = {name: memory.upload(array) for name, array in packed.items()}
        pointers["w"] = memory.new(2 * m * k)
        kernel.launch(pointers, {"M": m, "K": k})
        w = np.frombuffer(driver.copy_out(pointers["w"], 2 * m * k), np.uint16)
    assert np.array_equal(w.reshape(m, k), exact.view(np.uint16))


@pytest.mark.parametrize("pattern", NATIVE)
def test_repeated_and_split_launches_agree_to_the_bit(driver, cache, pattern):
    dense = weight(pattern, 1024, 8192, 0.7, seed=4)
    x = np.random.default_rng(5).standard_normal((16, 8192)).astype(np.float16)
    for split in (1, 7):
        first, *others = run(driver, cache, pattern, dense, x, 16, split=split, times=20)
        check(first, x, dense)
        assert all(np.array_equal(first, other) for other in others)


def test_each_place_of_the_metadata_is_where_the_format_puts_it(driver, cache):
    """One kept value at a time, at every row and column of a block, times a one-hot x.

    Whatever order the instruction reads its metadata in, exactly one order passes.
    """
    m, k = 32, 64
    x = np.eye(k, dtype=np.float16)
    for low in range(0, k, 4):  # 16 groups, each with every pair of kept columns
        for a, b in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
            dense = np.zeros((m, k), np.float16)
            dense[:, low + a] = np.arange(1, m + 1)
            dense[:, low + b] = -np.arange(1, m + 1)
            y = run(driver, cache, "nm24_sp", dense, x, 64, split=1)[0]
            assert np.array_equal(y, dense.T.astype(np.float32)), f"columns {low + a}, {low + b}"
    for row in range(m):  # and every row by itself
        dense = np.zeros((m, k), np.float16)
        dense[row, 1::4], dense[row, 3::4] = np.arange(1, 17), np.arange(17, 33)
        y = run(driver, cache, "nm24_sp", dense, x, 64, split=1)[0]
        assert np.array_equal(y, dense.T.astype(np.float32)), f"row {row}"


def test_each_place_of_1_to_4_is_where_the_format_puts_it(driver, cache):
    """The same for one value of four, at each of the four columns."""
    m, k = 32, 64
    x = np.eye(k, dtype=np.float16)
    for column in range(k):
        dense = np.zeros((m, k), np.float16)
        dense[:, column] = np.arange(1, m + 1)
        y = run(driver, cache, "nm14_sp", dense, x, 64, split=1)[0]
        assert np.array_equal(y, dense.T.astype(np.float32)), f"column {column}"
    for row in range(m):
        dense = np.zeros((m, k), np.float16)
        dense[row, row % 4 :: 4] = np.arange(1, 17)
        y = run(driver, cache, "nm14_sp", dense, x, 64, split=1)[0]
        assert np.array_equal(y, dense.T.astype(np.float32)), f"row {row}"
