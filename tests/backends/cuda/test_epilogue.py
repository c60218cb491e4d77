"""What a packed node takes over behind its product, and that the graph computes what it did before."""

import itertools

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nm24_cases import nm24_matrix
from onnx import TensorProto, helper, numpy_helper

from sparsec.backends.cuda import formats
from sparsec.backends.cuda.densify import densify
from sparsec.backends.cuda.epilogue import Epilogue
from sparsec.backends.cuda.formats import Packed
from sparsec.backends.cuda.rewrite import DOMAIN, Rewriter
from sparsec.backends.cuda.rounding import round_layers
from sparsec.ir.load import load_model
from sparsec.ir.patterns import NM
from sparsec.ir.sites import weight_sites
from sparsec.ir.verify import verify

M, K = 24, 64
FLOAT = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


class Writer:
    """Writes nodes one after the other; numbers become scalar initializers."""

    def __init__(self, dtype="float32"):
        self.dtype, self.nodes, self.initializers = np.dtype(dtype), [], []

    def __call__(self, op, *inputs, domain="", **attributes):
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        name = f"v{len(self.nodes)}"
        node = helper.make_node(op, names, [name], f"{op}_{name}", domain=domain, **attributes)
        self.nodes.append(node)
        return name

    def axes(self):
        name = f"axes{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array([0]), name))
        return name

    def constant(self, value):
        name = f"c{len(self.initializers)}"
        array = np.asarray(value, self.dtype)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def model(self, outputs, batch="batch", opset=20):
        inputs = [
            helper.make_tensor_value_info(name, FLOAT[self.dtype.name], [batch, width])
            for name, width in (("x", K), ("r", M), ("row", M))
        ]
        inputs[2].type.tensor_type.shape.dim[0].dim_value = 1
        made = [helper.make_tensor_value_info(n, FLOAT[self.dtype.name], None) for n in outputs]
        graph = helper.make_graph(self.nodes, "net", inputs, made, self.initializers)
        model = load_model(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        )
        for site in weight_sites(model):
            site.mark(NM(2, 4))
        return model


def gelu_halves_first(w, x):
    return w("Mul", w("Mul", x, 0.5), w("Add", w("Erf", w("Div", x, 2**0.5)), 1.0))


def gelu_halves_last(w, x):
    inner = w("Erf", w("Mul", 0.5**0.5, x))
    return w("Mul", 0.5, w("Mul", w("Add", 1.0, inner), x))


def gelu_of_gpt2(w, x):
    cubic = w("Add", x, w("Mul", 0.044715, w("Pow", x, 3.0)))
    inner = w("Tanh", w("Mul", (2 / np.pi) ** 0.5, cubic))
    return w("Mul", w("Mul", 0.5, x), w("Add", 1.0, inner))


def gelu_of_products(w, x):
    square = w("Mul", x, x)
    inner = w("Mul", w("Mul", x, (2 / np.pi) ** 0.5), w("Add", w("Mul", square, 0.044715), 1.0))
    return w("Mul", w("Mul", w("Add", w("Tanh", inner), 1.0), x), 0.5)


SPELLINGS = {
    "none": [lambda w, x: x],
    "relu": [lambda w, x: w("Relu", x)],
    "silu": [lambda w, x: w("Mul", x, w("Sigmoid", x)), lambda w, x: w("Mul", w("Sigmoid", x), x)],
    "gelu": [lambda w, x: w("Gelu", x), gelu_halves_first, gelu_halves_last],
    "gelu_tanh": [lambda w, x: w("Gelu", x, approximate="tanh"), gelu_of_gpt2, gelu_of_products],
}
FLAT = [(name, i) for name, forms in SPELLINGS.items() for i in range(len(forms))]


def product(w, kind, bias, seed):
    weight = 0.3 * nm24_matrix(M, K, "float16", seed).astype(np.float32)
    c = np.random.default_rng(seed).standard_normal(M)
    if kind == "Gemm":
        return w("Gemm", "x", w.constant(weight), *([c] if bias else []), transB=1)
    y = w("MatMul", "x", w.constant(weight.T))
    return w("Add", c, y) if bias else y


def rewritten(model):
    """Return the graph with packed nodes, and what each of them took over."""
    packed, found = model.clone(), []
    rewriter = Rewriter(packed)

    def launches(epilogue):
        assert isinstance(epilogue, Epilogue)
        found.append(epilogue)
        return [("a", 1)]

    for site in list(weight_sites(packed)):
        values = site.matrix().astype(np.float16)
        rewriter.pack(site, Packed.of(formats.get("nm24"), values, "float16"), launches)
    packed.opset_imports[DOMAIN] = 1
    verify(packed)
    return packed, found


def run(model, rows, seed=0):
    rng = np.random.default_rng(seed)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    shapes = {"x": (rows, K), "r": (rows, M), "row": (1, M)}
    feeds = {
        each.name: rng.standard_normal(shapes[each.name]).astype(
            np.float16 if "float16" in each.type else np.float32
        )
        for each in session.get_inputs()
    }
    return session.run(None, feeds)


def check(model, packed, rows=3):
    """Compare the packed graph, in stock operators, with the rounded one it was made of."""
    names = [site.name for site in weight_sites(model)]
    stock = packed.clone()
    densify(stock, "test")
    verify(stock)
    rounded = model.clone()
    round_layers(rounded, names)
    wide = "FLOAT16" not in str(model.graph.inputs[0].type)
    for got, wanted in zip(run(stock, rows), run(rounded, rows), strict=True):
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        unit = 3e-6 if wide else 4e-3  # of float16 graphs, every operator rounds
        assert np.abs(got - wanted).max() <= unit * np.abs(wanted).max()


@pytest.mark.parametrize(("act", "form"), FLAT)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_spelling_of_an_activation_is_taken_over(act, form, dtype):
    for kind, bias, residual in itertools.product(("MatMul", "Gemm"), (True, False), (True, False)):
        w = Writer(dtype)
        y = SPELLINGS[act][form](w, product(w, kind, bias, seed=form))
        y = w("Add", y, "r") if residual else y
        model = w.model([y])
        packed, (epilogue,) = rewritten(model)
        assert epilogue.flags == {"bias": bias, "act": act, "residual": residual}
        assert {node.op_type for node in packed.graph} <= {"Cast", "PackedMatMul"}
        check(model, packed)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_graphs_of_several_layers_compute_what_they_did(data):
    """Layers in a row and beside each other, values read twice, outputs anywhere, lookalikes."""
    dtype = data.draw(st.sampled_from(["float32", "float16"]))
    w = Writer(dtype)
    made, outputs = ["r"], []
    for seed in range(data.draw(st.integers(1, 3))):
        y = product(
            w, data.draw(st.sampled_from(["MatMul", "Gemm"])), data.draw(st.booleans()), seed
        )
        made.append(y)
        for _ in range(data.draw(st.integers(0, 3))):
            step = data.draw(st.sampled_from(["act", "add", "row", "scale", "tanh", "quick"]))
            if step == "act":
                act, form = data.draw(st.sampled_from(FLAT[1:]))
                y = SPELLINGS[act][form](w, y)
            elif step == "add":
                y = w("Add", *data.draw(st.permutations([y, data.draw(st.sampled_from(made))])))
            elif step == "row":  # it is broadcast
                y = w("Add", y, "row")
            elif step == "quick":  # an activation that no kernel has
                y = w("Mul", y, w("Sigmoid", w("Mul", y, 1.702)))
            else:
                y = w("Mul", y, 0.5) if step == "scale" else w("Tanh", y)
            made.append(y)
        outputs.append(y)
    outputs += [name for name in made[1:] if data.draw(st.integers(0, 9)) == 0]
    outputs = [name for name in dict.fromkeys(outputs) if name != "r"]
    batch = data.draw(st.sampled_from(["batch", 3]))
    model = w.model(outputs, batch)
    packed, found = rewritten(model)
    assert len(found) == sum(len(site.nodes) for site in weight_sites(model))
    check(model, packed)


def only(build, **kwargs):
    w = Writer()
    outputs = build(w, product(w, "MatMul", True, 0))
    (epilogue,) = rewritten(w.model(outputs, **kwargs))[1]
    return epilogue.flags["act"], epilogue.flags["residual"]


def test_what_something_else_reads_is_left_alone():
    assert only(lambda w, y: [w("Relu", y), y]) == ("none", False)  # the sum is an output
    assert only(lambda w, y: [w("Relu", y), w("Tanh", y)]) == ("none", False)

    def gate(w, y):
        return w("Sigmoid", y)

    assert only(lambda w, y: [w("Mul", y, g := gate(w, y)), w("Neg", g)]) == ("none", False)
    assert only(lambda w, y: [w("Add", a := w("Relu", y), "r"), w("Neg", a)]) == ("relu", False)


def test_lookalikes_are_left_alone():
    assert only(lambda w, y: [w("Mul", y, w("Sigmoid", w("Mul", y, 1.702)))]) == ("none", False)
    assert only(lambda w, y: [w("LeakyRelu", y, alpha=0.01)]) == ("none", False)
    assert only(lambda w, y: [w("Mul", y, w("Sigmoid", "r"))]) == ("none", False)  # another's gate

    def off(w, x):
        return w("Mul", w("Mul", x, 0.5), w("Add", w("Erf", w("Mul", x, 0.7)), 1.0))

    assert only(lambda w, y: [off(w, y)]) == ("none", False)

    def scale(w, y):
        return w("Mul", w("Relu", y), np.full(M, 2.0))

    assert only(lambda w, y: [scale(w, y)]) == ("relu", False)


def test_residuals_of_another_or_unknown_shape_are_left_alone():
    assert only(lambda w, y: [w("Add", y, "row")], batch=3) == ("none", False)
    assert only(lambda w, y: [w("Add", y, "row")]) == ("none", False)
    assert only(lambda w, y: [w("Add", y, "r")], batch=3) == ("none", True)
    assert only(lambda w, y: [w("Add", y, y)]) == ("none", False)
    assert only(lambda w, y: [w("Add", "r", w("Add", y, "r"))]) == ("none", True)
    assert only(lambda w, y: [w("Relu", w("Add", "r", y))]) == (
        "none",
        True,
    )  # added before: not fused

    def reshaped(w, y):
        return w("Squeeze", w("Unsqueeze", "r", w.axes()), w.axes())

    assert only(lambda w, y: [w("Add", y, reshaped(w, y))]) == ("none", True)  # inferred
