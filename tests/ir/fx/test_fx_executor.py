import copy

import numpy as np
import onnx.helper as oh
import onnx.numpy_helper as nh
import onnx.parser
import onnx_ir as ir
import pytest
import torch

from sparsec.ir.errors import SparsecError, UsageError
from sparsec.ir.fx import FxExecutor, to_fx

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'

CNN = """
    cnn (float[N, 3, 8, 8] x) => (float[N, 5] y)
    <float[6, 3, 3, 3] w1, float[6] b1, float[6] scale, float[6] shift, float[6] mean, float[6] var,
     float[6, 1, 3, 3] w2, float[6, 5] w3, float[5] b3> {
        a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1)
        n = BatchNormalization (a, scale, shift, mean, var)
        s = Sigmoid (n)
        h = Mul (n, s)
        d = Conv <group = 6, pads = [1, 1, 1, 1]> (h, w2)
        r = Add (d, h)
        p = AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 0> (r)
        g = GlobalAveragePool (p)
        f = Flatten (g)
        y = Gemm (f, w3, b3)
    }
"""

ATTENTION = """
    attention (int64[B, T] ids) => (float[B, T, 7] y)
    <float[7, 8] table, float[8] gamma, float[8] beta, float[8, 24] wqkv, float[8, 8] wo> {
        x = Gather (table, ids)
        n = LayerNormalization (x, gamma, beta)
        qkv = MatMul (n, wqkv)
        q, k, v = Split <axis = 2> (qkv)
        kt = Transpose <perm = [0, 2, 1]> (k)
        s = MatMul (q, kt)
        root = Constant <value = float {0.35355338}> ()
        scaled = Mul (s, root)
        p = Softmax <axis = -1> (scaled)
        o = MatMul (p, v)
        e = MatMul (o, wo)
        r = Add (x, e)
        t = Transpose <perm = [1, 0]> (table)
        y = MatMul (r, t)
    }
"""

LSTM = """
    recurrent (float[T, B, 3] x) => (float[B, 2] y)
    <float[2, 16, 3] w, float[2, 16, 4] r, float[2, 32] b, float[8, 2] head> {
        h, last = LSTM <hidden_size = 4, direction = "bidirectional"> (x, w, r, b)
        t = Transpose <perm = [1, 0, 2]> (last)
        shape = Constant <value_ints = [0, -1]> ()
        f = Reshape (t, shape)
        y = MatMul (f, head)
    }
"""


def build(text, rng):
    """Parse a graph and give random values to the initializers that it declares."""
    model = onnx.parser.parse_model(HEADER + text)
    filled = {t.name for t in model.graph.initializer}
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info
    }
    for name, shape in shapes.items():
        if name not in filled:
            array = rng.standard_normal(shape) * 0.5
            array = array**2 + 0.5 if name == "var" else array
            model.graph.initializer.append(nh.from_array(array.astype(np.float32), name))
    del model.graph.value_info[:]
    return ir.from_proto(model)


def feeds_of(name, rng):
    if name == "attention":
        return {"ids": rng.integers(0, 7, (2, 5))}
    shape = (2, 3, 8, 8) if name == "cnn" else (4, 2, 3)
    return {"x": rng.standard_normal(shape).astype(np.float32)}


NETS = {"cnn": CNN, "attention": ATTENTION, "lstm": LSTM}


@pytest.fixture(params=NETS)
def case(request, rng):
    return build(NETS[request.param], rng), feeds_of(request.param, rng)


def quadratic(values):
    return values["y"].square().sum()


def test_gradients_equal_finite_differences(case, rng):
    model, feeds = case
    gm = to_fx(model)
    executor = FxExecutor(gm, dtype=torch.float64)
    got = executor.gradients(feeds, quadratic)
    named = executor.parameters()
    assert got.parameters.keys() == named.keys()
    step = 1e-6
    for name, parameter in named.items():
        direction = torch.from_numpy(rng.standard_normal(tuple(parameter.shape)))
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * step)
                losses.append(float((executor.run(feeds)["y"] ** 2).sum()))
                parameter.sub_(direction, alpha=sign * step)
        slope = (losses[0] - losses[1]) / (2 * step)
        want = float((got.parameters[name] * direction.numpy()).sum())
        assert slope == pytest.approx(want, rel=1e-6, abs=1e-7), name


def test_gradients_of_values_and_inputs(rng):
    executor = FxExecutor(build(CNN, rng), dtype=torch.float64)
    feeds = feeds_of("cnn", rng)
    feeds["x"] = feeds["x"].astype(np.float64)
    got = executor.gradients(feeds, quadratic, parameters=["w1"], values=["x", "f", "r"])
    assert set(got.parameters) == {"w1"}
    out = executor.run(feeds, values=["y", "f"])
    weight = executor.parameters()["w3"].detach().numpy()
    np.testing.assert_allclose(got.values["f"], 2 * out["y"] @ weight.T, rtol=1e-10)
    assert got.loss == pytest.approx((out["y"] ** 2).sum())
    moved = feeds["x"].copy()
    moved[1, 2, 3, 4] += 1e-6
    change = (executor.run({"x": moved})["y"] ** 2).sum() - got.loss
    assert change / 1e-6 == pytest.approx(got.values["x"][1, 2, 3, 4], rel=1e-3)


def test_a_parameter_without_influence_has_zero_gradient(rng):
    executor = FxExecutor(build(CNN, rng))
    got = executor.gradients(feeds_of("cnn", rng), lambda v: v["a"].sum(), values=["a"])
    assert not got.parameters["w3"].any()
    assert got.parameters["w1"].any()


def test_captured_values_equal_the_runtime(case, ort_run, rng):
    model, feeds = case
    proto = ir.to_proto(model)
    names = [o for node in proto.graph.node for o in node.output if node.op_type != "Constant"]
    executor = FxExecutor(model)
    assert {*names} - {*executor.values} <= {"h"}  # nothing reads the LSTM's sequence
    names = [n for n in names if n in executor.values]
    got = executor.run(feeds, values=[*names, "y"])
    del proto.graph.output[:]
    proto.graph.output.extend(oh.make_empty_tensor_value_info(n) for n in names)
    for name, want in zip(names, ort_run(proto, feeds), strict=True):
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-5, err_msg=name)


def test_only_what_is_wanted_is_run(rng):
    executor = FxExecutor(build(CNN, rng))
    x = np.zeros((1, 3, 8, 8), np.float32)
    executor.run({"x": x}, values=["a"])
    (module,) = executor._captures.values()
    calls = [n for n in module.graph.nodes if n.op == "call_function"]
    assert [c.target.__name__ for c in calls] == ["Conv_1"]
    assert module.get_parameter("c_w1") is executor.parameters()["w1"]


def test_float64_is_float64_throughout(case):
    model, feeds = case
    single, double = FxExecutor(model), FxExecutor(model, dtype=torch.float64)
    one, two = single.run(feeds)["y"], double.run(feeds)["y"]
    assert two.dtype == np.float64
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert np.abs(one - two).max() > 0
    assert all(p.dtype == torch.float64 for p in double.parameters().values())
    assert all(p.dtype == torch.float32 for p in single.parameters().values())


def test_bfloat16(case):
    model, feeds = case
    exact, rough = (FxExecutor(model, dtype=d).run(feeds)["y"] for d in (None, torch.bfloat16))
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.05 * max(1.0, np.abs(exact).max())


def test_types_named_in_the_graph_follow_the_working_type(rng):
    text = """
        casts (int64[N] n) => (float[N] y) {
            f = Cast <to = 1> (n)
            shape = Shape (n)
            c = ConstantOfShape <value = float[1] {0.1}> (shape)
            y = Mul (f, c)
        }
    """
    executor = FxExecutor(build(text, rng), dtype=torch.float64)
    got = executor.run({"n": np.array([1, 2**25 + 1])})["y"]
    np.testing.assert_array_equal(
        got, [float(np.float32(0.1)), (2**25 + 1) * float(np.float32(0.1))]
    )


def test_a_module_in_training_is_used_as_it_is(rng):
    gm = to_fx(build(CNN, rng))
    executor, feeds = FxExecutor(gm), feeds_of("cnn", rng)
    before = executor.run(feeds)["y"]
    with torch.no_grad():
        gm.get_parameter("c_b3").add_(1.0)
    np.testing.assert_allclose(executor.run(feeds)["y"], before + 1, rtol=1e-5)
    frozen = copy.deepcopy(gm)
    FxExecutor(gm, dtype=torch.float64)
    assert frozen.get_parameter("c_b3").dtype == gm.get_parameter("c_b3").dtype == torch.float32


@pytest.mark.parametrize(
    ("feeds", "values", "match"),
    [
        ({}, None, "missing \\['x'\\]"),
        ({"x": 0, "z": 0}, None, "unknown input 'z'"),
        ({"xx": 0}, None, "did you mean 'x'"),
        ({"x": np.zeros((1, 3, 8, 8), np.float32)}, ["scal"], "unknown value 'scal'"),
    ],
)
def test_wrong_names_are_named(feeds, values, match, rng):
    with pytest.raises(UsageError, match=match):
        FxExecutor(build(CNN, rng)).run(feeds, values=values)


def test_an_unknown_parameter_is_named(rng):
    with pytest.raises(UsageError, match="unknown parameter 'w4'"):
        FxExecutor(build(CNN, rng)).gradients(feeds_of("cnn", rng), quadratic, parameters=["w4"])


def test_a_value_without_derivative_is_named(rng):
    executor = FxExecutor(build(ATTENTION, rng))
    with pytest.raises(UsageError, match=r"'ids'.*int64"):
        executor.gradients(feeds_of("attention", rng), quadratic, values=["ids"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_an_error(rng):
    with pytest.raises(SparsecError, match="finds none"):
        FxExecutor(build(CNN, rng), device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu(case):
    model, feeds = case
    here = FxExecutor(model, dtype=torch.float64)
    there = FxExecutor(model, dtype=torch.float64, device="cuda")
    np.testing.assert_allclose(there.run(feeds)["y"], here.run(feeds)["y"], rtol=1e-9)
    a, b = (e.gradients(feeds, quadratic) for e in (here, there))
    for name, gradient in a.parameters.items():
        np.testing.assert_allclose(b.parameters[name], gradient, rtol=1e-7, atol=1e-9)
