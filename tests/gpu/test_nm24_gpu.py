"""What only a device can show. Needs torch with CUDA, triton and pytest, and nothing else."""

import ctypes
import itertools

import numpy as np
import pytest

from sparsec.backends.cuda.formats.nm24 import NM24Matrix
from sparsec.ir.errors import ShapeError

torch = pytest.importorskip("torch", reason="GPU tests need torch with CUDA")
pytest.importorskip("triton", reason="GPU tests need triton")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

ROWS = [1, 3, 8, 16, 17, 32, 64, 65, 200]
SHAPES = [(64, 128), (4096, 4096), (1000, 1280), (33, 192), (77, 96), (15, 100), (1, 4)]


def operands(m, n, k, dtype, sparsity=0.5, seed=0):
    """Return x, the dense weight as float64, the packed weight and a bias, on the device."""
    rng = np.random.default_rng(seed)
    groups = rng.standard_normal((m, k // 4, 4)).astype(np.float16)
    np.put_along_axis(groups, rng.random(groups.shape).argsort(axis=-1)[..., :2], 0, axis=-1)
    groups[rng.random(groups.shape) < 2 * sparsity - 1] = 0
    dense = torch.from_numpy(groups.reshape(m, k)).cuda()
    packed = NM24Matrix.pack(groups.reshape(m, k))
    if dtype == torch.bfloat16:
        dense = dense.to(dtype)
        bits = torch.from_numpy(groups).to(dtype).view(torch.int16).numpy().view(np.uint16)
        packed = NM24Matrix.pack(_as_float16_bits(bits.reshape(m, k)))
    x = torch.from_numpy(rng.standard_normal((n, k)).astype(np.float32)).to(dtype).cuda()
    bias = torch.from_numpy(rng.standard_normal(m).astype(np.float32)).cuda()
    return (
        x,
        dense.double(),
        *(torch.from_numpy(a).cuda() for a in (packed.vals, packed.meta)),
        bias,
    )


def _as_float16_bits(bits):
    """Packing moves 16-bit halves and asks only which are zero: bfloat16 bits pass as float16."""
    return bits.view(np.float16)


def launch(x, vals, meta, bias=None, out=None):
    from sparsec.backends.cuda.launch import nm24_linear

    y = torch.full((len(x), len(vals)), torch.nan, dtype=out or x.dtype, device=x.device)
    return nm24_linear(x, vals, meta, bias, out=y)


def assert_close(y, x, dense, bias=None):
    exact = x.double() @ dense.T
    if bias is not None:
        exact += bias
    unit = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-17}[y.dtype]
    assert (y.double() - exact).abs().max() <= 2 * unit * exact.abs().max() + 1e-6


@pytest.mark.parametrize(("shape", "n"), list(itertools.product(SHAPES, ROWS)), ids=str)
def test_the_kernel_agrees_with_float64(shape, n):
    m, k = shape
    x, dense, vals, meta, bias = operands(m, n, k, torch.float16, seed=n)
    assert_close(launch(x, vals, meta), x, dense)
    assert_close(launch(x, vals, meta, bias), x, dense, bias)
    assert_close(launch(x, vals, meta, bias, torch.float32), x, dense, bias)


@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_sparsity_and_type(sparsity, dtype):
    x, dense, vals, meta, bias = operands(512, 16, 1024, dtype, sparsity)
    assert_close(launch(x, vals, meta, bias), x, dense, bias)


def test_two_runs_agree_to_the_bit():
    x, _, vals, meta, bias = operands(4096, 16, 4096, torch.float16)
    assert torch.equal(launch(x, vals, meta, bias), launch(x, vals, meta, bias))


def test_infinite_weights_reach_only_their_row():
    x, _, vals, meta, _ = operands(128, 8, 96, torch.float16)
    vals[5, 0] = 0x7C00  # +Inf in the lower half
    y = launch(x, vals, meta)
    assert not torch.isfinite(y[:, 5]).any()
    assert torch.isfinite(y[:, [i for i in range(128) if i != 5]]).all()


def test_operands_on_another_device_are_refused():
    x, _, vals, meta, _ = operands(64, 8, 128, torch.float16)
    with pytest.raises(ShapeError, match="vals"):
        launch(x, vals.cpu(), meta)


def test_a_cubin_runs_from_its_launch_data_through_the_driver_alone():
    """What a loader does with an artifact: cubin, entry name, grid, shared memory and arguments."""
    from sparsec.backends.cuda.aot import compile_variant
    from sparsec.backends.cuda.variants import variants_for

    sm = 10 * torch.cuda.get_device_capability()[0] + torch.cuda.get_device_capability()[1]
    m, n, k = 1000, 13, 1280
    x, dense, vals, meta, bias = operands(m, n, k, torch.float16)
    kernel = compile_variant(variants_for(k, "float16", sm, bias=True)[0])
    y = torch.full((n, m), torch.nan, dtype=x.dtype, device=x.device)
    pointers = {"x": x, "vals": vals, "meta": meta, "bias": bias, "y": y}
    launch_cubin(kernel.cubin, kernel.launch, pointers, {"M": m, "N": n, "K": k})
    assert_close(y, x, dense, bias)


def launch_cubin(cubin, data, pointers, sizes):
    """Launch by ctypes on libcuda, in torch's context and on its current stream."""
    driver = ctypes.CDLL("libcuda.so.1")

    def call(name, *arguments):
        status = getattr(driver, name)(*arguments)
        assert status == 0, f"{name} returned {status}"

    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    call("cuModuleLoadData", ctypes.byref(module), cubin)
    call("cuModuleGetFunction", ctypes.byref(function), module, data["entry"].encode())
    dynamic_shared = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    call("cuFuncSetAttribute", function, dynamic_shared, data["shared_bytes"])
    values = []
    for argument in data["arguments"]:
        match argument["kind"]:
            case "pointer":
                values.append(ctypes.c_void_p(pointers[argument["name"]].data_ptr()))
            case "null_pointer":
                values.append(ctypes.c_void_p(0))
            case "value":
                values.append(ctypes.c_int32(sizes[argument["name"]]))
    addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    grid = [d if isinstance(d, int) else -(-sizes[d["of"]] // d["per"]) for d in data["grid"]]
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    block = (data["threads"], 1, 1)
    call("cuLaunchKernel", function, *grid, *block, data["shared_bytes"], stream, addresses, None)
    torch.cuda.synchronize()
    call("cuModuleUnload", module)
