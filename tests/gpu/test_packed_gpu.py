"""The Triton kernels on a device. Needs torch with CUDA, triton and pytest, and nothing else."""

import functools
import time

import numpy as np
import pytest

from benchmarks.gpu import prepare
from sparsec.backends.cuda import nvcc
from sparsec.backends.cuda.formats import Packed, get
from sparsec.backends.cuda.variants import (
    BLOCK,
    FORMATS,
    SPARSE_MMA,
    unpack_variant,
    variants_for,
)
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
OTHER_SHAPES = [(1000, 1280), (77, 96), (15, 100)]  # of values of other types
CASES = [(form, values) for form in FORMATS for values in get(form).values]
CASES += [(form, values) for form in SPARSE_MMA for values in ("float16", "bfloat16")]
EACH = [
    (form, values, shape)
    for form, values in CASES
    for shape in (SHAPES if values == "float16" else OTHER_SHAPES)
]
UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-17}
SCALED = [
    (form, values)
    for form in FORMATS
    for values in ("int8", "float8_e4m3fn")
    if values in get(form).values
]
SPLITS, CHAIN_K = (1, 3), 1280
UNPACKED_SHAPES = [(1000, 1280), (77, 100)]
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
    found = list(calls.values())
    with_bias = {values: (("out", dtype_of(values)), ("bias", True)) for _, values in CASES}
    found += [(form, values, 16, 1024, with_bias[values]) for form, values in CASES]
    by_group = (("bias", True), ("group", 128))
    found += [(*case, b, 1000, by_group) for case in SCALED for b in (1, 16)[case[0] in BLOCK :]]
    return found


def files_ahead(arch):
    """Return the binaries that the tests of launch data take, as ``prepare.compile_file`` takes them."""
    found = [
        each for form in FORMATS for split in SPLITS for each in chain(form, CHAIN_K, split, arch)
    ]
    for form, values in CASES:
        if form in FORMATS:
            found += [
                unpack_variant(form, k, values, dtype_of(values), arch) for _, k in UNPACKED_SHAPES
            ]
    return [(each,) for each in dict.fromkeys(found)]


def chain(form, k, split, arch):
    """Return the kernels of a product of up to 16 rows of x, in the order of their launches."""
    values = get(form).values[0]
    variants = variants_for(k, "float16", arch, form=form, values=values, bias=True)
    variant = next(each for each in variants if each.bucket >= 16)
    before = variant.before()
    return [*([before] if before else []), *(variant.split_form() if split > 1 else (variant,))]


def dtype_of(values):
    return "bfloat16" if values == "bfloat16" else "float16"


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile side by side what would otherwise be compiled one after the other for minutes."""
    major, minor = torch.cuda.get_device_capability()
    calls, files = compiled_ahead(f"sm{major}{minor}"), files_ahead(f"sm{major}{minor}")
    with prepare.Preparation(10 * major + minor, time.monotonic() + 240) as made:
        made.compile(prepare.compile_triton, calls)
        made.compile(prepare.compile_file, files)
        made.compiled(prepare.compile_triton, calls)
        made.compiled(prepare.compile_file, files)


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


@pytest.mark.parametrize(("form", "values"), SCALED)
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
@pytest.mark.parametrize("split", SPLITS)
def test_cubins_run_from_their_launch_data_through_the_driver_alone(form, split):
    """What a loader does with an artifact: the kernels of a chain, one after the other."""
    from sparsec.backends.cuda.aot import compile_variant
    from sparsec.backends.cuda.loader import Driver, Kernel

    major, minor = torch.cuda.get_device_capability()
    m, n, k = 1000, 13, CHAIN_K
    x, dense, arrays, bias, _ = operands(form, get(form).values[0], m, n, k)
    y = torch.full((n, m), torch.nan, dtype=x.dtype, device=x.device)
    sizes = {"M": m, "N": n, "K": k, "split": split}
    tensors = {**arrays, "x": x, "bias": bias, "y": y}
    driver = Driver(torch.cuda.current_device())
    stream = torch.cuda.current_stream().cuda_stream
    for each in chain(form, k, split, f"sm{major}{minor}"):
        compiled = compile_variant(each, nvcc.kept_in())
        kernel = Kernel(driver, compiled.cubin, compiled.launch)
        for name, (nbytes, _) in kernel.scratch(sizes).items():
            tensors.setdefault(name, torch.empty(nbytes, dtype=torch.uint8, device="cuda"))
        kernel.launch({name: t.data_ptr() for name, t in tensors.items()}, sizes, stream)
    torch.cuda.synchronize()
    assert_close(y, x.double() @ dense.T + bias)


@pytest.mark.parametrize(("form", "values"), [case for case in CASES if case[0] in FORMATS])
@pytest.mark.parametrize("shape", UNPACKED_SHAPES, ids=str)
def test_cubins_that_unpack_run_from_their_launch_data_through_the_driver_alone(
    form, values, shape
):
    from sparsec.backends.cuda.aot import compile_variant
    from sparsec.backends.cuda.loader import Driver, Kernel

    major, minor = torch.cuda.get_device_capability()
    (m, k), dtype = shape, dtype_of(values)
    _, dense, arrays, *_ = operands(form, values, m, 1, k)
    w = torch.full((m, k), torch.nan, dtype=getattr(torch, dtype), device="cuda")
    variant = unpack_variant(form, k, values, dtype, f"sm{major}{minor}")
    compiled = compile_variant(variant, nvcc.kept_in())
    kernel = Kernel(Driver(torch.cuda.current_device()), compiled.cubin, compiled.launch)
    pointers = {name: each.data_ptr() for name, each in {**arrays, "w": w}.items()}
    kernel.launch(pointers, {"M": m, "K": k}, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    assert torch.equal(w, dense.to(w.dtype))
