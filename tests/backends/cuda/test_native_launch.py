"""The CUDA C++ kernels from torch tensors: the fake driver runs the emulated kernel on the CPU's memory."""

import ctypes
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="launches are on torch tensors")
from sparsec.backends.cuda import native_launch, operators, torch_formats  # noqa: E402
from sparsec.backends.cuda.loader import Driver, Kernel  # noqa: E402
from sparsec.ir.errors import UnsupportedTargetError  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent / "emulator"))
from emulation import COMPILER, compile_library  # noqa: E402

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the fake driver needs g++")


class Mirrored:
    """A kernel behind the fake driver, whose memory the operands are copied into and back from.

    The driver lets a kernel touch nothing else: an address outside an operand is an error.
    """

    def __init__(self, variant, packed):
        library = compile_library(
            f"driver_{variant.name}", variant.source.name, variant.entry, variant.defines
        )
        self.driver = Driver(library=str(library))
        self.kernel = Kernel(self.driver, b"\x7fELF", variant.launch())
        self.scratch = self.kernel.scratch
        self.packed = packed

    def launch(self, addresses, sizes, stream):
        m, n, k = sizes["M"], sizes["N"], sizes["K"]
        held = {"x": 2 * n * k, "y": (4 if sizes["wide"] else 2) * n * m, "bias": 4 * m}
        held |= {name: nbytes for name, (nbytes, _) in self.scratch(sizes).items()}
        held |= {name: array.nbytes for name, array in self.packed.items()}
        mirrors = {name: self.driver.allocate(max(held[name], 1)) for name in addresses}
        for name, address in addresses.items():
            self.driver.copy_in(mirrors[name], ctypes.string_at(address, held[name]))
        self.kernel.launch(mirrors, sizes, stream)
        for name in ("y", "counters"):
            back = self.driver.copy_out(mirrors[name], held[name])
            ctypes.memmove(addresses[name], back, held[name])
        for mirror in mirrors.values():
            self.driver.free(mirror)


@pytest.fixture
def emulated(monkeypatch):
    """Compile variants for the host, and load them through a driver that is one."""
    made, packed = [], {}

    def kernel_of(variant, device):
        made.append(variant)
        return Mirrored(variant, packed)

    def linear(name, x, arrays, *rest):
        packed.clear()
        packed.update(arrays)
        honest(name, x, arrays, *rest)

    class Sm90:
        sm = 90

    honest = native_launch.linear
    monkeypatch.setattr(native_launch, "linear", linear)
    monkeypatch.setattr(native_launch, "kernel_of", kernel_of)
    monkeypatch.setattr(native_launch, "driver_of", lambda device: Sm90)
    monkeypatch.setattr(native_launch, "_COUNTERS", {})
    return made


def case(name, m, k, n, sparsity=0.7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(m, k, generator=generator)
    if name == "nm24_sp":
        keep = torch.rand(m, k // 4, 4, generator=generator).argsort(-1).argsort(-1) < 2
        weight = weight * keep.reshape(m, k)
    else:
        weight = weight * (torch.rand(m, k, generator=generator) >= sparsity)
    packed = torch_formats.pack(name, weight, "float16")
    x = torch.randn(n, k, generator=generator).half()
    bias = torch.randn(m, generator=generator)
    return x, packed, bias, m, k, "float16"


@pytest.mark.parametrize(
    ("name", "shape"), [("lps", (130, 640, 5)), ("nm24_sp", (130, 640, 5)), ("lps", (64, 64, 16))]
)
def test_the_operator_of_the_device_computes_what_the_reference_does(emulated, name, shape):
    for out in (torch.float32, torch.float16):
        args = (*case(name, *shape), out, operators.NEVER, None, "")
        for _ in range(2):  # the second launch finds the counters as the first left them
            y = operators.linear_on_device(name, *args)
            expected = operators.linear_on_cpu(name, *args)
            assert (y.dtype, y.shape) == (expected.dtype, expected.shape)
            error = (y.float() - expected.float()).abs().max() / expected.float().abs().max()
            assert error <= (1e-3 if out == torch.float16 else 1e-5)
    assert emulated[0].bucket == {5: 8, 16: 16}[shape[2]]
    assert not any(counter.any() for counter in native_launch._COUNTERS.values())


@pytest.mark.slow
def test_a_matrix_without_overflow_or_without_weights_is_launched_too(emulated):
    x, _, bias, m, k, values = case("lps", 64, 64, 3)
    packed = torch_formats.pack("lps", torch.zeros(m, k), values)
    y = operators.linear_on_device(
        "lps", x, packed, bias, m, k, values, torch.float32, operators.NEVER, None, ""
    )
    torch.testing.assert_close(y, bias.expand(3, m))


@pytest.mark.slow
def test_rows_off_a_16_byte_border_are_moved_there(emulated):
    x, packed, bias, m, k, values = case("lps", 64, 64, 3)
    buffer = torch.empty(3 * k + 1, dtype=torch.float16)
    shifted = buffer[1:].view(3, k).copy_(x)
    args = (packed, bias, m, k, values, torch.float32, operators.NEVER, None, "")
    torch.testing.assert_close(
        operators.linear_on_device("lps", shifted, *args),
        operators.linear_on_cpu("lps", x, *args),
    )


@pytest.mark.slow
def test_sparse_layers_get_the_clearing_kernel(emulated):
    x, packed, bias, m, k, values = case("lps", 128, 512, 2, sparsity=0.9)
    args = (packed, bias, m, k, values, torch.float32, operators.NEVER, None, "")
    torch.testing.assert_close(
        operators.linear_on_device("lps", x, *args), operators.linear_on_cpu("lps", x, *args)
    )
    assert emulated[-1].clear


def test_values_of_another_type_are_refused():
    x, packed, bias, m, *_ = case("lps", 64, 64, 3)
    arrays = dict(zip(("chunks", "tiles", "overflow"), packed, strict=True))
    with pytest.raises(UnsupportedTargetError, match="multiplies bfloat16"):
        native_launch.linear("lps", x.bfloat16(), arrays, bias, torch.empty(3, m), "float16")
