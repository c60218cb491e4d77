"""The launch of CUDA C++ kernels on torch tensors, as far as a fake driver goes."""

import ctypes
import itertools
import sys
import types
from pathlib import Path

import pytest

from sparsec.backends.cuda import formats
from sparsec.backends.cuda.loader import Driver
from sparsec.backends.cuda.native import NativeVariant
from sparsec.ir.errors import ShapeError

sys.path.insert(0, str(Path(__file__).parent / "emulator"))
from emulation import COMPILER, compile_library

torch = pytest.importorskip("torch", reason="the launcher takes torch tensors")
dispatch = pytest.importorskip("sparsec.backends.cuda.dispatch")
native_launch = pytest.importorskip("sparsec.backends.cuda.native_launch")
on_tensors = pytest.importorskip("sparsec.backends.cuda.on_tensors")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the fake driver needs g++")
VARIANT = NativeVariant("lps", "float16", 90, 16)


@pytest.fixture
def asked(monkeypatch):
    """Let the launcher take CPU tensors; return the variants it asks for."""
    name = f"launch_{VARIANT.name}"
    library = compile_library(name, VARIANT.source.name, VARIANT.entry, VARIANT.defines)
    ctypes.CDLL(str(library)).fake_open_memory()
    variants = []

    def compiled(variant, cache):
        assert cache is None
        variants.append(variant)
        return types.SimpleNamespace(cubin=b"\x7fELF", launch=variant.launch())

    monkeypatch.delenv("SPARSEC_CACHE", raising=False)
    for cached in (native_launch._kernel, on_tensors._zeros_of):
        cached.cache_clear()
    monkeypatch.setattr(native_launch.nvcc, "compile_native", compiled)
    monkeypatch.setattr(native_launch, "_driver", lambda _: Driver(library=str(library)))
    monkeypatch.setattr(native_launch, "device_sm", lambda _: 90)
    monkeypatch.setattr(native_launch, "_processors", lambda _: 132)
    monkeypatch.setattr(native_launch, "_on_device", lambda _: True)
    yield variants
    for cached in (native_launch._kernel, on_tensors._zeros_of):
        cached.cache_clear()


def layer(m=130, k=640, sparsity=0.7):
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(m, k, generator=generator).half()
    dense[torch.rand(m, k, generator=generator) < sparsity] = 0
    packed = formats.get("lps").pack(dense.numpy())
    return dense, {name: torch.from_numpy(array) for name, array in packed.items()}


def test_the_launcher_computes_the_layer(asked):
    dense, arrays = layer()
    x, bias = torch.randn(9, 640).half(), torch.randn(130)
    residual = torch.randn(9, 130)
    y = torch.full((9, 130), torch.nan)
    exact = (x.double() @ dense.double().T + bias).relu() + residual
    for split in (None, 3, 3):
        native_launch.native_linear(
            "lps", x, arrays, y, bias=bias, residual=residual, act="relu", split=split
        )
        assert (y - exact).abs().max() < 1e-4
        y.fill_(torch.nan)
    assert asked == [VARIANT]  # compiled once


def test_the_operators_reach_it(asked):
    dense, arrays = layer()
    x = torch.randn(3, 640).half()
    y = torch.full((3, 130), torch.nan, dtype=torch.float16)
    packed = [arrays[name] for name in formats.get("lps").arrays]
    dispatch.linear("lps", x, packed, y, "float16", "")
    assert (y.double() - x.double() @ dense.double().T).abs().max() < 0.05
    assert dispatch.multiplies("nm24_sp")


def test_the_operator_of_the_device_computes_what_the_reference_does(asked):
    from sparsec.backends.cuda import operators, torch_formats

    # x, bias and residual lie off a border: they are moved.
    buffer = torch.zeros(16 * 640 + 1, dtype=torch.float16)
    x = buffer[1:].view(4, 4, 640).copy_(torch.randn(4, 4, 640))
    for dense in (layer()[0], torch.zeros(130, 640)):
        packed = torch_formats.pack("lps", dense, "float16")
        for out, act in ((torch.float32, "none"), (torch.float16, "gelu")):
            residual = None if act == "none" else torch.randn(16 * 130 + 1).to(out)[1:]
            residual = None if residual is None else residual.view(4, 4, 130)
            bias, rest = torch.randn(131)[1:], (130, 640, "float16", out, operators.NEVER, None, "")
            args = (x, packed, bias, residual, act, *rest)
            y = operators.linear_on_device("lps", *args)
            torch.testing.assert_close(
                y, operators.linear_on_cpu("lps", *args), rtol=2e-3, atol=2e-3
            )


def test_captured_launches_take_memory_that_is_zero_and_theirs_alone(asked, monkeypatch):
    """No graph has to zero it again in every replay; what was not put aside in time it does."""
    dense, arrays = layer()
    x, y = torch.randn(9, 640).half(), torch.full((9, 130), torch.nan)
    exact, given, capturing = x.double() @ dense.double().T, [], [True]

    def note(zeros, nbytes):
        given.append(of_graph(zeros, nbytes))
        assert nbytes == 2 * 4  # blocks of rows, int32 each
        return given[-1]

    def run():
        native_launch.native_linear("lps", x, arrays, y, split=2)
        assert (y - exact).abs().max() < 1e-4
        y.fill_(torch.nan)

    of_graph = on_tensors.Zeros.of_graph
    monkeypatch.setattr(on_tensors.Zeros, "of_graph", note)
    monkeypatch.setattr(on_tensors, "_capturing", lambda device: capturing[0])
    run()
    assert given == [None]  # nothing was put aside yet
    for capturing[0] in (False, True, True, False, True):
        run()
    assert len({address // 128 for address in given[1:]}) == 3
    for address in given[1:]:
        assert ctypes.string_at(address, 128) == bytes(128)


def test_zeroed_memory_is_never_given_twice(asked):
    zeros = on_tensors.Zeros(native_launch._driver(0))
    assert zeros.of_graph(4) is None
    first = zeros.of_stream(7, 4)
    assert zeros.of_stream(7, 4) == first
    pieces = [(zeros.of_stream(8, 4), 4), (first, 4), (zeros.of_stream(7, 1 << 21), 1 << 21)]
    pieces += [(zeros.of_graph(1 << 18), 1 << 18) for _ in range(3)]
    pieces += [(zeros.of_stream(9, 1 << 19), 1 << 19), (zeros.of_graph(1 << 18), 1 << 18)]
    pieces.sort()
    for (address, nbytes), (following, _) in itertools.pairwise(pieces):
        assert address + nbytes <= following
    for address, nbytes in pieces:
        assert address % 128 == 0
        assert ctypes.string_at(address, nbytes) == bytes(nbytes)


def test_what_does_not_fit_is_refused(asked):
    _, arrays = layer()
    x, y = torch.randn(9, 640).half(), torch.zeros(9, 130)
    with pytest.raises(ShapeError, match="bias: need contiguous"):
        native_launch.native_linear("lps", x, arrays, y, bias=torch.zeros(129))
    with pytest.raises(ShapeError, match="x: need contiguous"):
        native_launch.native_linear("lps", torch.randn(640, 9).half().T, arrays, y)
    with pytest.raises(ShapeError, match="chunks: need contiguous"):
        native_launch.native_linear("lps", x, {**arrays, "chunks": arrays["chunks"].long()}, y)
