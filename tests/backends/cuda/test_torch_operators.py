"""The operators against float64, torch's own checks of operators, compile and export."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the operators are torch's")
from sparsec.backends.cuda import operators, torch_formats  # noqa: E402
from sparsec.backends.cuda.variants import FORMATS  # noqa: E402
from sparsec.ir.errors import ShapeError, UsageError  # noqa: E402
from sparsec.ir.patterns import parse_pattern  # noqa: E402
from sparsec.passes.masks.nm import nm_mask  # noqa: E402

NAMES = [n for n in torch_formats.formats.names() if "float16" in torch_formats.form_of(n).values]
M, K = 48, 128


def weight_for(name, seed=0, m=M, k=K):
    """Return a float32 matrix whose zeros follow the pattern of a format."""
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((m, k)).astype(np.float32)
    pattern = torch_formats.form_of(name).pattern
    if ":" in pattern and not pattern.startswith("block"):
        n, group = map(int, pattern.split(":"))
        return np.where(nm_mask(np.abs(dense), n, group), dense, 0)
    parsed = parse_pattern(pattern)
    rows, cols = getattr(parsed, "rows", 1), getattr(parsed, "cols", 1)
    kept = rng.random((-(-m // rows), -(-k // cols))) < 0.3
    return dense * np.kron(kept, np.ones((rows, cols)))[:m, :k].astype(np.float32)


def arguments(name, values=None, out=None, rows=(2, 3), bias=True, seed=0):
    values = values or torch_formats.form_of(name).values[0]
    dtype = torch_formats.VALUES[values]
    dtype = dtype if dtype.itemsize == 2 else torch.float16
    x = torch.from_numpy(np.random.default_rng(seed + 1).standard_normal((*rows, K))).to(dtype)
    packed = torch_formats.pack(name, torch.from_numpy(weight_for(name, seed)), values)
    added = torch.randn(M, generator=torch.Generator().manual_seed(seed)) if bias else None
    return x, packed, added, None, "none", M, K, values, out or dtype, operators.NEVER, None, ""


@pytest.mark.parametrize("name", NAMES)
def test_linear_agrees_with_float64(name):
    for values in torch_formats.form_of(name).values:
        for out in (None, torch.float32):
            args = arguments(name, values, out)
            x, packed, bias = args[:3]
            weight = torch_formats.unpack(name, packed, (M, K), values).double()
            exact = x.double() @ weight.T + bias.double()
            y = operators.linear_operator(name)(*args)
            unit = 2.0**-20 if out else (2.0**-8 if y.dtype == torch.bfloat16 else 2.0**-11)
            assert y.shape == (2, 3, M)
            assert (y.double() - exact).abs().max() <= unit * exact.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_unpack_gives_back_what_was_packed(name):
    dense = torch.from_numpy(weight_for(name)).half()
    for values in torch_formats.form_of(name).values:
        packed = torch_formats.pack(name, dense, values)
        again = operators.unpack_operator(name)(packed, M, K, values, torch.float32)
        error = {"float16": 0, "bfloat16": 2.0**-8, "float8_e4m3fn": 2.0**-3, "int8": 2.0**-3}
        assert ((again - dense).abs() <= error[values] * dense.abs().clamp(min=0.1)).all()
        assert not again[dense == 0].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bias", [False, True])
def test_torch_accepts_the_operators(name, bias):
    """Schema, fake implementation, autograd registration, compilation with dynamic shapes."""
    args = list(arguments(name, out=torch.float32, bias=bias))
    args[0].requires_grad_()
    args[-1] = "a,b"
    torch.library.opcheck(operators.linear_operator(name), tuple(args))
    packed, values = args[1], args[7]
    torch.library.opcheck(operators.unpack_operator(name), (packed, M, K, values, torch.float16))


def test_the_side_of_the_device_computes_the_same(tmp_path):
    """Its kernels in Triton's interpreter: each format, packed and decompressed, both types of y."""
    pytest.importorskip("triton", reason="Triton's interpreter needs triton")
    script = Path(__file__).with_name("interpret_operators.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "results.json"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) == 5 * len(FORMATS)
    for case, error in results.items():
        exact = case.endswith("unpack") and "nm2_4" not in case  # 8-bit: scaled, rounded to float16
        assert error <= (0 if exact else 2e-3), case


def test_gradients_are_those_of_the_dense_product():
    x, packed, bias, *rest = arguments("nm24", out=torch.float32)
    x.requires_grad_()
    bias.requires_grad_()
    y = operators.linear_operator("nm24")(x, packed, bias, *rest)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    y.backward(g)
    weight = torch_formats.unpack("nm24", packed, (M, K), "float16")
    torch.testing.assert_close(x.grad, (g @ weight).half())
    torch.testing.assert_close(bias.grad, g.sum((0, 1)))


ACTIVATIONS = {
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda y: torch.nn.functional.gelu(y, approximate="tanh"),
}


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("values", ["float16", "bfloat16"])
def test_activation_and_residual_agree_with_float64_and_so_do_gradients(act, values):
    x, packed, bias, _, _, *rest = arguments("nm24", values, out=torch.float32)
    residual = torch.randn(2, 3, M, generator=torch.Generator().manual_seed(5))
    leaves = [x, bias, residual]
    exact = [each.detach().double().requires_grad_() for each in leaves]
    for each in leaves:
        each.requires_grad_()
    y = operators.linear_operator("nm24")(x, packed, bias, residual, act, *rest)
    weight = torch_formats.unpack("nm24", packed, (M, K), values).double()
    expected = ACTIVATIONS[act](exact[0] @ weight.T + exact[1]) + exact[2]
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(6))
    y.backward(g)
    expected.backward(g.double())
    for got, wanted in zip(leaves, exact, strict=True):
        unit = 2.0**-20 if got.dtype == torch.float32 else torch.finfo(got.dtype).eps
        error = (got.grad.double() - wanted.grad).abs().max()
        assert error <= 4 * unit * wanted.grad.abs().max()


def test_torch_accepts_activation_and_residual():
    x, packed, bias, *_, out, dense_from, prefill, kernels = arguments("nm1_4", out=torch.float32)
    residual = torch.randn(2, 3, M)
    for each in (x, bias, residual):
        each.requires_grad_()
    rest = (M, K, "float16", out, dense_from, prefill, kernels)
    args = (x, packed, bias, residual, "gelu", *rest)
    torch.library.opcheck(operators.linear_operator("nm1_4"), args)


def test_other_residuals_and_activations_are_refused():
    x, packed, bias, _, _, *rest = arguments("nm24")
    operator = operators.linear_operator("nm24")
    for residual in (torch.zeros(2, 3, M), torch.zeros(6, M).half()):  # its type, its shape
        with pytest.raises(ShapeError, match="need a residual"):
            operator(x, packed, bias, residual, "none", *rest)
    with pytest.raises(UsageError, match="did you mean"):
        operator(x, packed, bias, None, "gelutanh", *rest)


def test_a_sparse_layer_takes_activation_and_residual():
    import sparsec.torch as st

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 96)).eval()
    st.sparsify_(model)
    x, residual = torch.randn(5, 64), torch.randn(5, 96)
    y = model[0](x, activation="silu", residual=residual)
    torch.testing.assert_close(y, torch.nn.functional.silu(model[0](x)) + residual)


def test_no_rows_give_no_rows():
    y = operators.linear_operator("nm24")(*arguments("nm24", rows=(0,)))
    assert y.shape == (0, M)


@pytest.mark.parametrize(
    "x", [torch.zeros(2, K - 1).half(), torch.zeros(2, K).double()], ids=["columns", "type"]
)
def test_other_operands_are_refused(x):
    with pytest.raises(ShapeError, match="nm24_linear"):
        operators.linear_operator("nm24")(x, *arguments("nm24")[1:])


def test_a_sparse_module_compiles_without_breaks_and_exports_with_a_dynamic_batch(tmp_path):
    import sparsec.torch as st

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 96), torch.nn.GELU(), torch.nn.Linear(96, 8)
    ).eval()
    st.sparsify_(model)
    x = torch.randn(5, 64)
    y = model(x)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), y)
    torch.testing.assert_close(compiled(x[:3]), y[:3])

    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    called = [n.target for n in program.graph.nodes if "sparsec" in str(n.target)]
    assert called == [operators.linear_operator("nm24")] * 2
    torch.testing.assert_close(program.module()(x[:2]), y[:2])
    torch.export.save(program, tmp_path / "x.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "x.pt2").module()(x), y)


def test_fake_tensors_know_the_result_without_the_weights():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        packed = [torch.empty(M, K // 4, dtype=torch.int32, device="cuda"),
                  torch.empty(M, K // 32, dtype=torch.int32, device="cuda")]  # fmt: skip
        x = torch.empty(7, K, dtype=torch.float16, device="cuda")
        y = operators.linear_operator("nm24")(
            x, packed, None, None, "none", M, K, "float16", torch.float32, 257, None, ""
        )
    assert (y.shape, y.dtype, y.device.type) == ((7, M), torch.float32, "cuda")
