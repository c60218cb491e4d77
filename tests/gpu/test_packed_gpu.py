"""The Triton kernels on a device. Needs torch with CUDA, triton and pytest, and nothing else."""

import functools
import time

import numpy as np
import pytest

from benchmarks.gpu import prepare
from sparsec.backends.cuda.formats import Packed, get
from sparsec.backends.cuda.variants import FORMATS, SPARSE_MMA, variants_for
from sparsec.ir.errors import ShapeError

torch = pytest.importorskip("torch", reason="GPU tests need torch with CUDA")
pytest.importorskip("triton", reason="GPU tests need triton")

from benchmarks.gpu.packed import random_weight  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

ROWS = [1, 3, 8, 16, 17, 32, 64, 65, 200]
SHAPES = [(64, 128), (2048, 4096), (1000, 1280), (33, 192), (77, 96), (15, 100), (1, 4)]
OTHER_SHAPES = [(1000, 1280), (77, 96)]  # of values of other types
CASES = [(form, values) for form in FORMATS for values in get(form).values]
CASES += [(form, values) for form in SPARSE_MMA for values in ("float16", "bfloat16")]
EACH = [
    (form, values, shape)
    for form, values in CASES
    for shape in (SHAPES if values == "float16" else OTHER_SHAPES)
]
UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-17}
ENDS = {"bias": True, "residual": True, "act": "silu"}


def compiled_ahead(arch):
    """Return what the tests launch, as ``prepare.compile_triton`` takes it: one call for each kernel."""
    calls = {}
    for form, values, (_, k) in EACH:
        dtype = dtype_of(values)
        wide = {**ENDS, "out": "float32"}
        for options, splits in (
            ({"out": dtype}, (1, 3)),
            (wide, (1,)),
            ({**ENDS, "out": dtype}, (3,)),
        ):
            for variant in variants_for(k, dtype, arch, form=form, values=values, **options):
                named = (*options.items(), ("splits", splits))
                calls.setdefault((variant, splits), (form, values, variant.bucket, k, named))
    return list(calls.values())


def dtype_of(values):
    return "bfloat16" if values == "bfloat16" else "float16"


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile side by side what would otherwise be compiled one after the other for minutes."""
    major, minor = torch.cuda.get_device_capability()
    calls = compiled_ahead(f"sm{major}{minor}")
    with prepare.Preparation(10 * major + minor, time.monotonic() + 240) as made:
        made.compile(prepare.compile_triton, calls)
        made.compiled(prepare.compile_triton, calls)


@functools.lru_cache(maxsize=1)
def weight(form, values, m, k, sparsity, group):
    """Return W as float64 and the packed arrays, on the device."""
    rng = np.random.default_rng(0)
    dense = random_weight(get(form).pattern, m, k, sparsity, rng)
    packed = Packed.of(get(form), dense, values, group)
    arrays = {name: torch.from_numpy(array).cuda() for name, array in packed.arrays.items()}
    return torch.from_numpy(packed.unpack()).cuda().double(), arrays


def operands(form, values, m, n, k, sparsity=0.6, group=None, seed=0):
    """Return x, W as float64, the packed arrays, bias and residual, on the device."""
    rng = np.random.default_rng(seed)
    dtype = getattr(torch, dtype_of(values))
    dense, arrays = weight(form, values, m, k, sparsity, group)
    x = torch.from_numpy(rng.standard_normal((n, k), dtype=np.float32)).to(dtype).cuda()
    bias = torch.from_numpy(rng.standard_normal(m, dtype=np.float32)).cuda()
    residual = torch.from_numpy(rng.standard_normal((n, m), dtype=np.float32)).to(dtype).cuda()
    return x, dense, dict(arrays), bias, residual


def launch(form, values, x, arrays, m, out=None, **options):
    from sparsec.backends.cuda.launch import packed_linear

    y = torch.full((len(x), m), torch.nan, dtype=out or x.dtype, device=x.device)
    return packed_linear(form, x, arrays, m, values, out=y, **options)


def assert_close(y, exact, room=2.0):
    assert (y.double() - exact).abs().max() <= room * UNIT[y.dtype] * exact.abs().max() + 1e-6


@pytest.mark.parametrize(("form", "values", "shape"), EACH, ids=str)
def test_the_kernel_agrees_with_float64(form, values, shape):
    m, k = shape
    for n in ROWS:
        x, dense, arrays, bias, residual = operands(form, values, m, n, k, seed=n)
        exact = x.double() @ dense.T
        assert_close(launch(form, values, x, arrays, m), exact)
        exact = torch.nn.functional.silu(exact + bias) + residual
        ends = {"bias": bias, "act": "silu"}
        y = launch(form, values, x, arrays, m, residual=residual, split=3, **ends)
        assert_close(y, exact)
        wide = residual.float()
        y = launch(form, values, x, arrays, m, torch.float32, residual=wide, split=1, **ends)
        assert_close(y, exact)


@pytest.mark.parametrize("form", [form for form in FORMATS if "int8" in get(form).values])
@pytest.mark.parametrize("values", ["int8", "float8_e4m3fn"])
def test_scales_by_group(form, values):
    for n in (1, 16):
        x, dense, arrays, bias, _ = operands(form, values, 512, n, 1000, group=128)
        y = launch(form, values, x, arrays, 512, bias=bias)
        assert_close(y, x.double() @ dense.T + bias, room=4.0)


@pytest.mark.parametrize(("form", "values"), CASES)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_every_sparsity(form, values, sparsity):
    x, dense, arrays, bias, _ = operands(form, values, 512, 16, 1024, sparsity)
    y = launch(form, values, x, arrays, 512, bias=bias)
    assert_close(y, x.double() @ dense.T + bias)


@pytest.mark.parametrize(("form", "values"), [case for case in CASES if case[0] in FORMATS])
def test_the_weight_is_decompressed_exactly(form, values):
    from sparsec.backends.cuda.launch import unpack

    for m, k in SHAPES[2:]:
        _, dense, arrays, *_ = operands(form, values, m, 1, k)
        dtype = torch.bfloat16 if values == "bfloat16" else torch.float16
        w = torch.full((m, k), torch.nan, dtype=dtype, device="cuda")
        assert torch.equal(unpack(form, arrays, w, values), dense.to(dtype))


@pytest.mark.parametrize("form", FORMATS)
def test_two_runs_agree_to_the_bit(form):
    values = get(form).values[0]
    x, _, arrays, bias, _ = operands(form, values, 4096, 16, 4096)
    first, second = (launch(form, values, x, arrays, 4096, bias=bias, split=4) for _ in range(2))
    assert torch.equal(first, second)


def test_infinite_weights_reach_only_their_row():
    x, _, arrays, *_ = operands("nm24", "float16", 128, 8, 96)
    arrays["vals"] = arrays["vals"].clone()
    arrays["vals"][5, 0] = 0x7C00  # +Inf in the lower half
    y = launch("nm24", "float16", x, arrays, 128)
    assert not torch.isfinite(y[:, 5]).any()
    assert torch.isfinite(y[:, [i for i in range(128) if i != 5]]).all()


def test_operands_on_another_device_are_refused():
    x, _, arrays, *_ = operands("nm24", "float16", 64, 8, 128)
    with pytest.raises(ShapeError, match="vals"):
        launch("nm24", "float16", x, {**arrays, "vals": arrays["vals"].cpu()}, 64)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("split", [1, 3])
def test_cubins_run_from_their_launch_data_through_the_driver_alone(form, split):
    """What a loader does with an artifact: the kernels of a chain, one after the other."""
    from sparsec.backends.cuda.aot import compile_variant
    from sparsec.backends.cuda.loader import Driver, Kernel
    from sparsec.backends.cuda.variants import variants_for

    major, minor = torch.cuda.get_device_capability()
    m, n, k, values = 1000, 13, 1280, get(form).values[0]
    x, dense, arrays, bias, _ = operands(form, values, m, n, k)
    variants = variants_for(
        k, "float16", f"sm{10 * major + minor}", form=form, values=values, bias=True
    )
    variant = next(each for each in variants if each.bucket >= n)
    before = variant.before()
    chain = [*([before] if before else []), *(variant.split_form() if split > 1 else (variant,))]
    y = torch.full((n, m), torch.nan, dtype=x.dtype, device=x.device)
    sizes = {"M": m, "N": n, "K": k, "split": split}
    tensors = {**arrays, "x": x, "bias": bias, "y": y}
    driver = Driver(torch.cuda.current_device())
    stream = torch.cuda.current_stream().cuda_stream
    for each in chain:
        compiled = compile_variant(each)
        kernel = Kernel(driver, compiled.cubin, compiled.launch)
        for name, (nbytes, _) in kernel.scratch(sizes).items():
            tensors.setdefault(name, torch.empty(nbytes, dtype=torch.uint8, device="cuda"))
        kernel.launch({name: t.data_ptr() for name, t in tensors.items()}, sizes, stream)
    torch.cuda.synchronize()
    assert_close(y, x.double() @ dense.T + bias)


@pytest.mark.parametrize(("form", "values"), [case for case in CASES if case[0] in FORMATS])
@pytest.mark.parametrize("shape", [(1000, 1280), (77, 100)], ids=str)
def test_cubins_that_unpack_run_from_their_launch_data_through_the_driver_alone(
    form, values, shape
):
    from sparsec.backends.cuda.aot import compile_variant
    from sparsec.backends.cuda.loader import Driver, Kernel
    from sparsec.backends.cuda.variants import unpack_variant

    major, minor = torch.cuda.get_device_capability()
    (m, k), dtype = shape, "bfloat16" if values == "bfloat16" else "float16"
    _, dense, arrays, *_ = operands(form, values, m, 1, k)
    w = torch.full((m, k), torch.nan, dtype=getattr(torch, dtype), device="cuda")
    compiled = compile_variant(unpack_variant(form, k, values, dtype, f"sm{10 * major + minor}"))
    kernel = Kernel(Driver(torch.cuda.current_device()), compiled.cubin, compiled.launch)
    pointers = {name: each.data_ptr() for name, each in {**arrays, "w": w}.items()}
    kernel.launch(pointers, {"M": m, "K": k}, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    assert torch.equal(w, dense.to(w.dtype))
