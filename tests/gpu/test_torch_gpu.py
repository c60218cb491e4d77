"""Sparse layers and operators on a device. Needs torch with CUDA, triton and pytest, and nothing else."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="GPU tests need torch with CUDA")
pytest.importorskip("triton", reason="GPU tests need triton")

import sparsec.torch as st  # noqa: E402
from benchmarks.gpu import end_to_end, prepare  # noqa: E402
from examples.zoo.decode_graph import GreedyDecoder  # noqa: E402
from examples.zoo.llama_static import StaticLlama  # noqa: E402
from sparsec.backends.cuda import dispatch, nvcc, operators, torch_formats  # noqa: E402
from sparsec.backends.cuda.formats.values import is_scaled  # noqa: E402
from sparsec.backends.cuda.native import (  # noqa: E402
    NATIVE,
    NativeUnpack,
    NativeVariant,
    buckets,
)
from sparsec.backends.cuda.variants import FORMATS  # noqa: E402
from sparsec.ir.errors import ArtifactError  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

NAMES = [
    name
    for name in torch_formats.formats.names()
    if dispatch.multiplies(name) and "float16" in torch_formats.form_of(name).values
]
M, K = 272, 1024
ACTS = ("relu", "silu", "gelu", "gelu_tanh")


def compiled_ahead():
    """Return the Triton kernels that the tests launch, as ``prepare.compile_triton`` takes them."""
    ends = [{"bias": True, "out": "float32"}, {"bias": True}]
    ends += [{"bias": True, "residual": True, "act": act} for act in ACTS]
    calls = []
    for name in set(NAMES) & set(FORMATS):
        for values in torch_formats.form_of(name).values:
            same = "bfloat16" if values == "bfloat16" else "float16"
            for bucket in (1, 16, 32, 64):
                for end in ends[: None if values == torch_formats.form_of(name).values[0] else 2]:
                    options = tuple({"out": same, **end, "splits": (3,)}.items())
                    calls.append((name, values, bucket, K, options))
    return calls


def files_ahead(sm):
    """Return the CUDA C++ kernels that the tests launch, as ``prepare.compile_file`` takes them."""
    found = []
    for name in set(NAMES) & set(NATIVE):
        for values in torch_formats.form_of(name).values:
            same = "bfloat16" if values == "bfloat16" else "float16"
            stored = values if is_scaled(values) else ""
            found += [
                NativeVariant(name, same, sm, bucket, values=stored) for bucket in buckets(name, K)
            ]
            found.append(NativeUnpack(name, same, sm, values=stored))
    return [] if nvcc.why_not(sm) else [(each,) for each in found]


@pytest.fixture(autouse=True)
def _cublas_adds_in_float32(monkeypatch):
    """Dense products are compared with float64 here; torch's default lets cuBLAS add shares in float16."""
    for name in ("fp16", "bf16"):
        reduces = f"allow_{name}_reduced_precision_reduction"
        monkeypatch.setattr(torch.backends.cuda.matmul, reduces, False)


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile side by side what would otherwise be compiled one after the other for minutes."""
    major, minor = torch.cuda.get_device_capability()
    calls, files = compiled_ahead(), files_ahead(10 * major + minor)
    with prepare.Preparation(10 * major + minor, time.monotonic() + 240) as made:
        made.compile(prepare.compile_file, files)
        made.compile(prepare.compile_triton, calls)
        made.compiled(prepare.compile_file, files)
        made.compiled(prepare.compile_triton, calls)


def case(name, values, rows, seed=0, m=M, k=K):
    """Return x, packed arrays, bias, and the exact product in float64, on the device."""
    torch.manual_seed(seed)
    pattern = torch_formats.form_of(name).pattern
    weight = end_to_end.masked(torch.randn(m, k), pattern, 0.7)
    packed = [array.cuda() for array in torch_formats.pack(name, weight, values)]
    dtype = torch_formats.VALUES[values]
    x = torch.randn(rows, k).to(dtype if dtype.itemsize == 2 else torch.float16).cuda()
    bias = torch.randn(m).cuda()
    held = torch_formats.unpack(name, packed, (m, k), values).double().cuda()
    return x, packed, bias, x.double() @ held.T + bias


def close(y, exact):
    unit = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 2.0**-15}[y.dtype]
    return float((y.double() - exact).abs().max()) <= unit * float(exact.abs().max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 3, 8, 16, 17, 32, 64, 65, 200])
def test_the_packed_kernel_agrees_with_float64(name, rows):
    for values in torch_formats.form_of(name).values:
        x, packed, bias, exact = case(name, values, rows, seed=rows)
        for out in (x.dtype, torch.float32):
            y = operators.linear_operator(name)(
                x, packed, bias, None, "none", M, K, values, out, operators.NEVER, None, ""
            )
            assert close(y, exact), (values, out)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("rows", [1, 17, 300])
def test_activation_and_residual_agree_with_the_reference(name, act, rows):
    values = torch_formats.form_of(name).values[0]
    x, packed, bias, _ = case(name, values, rows)
    residual = torch.randn(rows, M, device="cuda").to(x.dtype)
    dense_from = 257 if dispatch.unpacks(name) else operators.NEVER
    rest = (act, M, K, values, x.dtype, dense_from, None, "")
    y = operators.linear_operator(name)(x, packed, bias, residual, *rest)
    on_host = [each.cpu() for each in packed]
    expected = operators.linear_on_cpu(name, x.cpu(), on_host, bias.cpu(), residual.cpu(), *rest)
    assert close(y.cpu(), expected.double())


@pytest.mark.parametrize("name", [name for name in NAMES if dispatch.unpacks(name)])
def test_prefill_by_decompression_agrees_with_float64(name):
    for values in torch_formats.form_of(name).values:
        x, packed, bias, _ = case(name, values, 300)
        # A scaled value is rounded once, to the type that it is multiplied in.
        rounded = torch_formats.unpack(name, packed, (M, K), values).to(x.dtype).double().cuda()
        exact = x.double() @ rounded.T + bias
        for out in (x.dtype, torch.float32):
            y = operators.linear_operator(name)(
                x, packed, bias, None, "none", M, K, values, out, 257, None, ""
            )
            assert close(y, exact), (values, out)
        again = operators.unpack_operator(name)(packed, M, K, values, torch.float32).cpu()
        held = torch_formats.unpack(name, packed, (M, K), values)
        if torch_formats.VALUES[values].itemsize == 2:
            assert torch.equal(again, held)
        else:
            torch.testing.assert_close(again, held, rtol=2e-3, atol=1e-6)


@pytest.mark.skipif(
    not torch.backends.cusparselt.is_available(), reason="torch has no cuSPARSELt here"
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")
@pytest.mark.parametrize("rows", [257, 300])
def test_prefill_by_cusparselt_agrees_with_float64(rows):
    x, packed, bias, exact = case("nm24", "float16", rows)
    weight = operators.unpack_operator("nm24")(packed, M, K, "float16", torch.float16)
    second = operators.cusparselt_weight(weight)
    y = operators.linear_operator("nm24")(
        x, packed, bias, None, "none", M, K, "float16", torch.float16, 257, second, ""
    )
    assert close(y, exact)


def sparse_module():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(K, M, bias=False), torch.nn.SiLU(), torch.nn.Linear(M, 64)
    )
    for layer in (model[0], model[2]):
        layer.weight.data = end_to_end.masked(layer.weight.data, "2:4", 0.5)
    model = model.half().cuda().eval()
    report = st.sparsify_(model, "2:4", criterion=None)
    assert report.replaced == ["0", "2"]
    return model


@pytest.mark.parametrize("rows", [1, 300])
def test_a_cuda_graph_replays_what_eager_computes(rows):
    model = sparse_module()
    x = torch.randn(rows, K, dtype=torch.float16, device="cuda")
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            model(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        x.copy_(torch.randn_like(x))
        graph.replay()
        assert torch.equal(y, model(x))


def test_the_compiler_takes_sparse_modules():
    model = sparse_module()
    x = torch.randn(5, K, dtype=torch.float16, device="cuda")
    with torch.inference_mode():
        torch.testing.assert_close(
            torch.compile(model, fullgraph=True)(x), model(x), rtol=2e-3, atol=2e-3
        )


def test_gradients_reach_x():
    model = sparse_module()
    x = torch.randn(3, K, dtype=torch.float16, device="cuda", requires_grad=True)
    model[0](x).float().sum().backward()
    expected = model[0].weight.float().sum(0).expand(3, K)
    torch.testing.assert_close(x.grad.float(), expected, rtol=5e-3, atol=5e-3)


def test_the_same_module_gives_the_same_on_both_devices():
    model = sparse_module()
    x = torch.randn(7, K)
    with torch.inference_mode():
        there = model(x.half().cuda()).float().cpu()
        here = model.cpu()(x.half()).float()
    torch.testing.assert_close(there, here, rtol=4e-3, atol=4e-3)


def test_a_captured_step_decodes_what_an_eager_one_does(monkeypatch):
    torch.manual_seed(0)
    model = StaticLlama(end_to_end.TINY).half().cuda().eval()
    st.sparsify_(_masked_24(model), "2:4", criterion=None)
    prompt = torch.arange(24).reshape(3, 8)
    captured = GreedyDecoder(model, 3, 32)
    captured.prefill(prompt)
    tokens = captured.generate(16)
    monkeypatch.setattr(GreedyDecoder, "_capture", lambda self: None)
    eager = GreedyDecoder(model, 3, 32)
    eager.prefill(prompt)
    assert torch.equal(eager.generate(16), tokens)


def _masked_24(model):
    for layer in model.modules():
        if type(layer) is torch.nn.Linear and layer is not model.lm_head:
            layer.weight.data = end_to_end.masked(layer.weight.data, "2:4", 0.5)
    return model


def test_the_end_to_end_benchmark_runs_and_its_logits_agree():
    plan = end_to_end.Plan(end_to_end.TINY, "cuda", (1, 4), 8, 1)
    result = end_to_end.run(plan)
    assert not end_to_end.failed(result)
    assert {row["batch"] for row in result["rows"]} == {1, 4}


TARGETS = {(8, 0): "a100", (8, 9): "rtx4090", (9, 0): "h200", (10, 0): "b200"}


# What a session may not call: with its own binaries no source, else no binary.
def _refused(compiled, launch, native_launch):
    sources = [(launch, "packed_linear"), (launch, "unpack")]
    sources += [(native_launch, "native_linear"), (native_launch, "native_unpack")]
    return {"binary": sources, "source": [(compiled, "load_kernel")]}


@pytest.mark.parametrize("source", ["binary", "source"])
@pytest.mark.parametrize("kernels", ["CUDA C++", "Triton"])
@pytest.mark.parametrize("spec", ["nm24", "unstructured:sparsity=0.8"])
def test_an_artifact_runs_in_cuda_graphs(tmp_path, monkeypatch, source, kernels, spec):
    pytest.importorskip("onnx", reason="an artifact's graph is read by onnx_ir")
    pytest.importorskip("onnxruntime", reason="compiling needs ONNX Runtime")
    import sparsec
    from sparsec.backends.cuda import compiled, launch, native_launch
    from tests.conftest import write_mlp

    target = TARGETS.get(torch.cuda.get_device_capability())
    if target is None:
        pytest.skip("no target is this device")
    monkeypatch.setattr(compiled, "_LOADED", {})
    refused = _refused(compiled, launch, native_launch)
    missing = ArtifactError("not this way")

    def refuse(*args, **kwargs):
        raise missing

    for module, function in refused[source]:
        monkeypatch.setattr(module, function, refuse)
    out = tmp_path / "mlp.sparsec"
    with monkeypatch.context() as hidden:
        if kernels == "Triton":  # what a compilation without a CUDA compiler takes
            hidden.setattr(nvcc, "find_nvcc", lambda: None)
            hidden.setattr(nvcc, "find_nvrtc", lambda: None)
        sparsec.compile(write_mlp(tmp_path / "mlp.onnx"), passes=[spec], target=target, output=out)
    session = sparsec.load(out, buckets={"batch": [8]})
    reference = sparsec.load(out, emulate=True)
    for rows in (1, 5, 8, 300, 300):
        x = np.random.default_rng(rows).standard_normal((rows, 32)).astype(np.float32)
        got, expected = session.run({"x": x})["y"], reference.run({"x": x})["y"]
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)
    programs = session._runner.programs.values()
    assert {(program.how, program.reason) for program in programs} == {("captured", "")}
