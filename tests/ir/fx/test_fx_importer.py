import copy
import pickle

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh
import onnx.parser
import onnx_ir as ir
import pytest
import torch

from sparsec.ir.errors import UnsupportedOpError
from sparsec.ir.fx import FxExecutor, to_fx

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def parse(text):
    return onnx.parser.parse_model(HEADER + text)


def f32(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def mlp(rng):
    shapes = {"fc1.weight": (4, 8), "fc1.bias": (8,), "w:0/2": (8, 3)}
    nodes = [
        oh.make_node("Gemm", ["x:0", "fc1.weight", "fc1.bias"], ["3"], name="gemm"),
        oh.make_node("Relu", ["3"], ['{"a": 1}'], name="relu"),
        oh.make_node("MatMul", ['{"a": 1}', "w:0/2"], ["class"], name="head"),
    ]
    graph = oh.make_graph(
        nodes,
        "mlp",
        [oh.make_tensor_value_info("x:0", 1, ["N", 4])],
        [oh.make_tensor_value_info("class", 1, ["N", 3])],
        [nh.from_array(f32(rng, *s), n) for n, s in shapes.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)


def test_any_name_is_fit(rng, ort_run):
    model = mlp(rng)
    executor = FxExecutor(ir.from_proto(model))
    feeds = {"x:0": f32(rng, 2, 4)}
    got = executor.run(feeds, values=["3", '{"a": 1}', "class"])
    np.testing.assert_allclose(got["class"], ort_run(model, feeds)[0], rtol=1e-5)
    np.testing.assert_array_equal(np.maximum(got["3"], 0), got['{"a": 1}'])
    assert set(executor.parameters()) == {"fc1.weight", "fc1.bias", "w:0/2"}
    assert "fc1.weight" in dict(executor.module.named_parameters())


def test_the_model_is_left_alone(rng):
    model = ir.from_proto(mlp(rng))
    before = ir.to_proto(model).SerializeToString()
    gm = to_fx(model)
    with torch.no_grad():
        for parameter in gm.parameters():
            parameter.zero_()
    assert ir.to_proto(model).SerializeToString() == before


def test_a_module_can_be_copied_and_pickled(rng):
    gm = to_fx(ir.from_proto(mlp(rng)))
    x = torch.from_numpy(f32(rng, 2, 4))
    for other in (copy.deepcopy(gm), pickle.loads(pickle.dumps(gm))):
        torch.testing.assert_close(other(x), gm(x), rtol=0, atol=0)


def test_the_printed_module_reads_like_the_graph(rng):
    code = to_fx(ir.from_proto(mlp(rng))).code
    assert "operators_Gemm_7(x_0, fc1_weight, fc1_bias)" in code
    assert code.index("Gemm_7") < code.index("Relu_1") < code.index("MatMul_1")


def test_unused_opset_domains_are_accepted(rng):
    model = mlp(rng)
    model.opset_import.append(oh.make_opsetid("com.microsoft", 1))
    assert to_fx(ir.from_proto(model))(torch.zeros(1, 4)).shape == (1, 3)


def test_what_cannot_be_imported_is_named_at_once():
    model = parse(
        """
        strange (float[N] x) => (float[N] y) {
            [first] a = com.acme.Swirl (x)
            [second] b = Einsum <equation = "i->i", unheard = 3> (a)
            [third] c = Cast <to = 8> (b)
            [fourth] y = Relu (b)
        }
        """
    )
    model.opset_import.append(oh.make_opsetid("com.acme", 2))
    with pytest.raises(UnsupportedOpError) as caught:
        to_fx(ir.from_proto(model))
    message = caught.value.message
    assert "3 nodes" in message
    assert "node 'first' (Swirl, domain 'com.acme', opset 2): no torch form" in message
    assert "node 'second' (Einsum, domain 'ai.onnx', opset 17): attribute unheard" in message
    assert "STRING" in message
    assert "fourth" not in message
    assert "ort_leaves=True" in message
    assert caught.value.where == "first"


def test_an_operator_of_a_too_old_opset_says_from_when():
    model = onnx.parser.parse_model(
        '<ir_version: 3, opset_import: ["" : 6]>old (float[N] x) => (float[N] y) { y = Max (x, x) }'
    )
    with pytest.raises(UnsupportedOpError, match="known from opset 8 on"):
        to_fx(ir.from_proto(model))


def test_an_attribute_value_without_a_torch_form_is_refused(one_node):
    model, _ = one_node(
        "QuantizeLinear",
        [np.zeros(3, np.float32), np.float32(1)],
        opset=23,
        output_dtype=3,
        saturate=0,
    )
    with pytest.raises(UnsupportedOpError, match="saturate=0"):
        to_fx(ir.from_proto(model))


LEAF = """
    leaf (float[N, 8] x) => (float[N, 8] y) <float[8] w> {
        a = Mul (x, w)
        [swish] b = com.microsoft.QuickGelu <alpha = 1.5> (a)
        y = Mul (b, w)
    }
"""


@pytest.fixture
def leaf_model(rng):
    model = parse(LEAF)
    model.opset_import.append(oh.make_opsetid("com.microsoft", 1))
    model.graph.initializer.append(nh.from_array(f32(rng, 8), "w"))
    return model


def test_leaf(leaf_model, rng, ort_run):
    feeds = {"x": f32(rng, 3, 8)}
    executor = FxExecutor(ir.from_proto(leaf_model), ort_leaves=True)
    np.testing.assert_allclose(executor.run(feeds)["y"], ort_run(leaf_model, feeds)[0], rtol=1e-5)
    wide = FxExecutor(ir.from_proto(leaf_model), ort_leaves=True, dtype=torch.float64)
    assert wide.run(feeds)["y"].dtype == np.float64
    again = pickle.loads(pickle.dumps(executor.module))
    x = torch.from_numpy(feeds["x"])
    torch.testing.assert_close(again(x), executor.module(x))


def test_leaf_refuses_gradients(leaf_model, rng):
    executor = FxExecutor(ir.from_proto(leaf_model), ort_leaves=True)
    feeds = {"x": f32(rng, 3, 8)}
    with pytest.raises(UnsupportedOpError, match=r"'swish' .*no gradient"):
        executor.gradients(feeds, lambda v: v["y"].sum())
    got = executor.gradients(feeds, lambda v: v["y"].sum(), parameters=[], values=["b"])
    assert got.values["b"].shape == (3, 8)


def test_functions_are_inlined(rng):
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        main (float[N] x) => (float[N] y) { y = local.twice (x) }
        <domain: "local", opset_import: ["" : 17]>
        twice (a) => (b) { b = Add (a, a) }
        """
    )
    x = f32(rng, 4)
    np.testing.assert_array_equal(FxExecutor(ir.from_proto(model)).run({"x": x})["y"], x + x)


def test_outputs_of_every_kind(rng, ort_run, assert_same):
    model = parse(
        """
        kinds (float[N, M] x) => (int64[2] s, float[N, M] e, int64[2] c, float[N, M] f) {
            s = Shape (x)
            c = Constant <value_ints = [4, 5]> ()
            e = Identity (x)
            f = Identity (e)
        }
        """
    )
    feeds = {"x": f32(rng, 2, 3)}
    got = FxExecutor(ir.from_proto(model)).run(feeds)
    for g, w in zip(got.values(), ort_run(model, feeds), strict=True):
        assert_same(g, w, 0, 0)


SHAPES = """
    attention_like (float[B, T, 12] x) => (float[B, 3, T, 4] y, float[B, T, 12] z, float[B, R] w) {
        shape = Shape (x)
        zero = Constant <value_int = 0> ()
        one = Constant <value_int = 1> ()
        b = Gather (shape, zero)
        t = Gather (shape, one)
        axes = Constant <value_ints = [0]> ()
        bu = Unsqueeze (b, axes)
        tu = Unsqueeze (t, axes)
        heads = Constant <value_ints = [3, 4]> ()
        target = Concat <axis = 0> (bu, tu, heads)
        split = Reshape (x, target)
        y = Transpose <perm = [0, 2, 1, 3]> (split)
        back = Transpose <perm = [0, 2, 1, 3]> (y)
        minus = Constant <value_ints = [-1]> ()
        flat = Concat <axis = 0> (bu, tu, minus)
        z = Reshape (back, flat)
        two = Constant <value_int = 2> ()
        tt = Mul (t, two)
        half = Div (tt, two)
        range = Range (zero, half, one)
        rf = Cast <to = 1> (range)
        ones = ConstantOfShape <value = int64[1] {1}> (bu)
        rows = Concat <axis = 0> (bu, minus)
        neg = Constant <value_ints = [-1, -1]> ()
        is_neg = Equal (rows, neg)
        full = Concat <axis = 0> (bu, tu)
        where = Where (is_neg, full, rows)
        w = Expand (rf, where)
    }
"""


def test_shape_arithmetic_stays_on_the_host(rng, ort_run, assert_same):
    model = parse(SHAPES)
    executor = FxExecutor(ir.from_proto(model))
    for batch, length in ((1, 2), (3, 5)):
        feeds = {"x": f32(rng, batch, length, 12)}
        for g, w in zip(executor.run(feeds).values(), ort_run(model, feeds), strict=True):
            assert_same(g, w, 0, 0)
    seen = []
    interpreter = torch.fx.Interpreter(executor.module)
    original = interpreter.run_node
    interpreter.run_node = lambda node: seen.append((node.name, original(node))) or seen[-1][1]
    interpreter.run(torch.zeros(3, 5, 12))
    values = dict(seen)
    assert values["target"] == (3, 5, 3, 4)
    assert values["half"] == 5
    assert values["where"] == (3, 5)


def test_shape_arithmetic_exports_with_symbols(rng):
    gm = to_fx(ir.from_proto(parse(SHAPES)))
    sizes = {0: torch.export.Dim("b", min=2), 1: torch.export.Dim("t", min=2)}
    program = torch.export.export(gm, (torch.zeros(2, 3, 12),), dynamic_shapes=(sizes,))
    x = torch.from_numpy(f32(rng, 4, 7, 12))
    torch.testing.assert_close(program.module()(x), gm(x))


def test_constants_that_train_and_those_that_do_not(rng):
    model = parse(
        """
        kinds (float[N, 3] x) => (float[N, 3] y)
        <float[3] scale, float[3] bias, float[3] mean, float[3] var, float eps, float[3] hole> {
            a = BatchNormalization (x, scale, bias, mean, var)
            b = Add (a, eps)
            low = Constant <value = float {0.0}> ()
            c = Clip (b, low)
            d = Constant <value = float[3] {1.0, 2.0, 3.0}> ()
            e = Mul (c, d)
            q = Constant <value = int64[3] {0, 2, 1}> ()
            f = Gather <axis = 1> (e, q)
            y = Max (f, hole)
        }
        """
    )
    for name in ("scale", "bias", "mean", "var", "eps", "hole"):
        array = np.float32(1e-5) if name == "eps" else f32(rng, 3) ** 2
        array = np.array([0, -np.inf, -np.inf], np.float32) if name == "hole" else array
        model.graph.initializer.append(nh.from_array(np.asarray(array), name))
    gm = to_fx(ir.from_proto(model))
    assert set(FxExecutor(gm).parameters()) == {"scale", "bias", "d"}
    assert {o.value for o in gm.meta["sparsec.origins"].values()} == {
        "scale", "bias", "d", "mean", "var", "eps", "hole",
    }  # fmt: skip


def test_a_shared_weight_is_one_parameter(rng):
    model = parse(
        """
        tied (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w> {
            a = MatMul (x, w)
            y = Gemm <transB = 1> (a, w)
        }
        """
    )
    model.graph.initializer.append(nh.from_array(f32(rng, 4, 4), "w"))
    assert len(list(to_fx(ir.from_proto(model)).parameters())) == 1
