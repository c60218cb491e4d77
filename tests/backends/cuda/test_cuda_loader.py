"""The loader that needs the driver only, against a driver that runs the emulated kernel."""

import concurrent.futures
import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.cuda import formats, nvcc
from sparsec.backends.cuda.loader import Driver, Kernel, load_kernel, load_kernels, pick
from sparsec.backends.cuda.native import NativeVariant
from sparsec.ir.errors import ArtifactError, UnsupportedTargetError

sys.path.insert(0, str(Path(__file__).parent / "emulator"))
from emulation import COMPILER, compile_library

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the fake driver needs g++")

VARIANT = NativeVariant("lps", "float16", 90, 16)
PTX = b".version 8.8\n.target sm_90\n"
CUBIN = b"\x7fELF"


@pytest.fixture(scope="module")
def library():
    name = f"driver_{VARIANT.name}"
    return compile_library(name, VARIANT.source.name, VARIANT.entry, VARIANT.defines)


@pytest.fixture
def driver(library):
    return Driver(library=str(library))


def log(library):
    read = ctypes.CDLL(str(library)).fake_log
    read.restype = ctypes.c_char_p
    return read().decode()


def upload(driver, array):
    address = driver.allocate(max(array.nbytes, 1))
    driver.copy_in(address, array.tobytes())
    return address


def test_launch_data_is_all_that_a_launch_needs(library, driver):
    rng = np.random.default_rng(0)
    m, n, k, split = 130, 5, 640, 2
    dense = rng.standard_normal((m, k)).astype(np.float16)
    dense[rng.random((m, k)) < 0.7] = 0
    x = rng.standard_normal((n, k)).astype(np.float16)
    bias = rng.standard_normal(m).astype(np.float32)
    packed = formats.get("lps").pack(dense)
    kernel = Kernel(driver, CUBIN, VARIANT.launch())
    sizes = {"M": m, "N": n, "K": k, "split": split, "activation": 0, "wide": 1}
    pointers = {name: upload(driver, a) for name, a in {**packed, "x": x, "bias": bias}.items()}
    pointers["y"] = driver.allocate(4 * n * m)
    scratch = kernel.scratch(sizes)
    assert scratch == {"partial": (2 * 1 * 2 * 128 * 16 * 4, False), "counters": (2 * 1 * 4, True)}
    for name, (nbytes, zero) in scratch.items():
        pointers[name] = driver.allocate(nbytes)
        if zero:
            driver.fill(pointers[name], 0, nbytes)
    results = []
    for _ in range(2):  # the second launch finds the counters as the first one did
        kernel.launch(pointers, sizes, stream=7)
        results.append(np.frombuffer(driver.copy_out(pointers["y"], 4 * n * m), np.float32))
        driver.fill(pointers["y"], 0xFF, 4 * n * m)
    exact = x.astype(np.float64) @ dense.astype(np.float64).T + bias
    assert np.abs(results[0].reshape(n, m) - exact).max() <= 1e-5
    assert np.array_equal(*results)
    for address in pointers.values():
        driver.free(address)
    lines = log(library).splitlines()
    assert lines[-2:] == ["launch grid 2 2 1 block 256 1 1 shared 65536 stream 7"] * 2
    assert "attribute 8 65536" in lines


def test_what_is_missing_or_misaligned_is_named(driver):
    kernel = Kernel(driver, CUBIN, VARIANT.launch())
    sizes = {"M": 1, "N": 1, "K": 64, "split": 1, "activation": 0, "wide": 1}
    names = ("x", "chunks", "tiles", "overflow", "y", "partial", "counters")
    pointers = dict.fromkeys(names, 256)
    with pytest.raises(ArtifactError, match="no address for 'tiles'"):
        kernel.launch({**pointers, "tiles": 0}, sizes)
    with pytest.raises(ArtifactError, match="'x' at 0x104 is not aligned to 16 bytes"):
        kernel.launch({**pointers, "x": 260}, sizes)
    with pytest.raises(ArtifactError, match="no value for 'wide'"):
        kernel.launch(pointers, {name: 1 for name in sizes if name != "wide"})


def test_errors_of_the_driver_come_in_its_words(library, driver):
    with pytest.raises(UnsupportedTargetError, match="cuDeviceGet returned 101: invalid device"):
        Driver(3, str(library))
    with pytest.raises(UnsupportedTargetError, match="cuMemFree_v2 returned 1: invalid argument"):
        driver.free(12345)
    with pytest.raises(UnsupportedTargetError, match="cuModuleLoadData returned 200"):
        Kernel(driver, b"neither", VARIANT.launch())
    with pytest.raises(UnsupportedTargetError, match="no CUDA driver"):
        Driver(library="libno-such-driver.so")


def test_calls_work_from_any_thread_and_leave_its_device_as_it_was(library, driver):
    """A thread of a server, or of torch's backward pass, may never have touched the device."""
    depth = ctypes.CDLL(str(library)).fake_depth

    def use():
        kernel = Kernel(driver, CUBIN, VARIANT.launch())
        address = driver.allocate(8)
        driver.fill(address, 7, 8)
        contents = driver.copy_out(address, 8)
        driver.free(address)
        with pytest.raises(UnsupportedTargetError, match="cuMemFree"):
            driver.free(address)
        return kernel.launch_data["name"], contents, depth()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        there = pool.submit(use).result()
    assert there == use() == (VARIANT.name, b"\x07" * 8, 0)


def test_cubins_load_on_their_architecture_and_ptx_on_later_ones(tmp_path, library, driver):
    (tmp_path / "a.cubin").write_bytes(CUBIN)
    (tmp_path / "a.ptx").write_bytes(PTX)
    data = {**VARIANT.launch(), "file": "a.cubin", "ptx": "a.ptx"}
    assert driver.sm == 90
    for sm, kind in ((90, "cubin"), (80, "ptx")):
        kernels = load_kernels(driver, tmp_path, {"kernels": [{**data, "sm": sm}]})
        assert list(kernels) == [VARIANT.name]
        loads = [line for line in log(library).splitlines() if line.startswith("load")]
        assert loads[-1] == f"load {kind}"
    with pytest.raises(ArtifactError, match="is for sm_100, the device is sm_90"):
        load_kernels(driver, tmp_path, {"kernels": [{**data, "sm": 100}]})
    (tmp_path / "refused.cubin").write_bytes(b"of a later toolkit")  # its PTX is tried then
    load_kernels(driver, tmp_path, {"kernels": [{**data, "file": "refused.cubin"}]})
    loads = [line for line in log(library).splitlines() if line.startswith("load")]
    assert loads[-1] == "load ptx"
    (tmp_path / "refused.ptx").write_bytes(b"nor is this one")
    refused = {**data, "file": "refused.cubin", "ptx": "refused.ptx"}
    with pytest.raises(
        ArtifactError, match=r"(?s)refused\.cubin: cuModule.*refused\.ptx: cuModule"
    ):
        load_kernels(driver, tmp_path, {"kernels": [refused]})
    amd = {**{k: v for k, v in data.items() if k != "sm"}, "arch": "gfx942"}
    with pytest.raises(ArtifactError, match="is for gfx942, the device is sm_90"):
        load_kernels(driver, tmp_path, {"kernels": [amd]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entry": None}, "entry must be str, got None"),
        ({"grid": 3}, "grid must be list, got 3"),
        ({"arguments": [3]}, "an argument must have a name and a kind"),
        (
            {"arguments": [{"name": "x", "kind": "stolen"}]},
            "an argument must have a name and a kind",
        ),
    ],
)
def test_odd_launch_data_are_one_error(tmp_path, driver, change, message):
    (tmp_path / "a.cubin").write_bytes(CUBIN)
    data = {**VARIANT.launch(), "file": "a.cubin", "sm": 90, **change}
    with pytest.raises(ArtifactError, match=f"kernel {VARIANT.name}: {message}"):
        load_kernel(driver, tmp_path, data)


def test_the_smallest_kernel_that_holds_the_rows_is_picked(driver):
    sizes = {16: CUBIN, 64: CUBIN}
    kernels = [Kernel(driver, c, {**VARIANT.launch(), "n_max": n}) for n, c in sizes.items()]
    assert [pick(kernels, n).launch_data["n_max"] for n in (1, 16, 17, 64, 200)] == [
        16,
        16,
        64,
        64,
        64,
    ]


@pytest.mark.skipif(bool(nvcc.why_not(90)), reason="needs nvcc or NVRTC")
def test_a_real_cubin_and_its_ptx_are_taken(driver):
    compiled = nvcc.compile_native(VARIANT)
    for code in (compiled.cubin, compiled.ptx.encode()):
        assert Kernel(driver, code, compiled.launch).launch_data["tensor_op"] == "HMMA"
