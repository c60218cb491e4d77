"""Each clean-up on the smallest graph that shows what it does, and what it must leave."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from sparsec.ir.cleanup import (
    clean_up,
    eliminate_identities,
    fix_reshapes,
    fold_constants,
    fold_padding,
    fold_views,
    merge_duplicates,
    remove_dead,
    replace_sequences,
)
from sparsec.ir.load import load_model
from sparsec.ir.text import from_text
from sparsec.ir.verify import verify
from tests.corpus.models import model, node, tensor, value


def text(graph: str, opset: int = 20) -> ir.Model:
    return from_text(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{graph}')


def ops(loaded: ir.Model) -> list[str]:
    return [n.op_type for n in loaded.graph.all_nodes()]


def names(values) -> list[str]:
    return [v.name for v in values]


def constant(loaded: ir.Model, name: str) -> np.ndarray:
    return loaded.graph.initializers[name].const_value.numpy()


def session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options)


IDENTITIES = {
    "identity": "y = Identity (r)",
    "dropout": "y = Dropout (r)",
    "dropout-with-ratio": "y = Dropout (r, half)",
    "cast": "y = Cast <to: int = 1> (r)",
    "castlike": "y = CastLike (r, x)",
    "transpose": "y = Transpose <perm: ints = [0, 1]> (r)",
    "two-transposes": "t = Transpose <perm: ints = [1, 0]> (r) y = Transpose <perm: ints = [1, 0]> (t)",
    "reshape-static": "y = Reshape (r, same)",
    "reshape-free": "y = Reshape (r, free)",
    "reshape-copy": "y = Reshape (r, copy)",
    "two-reshapes": "t = Reshape (r, flat) y = Reshape (t, same)",
    "unsqueeze-reshape": "t = Unsqueeze (r, zero_axis) y = Reshape (t, same)",
    "expand": "y = Expand (r, ones)",
    "pad": "y = Pad (r, no_pads)",
    "slice": "y = Slice (r, starts, ends)",
    "slice-exact": "y = Slice (r, starts, same)",
    "slice-axes": "y = Slice (r, start, end, axis, step)",
    "concat": "y = Concat <axis: int = 1> (r)",
    "sum": "y = Sum (r)",
    "mul": "y = Mul (r, one)",
    "mul-left": "y = Mul (one, r)",
    "mul-vector-of-one": "y = Mul (r, one_vector)",
    "div": "y = Div (r, one)",
    "sub": "y = Sub (r, zero)",
    "add-minus-zero": "y = Add (r, minus_zero)",
}
KEPT = {
    "add-zero": "y = Add (r, zero)",  # -0.0 + 0.0 is 0.0
    "sub-minus-zero": "y = Sub (r, minus_zero)",
    "div-left": "y = Div (one, r)",
    "sub-left": "y = Sub (zero, r)",
    "mul-rank": "y = Mul (r, one_cube)",
    "transpose": "y = Transpose <perm: ints = [1, 0]> (r)",
    "reshape": "y = Reshape (r, other)",
    "cast": "c = Cast <to: int = 7> (r) y = Cast <to: int = 1> (c)",
    "expand": "y = Expand (r, larger)",
    "pad": "y = Pad (r, pads)",
    "slice": "y = Slice (r, starts, other)",
    "slice-backwards": "y = Slice (r, back, low, axis, step_back)",
    "dropout-in-training": "y = Dropout (r, half, yes)",
    "dropout-with-mask": "y, m = Dropout (r) n = Cast <to: int = 1> (m) z = Add (y, n)",
}
CONSTANTS = """
<int64[2] same = {2, 3}, int64[2] free = {2, -1}, int64[2] copy = {0, 0}, int64[1] flat = {-1},
 int64[2] ones = {1, 3}, int64[4] no_pads = {0, 0, 0, 0}, int64[4] pads = {0, 0, 0, 1},
 int64[2] starts = {0, 0}, int64[2] ends = {9223372036854775807, 2147483647},
 int64[2] other = {3, 2}, int64[3] larger = {2, 2, 3}, int64[1] start = {0}, int64[1] end = {3},
 int64[1] axis = {-1}, int64[1] step = {1}, int64[1] step_back = {-1}, int64[1] back = {2},
 int64[1] low = {-9}, int64[1] zero_axis = {0}, float half = {0.5}, float one = {1},
 float[1] one_vector = {1}, float[1,1,1] one_cube = {1}, float zero = {0}, float minus_zero = {-0.0},
 bool yes = {1}>
"""


def around(line: str, output: str = "y") -> ir.Model:
    """Put a line between Relu and Neg, on [2, 3]."""
    return text(
        f"g (float[2,3] x) => (float[] out) {CONSTANTS} {{ r = Relu (x) {line} out = Neg ({output}) }}"
    )


@pytest.mark.parametrize("line", IDENTITIES.values(), ids=IDENTITIES.keys())
def test_what_returns_its_input_goes(line):
    loaded = around(line)
    before = ir.to_proto(loaded)
    assert eliminate_identities(loaded)
    remove_dead(loaded)
    assert ops(loaded) == ["Relu", "Neg"]
    x = np.array([[1.5, -2, 0], [-0.0, np.inf, np.nan]], np.float32)
    results = [session(proto).run(None, {"x": x})[0] for proto in (before, ir.to_proto(loaded))]
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("line", KEPT.values(), ids=KEPT.keys())
def test_what_does_something_stays(line):
    loaded = around(line, "z" if "z =" in line else "y")
    before = ops(loaded)
    assert eliminate_identities(loaded) == []
    assert ops(loaded) == before


def test_a_stale_shape_in_the_file_proves_nothing():
    proto = model([node("Relu", ["x"], ["r"], "a"), node("Reshape", ["r", "s"], ["y"], "b")],
                  inputs=[value("x", ("n", "m"))], outputs=[value("y", (2, 2))])  # fmt: skip
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 2]), "s"))
    proto.graph.value_info.append(value("r", (2, 2)))
    loaded = load_model(proto)
    assert eliminate_identities(loaded) == []
    assert fold_constants(loaded) == []


class TestNamesOfOutputs:
    def test_the_name_moves_to_the_producer(self):
        loaded = text("g (float[2] x) => (float[2] out) { r = Relu (x) out = Identity (r) }")
        eliminate_identities(loaded)
        assert ops(loaded) == ["Relu"]
        assert names(loaded.graph.outputs) == ["out"]

    @pytest.mark.parametrize(
        "graph",
        [
            "g (float[2] x) => (float[2] out) { out = Identity (x) }",
            "g (float[2] x) => (float[2] out, float[2] r) { r = Relu (x) out = Identity (r) }",
            "g (float[2] x) => (float[2] out) <float[2] w = {1, 2}> { out = Identity (w) }",
        ],
        ids=["input", "other-output", "initializer"],
    )
    def test_a_name_that_cannot_move_keeps_its_node(self, graph):
        loaded = text(graph)
        clean_up(loaded)
        assert ops(loaded).count("Identity") == 1
        assert names(loaded.graph.outputs)[0] == "out"

    def test_a_body_keeps_its_own_output(self):
        loaded = text(
            "g (float[2] x, bool c) => (float[2] out) { r = Relu (x) out = If (c) <"
            "then_branch: graph = t () => (float[2] p) { p = Identity (r) },"
            "else_branch: graph = e () => (float[2] q) { i = Identity (r) q = Neg (i) }> }"
        )
        clean_up(loaded)
        assert sorted(ops(loaded)) == ["Identity", "If", "Neg", "Relu"]
        verify(loaded)


class TestConstants:
    def test_shape_arithmetic_is_computed(self):
        loaded = text(
            "g (float[2,6] x) => (float[3,4] y) <int64 one = {1}, int64[1] two = {2}> {"
            "s = Shape (x) c = Gather (s, one) d = Div (c, two) n = Squeeze (d)"
            "k = Unsqueeze (n, z) l = Add (k, w) t = Concat <axis: int = 0> (d, l)"
            "y = Reshape (x, t) }".replace(
                "<int64 one", "<int64[1] z = {0}, int64[1] w = {1}, int64 one"
            )
        )
        fold_constants(loaded)
        assert ops(loaded) == ["Reshape"]
        np.testing.assert_array_equal(constant(loaded, "t"), [3, 4])

    def test_an_unknown_dimension_is_not_computed(self):
        loaded = text("g (float[N,6] x) => (int64[2] y) { s = Shape (x) y = Neg (s) }")
        assert fold_constants(loaded) == []

    def test_the_slice_of_a_shape_that_is_known_is_computed(self):
        loaded = text(
            "g (float[N,6] x) => (int64[1] y) { s = Shape <start: int = 1> (x) y = Neg (s) }"
        )
        assert fold_constants(loaded) == ["s"]

    @pytest.mark.parametrize(
        "line",
        [
            "r = RandomNormal <shape: ints = [2]> ()",
            "r = Bernoulli (k)",
            "r = RandomUniformLike (k)",
            "r, m = Dropout (k, h, t)",
        ],
    )
    def test_chance_is_not_folded(self, line):
        constants = "<float[2] k = {1, 1}, float h = {0.5}, bool t = {1}>"
        loaded = text(f"g (float[2] x) => (float[2] y) {constants} {{ {line} y = Add (x, r) }}")
        before = ops(loaded)
        clean_up(loaded)
        assert ops(loaded) == before

    def test_a_foreign_operator_is_not_evaluated(self):
        proto = model(
            [node("Odd", ["k"], ["o"], "odd", domain="acme"), node("Add", ["x", "o"], ["y"], "a")],
            [tensor("k", 4)],
            domains={"acme": 1},
        )
        loaded = load_model(proto)
        assert clean_up(loaded) == []
        assert ops(loaded) == ["Odd", "Add"]

    def test_an_unknown_standard_operator_is_left(self):
        loaded = load_model(model([node("Frob", ["k"], ["o"], "f"), node("Add", ["x", "o"], ["y"], "a")],
                                  [tensor("k", 4)]))  # fmt: skip
        clean_up(loaded)
        assert ops(loaded) == ["Frob", "Add"]

    def test_a_size_that_depends_on_data_is_left(self):
        loaded = text(
            "g (float[2] x) => (int64[] y) <float[3] k = {1, 0, 2}> { n = NonZero (k) y = Neg (n) }"
        )
        assert fold_constants(loaded) == []

    def test_the_file_does_not_grow(self):
        loaded = text(
            "g (float[100,100] x) => (float[100,100] y) <int64[2] s = {100, 100}, float k = {1}> {"
            "a = Expand (k, s) b = ConstantOfShape (s) c = Add (x, a) y = Add (c, b) }"
        )
        assert fold_constants(loaded) == []

    def test_no_memory_is_taken_to_find_that_out(self):
        loaded = text(
            "g (float[1] x) => (float[1] y) <int64[3] s = {100000, 100000, 100}> {"
            "b = ConstantOfShape (s) r = ReduceMax <keepdims: int = 0> (b) y = Add (x, r) }"
        )
        assert fold_constants(loaded) == []

    def test_a_large_intermediate_result_may_be_small_in_the_end(self):
        loaded = text(
            "g (float[1] x) => (float[1] y) <int64[1] s = {1000}> {"
            "b = ConstantOfShape (s) r = ReduceMax <keepdims: int = 0> (b) y = Add (x, r) }"
        )
        assert sorted(fold_constants(loaded)) == ["r"]
        assert ops(loaded) == ["Add"]

    @pytest.mark.parametrize("size", [2, 64])
    def test_int8_weights_are_not_made_float(self, size):
        values = ",".join("1" for _ in range(size * size))
        loaded = text(
            f"g (float[1,{size}] x) => (float[1,{size}] y)"
            f"<int8[{size},{size}] w = {{{values}}}, float s = {{0.5}}, int8 z = {{0}}> {{"
            "f = Cast <to: int = 1> (w) m = Mul (f, s) a = MatMul (x, m)"
            "d = DequantizeLinear (w, s, z) y = MatMul (a, d) }"
        )
        assert clean_up(loaded) == []

    def test_nothing_is_computed_from_a_named_parameter(self):
        loaded = text(
            "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float k = {1}> {"
            'a = Add (w, k) y = Mul (x, a) }\n# w: sparsec.param="{}"'
        )
        assert fold_constants(loaded) == []

    def test_bodies_are_folded_too(self):
        loaded = text(
            "g (float[2] x, bool c) => (float[2] y) <float k = {2}> { y = If (c) <"
            "then_branch: graph = t () => (float[2] p) { m = Mul (k, k) p = Mul (x, m) },"
            "else_branch: graph = e () => (float[2] q) { q = Neg (x) }> }"
        )
        assert fold_constants(loaded) == ["m"]
        assert sorted(ops(loaded)) == ["If", "Mul", "Neg"]
        verify(loaded)

    def test_a_graph_output_that_is_constant_keeps_its_node(self):
        loaded = text("g (float[2] x) => (float y) <float k = {2}> { m = Mul (k, k) y = Neg (m) }")
        clean_up(loaded)
        assert ops(loaded) == ["Neg"]
        assert constant(loaded, "m") == 4

    @pytest.mark.parametrize("dtype", ["FLOAT16", "DOUBLE", "INT32", "UINT8"])
    def test_results_are_those_of_the_runtime_in_every_dtype(self, dtype):
        kind = getattr(TensorProto, dtype)
        array = onnx.helper.tensor_dtype_to_np_dtype(kind).type([3, 7])
        proto = model(
            [node("Div", ["b", "a"], ["c"], "d"), node("Mul", ["x", "c"], ["y"], "m")],
            [
                onnx.numpy_helper.from_array(array[:1], "a"),
                onnx.numpy_helper.from_array(array[1:], "b"),
            ],
            [value("x", (1,), kind)],
            [value("y", (1,), kind)],
        )
        loaded = load_model(proto)
        fold_constants(loaded)
        np.testing.assert_array_equal(constant(loaded, "c"), [array[1] / array[0]]
                                      if dtype in ("FLOAT16", "DOUBLE") else [2])  # fmt: skip


class TestViews:
    def test_a_parameter_keeps_its_name_and_tells_what_was_done(self):
        loaded = text(
            "g (float[N,6] x) => (float[N,4] y) <float[2,2,6] w = {"
            + ",".join(map(str, range(24)))
            + "}, int64[2] s = {4, 6}> { r = Reshape (w, s) t = Transpose <perm: ints = [1, 0]> (r)"
            'y = MatMul (x, t) }\n# w: sparsec.param="{\\"name\\": \\"w\\", \\"transform\\": []}"'
        )
        clean_up(loaded)
        assert ops(loaded) == ["MatMul"]
        weight = loaded.graph.initializers["w"]
        wanted = np.arange(24, dtype=np.float32).reshape(4, 6).T
        np.testing.assert_array_equal(weight.const_value.numpy(), wanted)
        assert weight.metadata_props["sparsec.param"] == (
            '{"name": "w", "transform": [["reshape", [4, 6]], ["transpose", [1, 0]]]}'
        )

    def test_a_pattern_names_an_axis_so_its_tensor_stays(self):
        loaded = text(
            "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> {"
            "t = Transpose <perm: ints = [1, 0]> (w) y = MatMul (x, t) }\n"
            '# w: sparsec.pattern="unstructured@1"'
        )
        assert fold_views(loaded) == []

    def test_a_tied_weight_stays(self):
        loaded = text(
            "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> {"
            "t = Transpose <perm: ints = [1, 0]> (w) a = MatMul (x, t) y = MatMul (a, w) }"
        )
        assert clean_up(loaded) == []

    def test_nothing_is_read(self):
        def refuse() -> ir.TensorProtocol:
            raise AssertionError("read")

        loaded = text(
            "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> {"
            "t = Transpose <perm: ints = [1, 0]> (w) y = MatMul (x, t) }"
        )
        shape = ir.Shape([2000, 2000])
        lazy = ir.LazyTensor(refuse, dtype=ir.DataType.FLOAT, shape=shape, name="w")
        loaded.graph.initializers["w"].const_value = lazy
        assert clean_up(loaded) == ["t"]


class TestPadding:
    GRAPH = (
        "g (float[1,1,4,4] x) => (float[] y) <float[1,1,2,2] w = {1, 2, 3, 4},"
        "int64[8] p = {PADS}, float v = {VALUE}> {"
        "a = Pad <mode: string = MODE> (x, p, v)"
        "y = Conv <pads: ints = [1, 0, 0, 1]> (a, w) }"
    )

    def graph(self, pads="0,0,1,0,0,0,0,2", fill="0", mode='"constant"'):
        replaced = self.GRAPH.replace("PADS", pads).replace("VALUE", fill).replace("MODE", mode)
        return text(replaced)

    def test_zero_padding_moves_into_the_convolution(self):
        loaded = self.graph()
        before = ir.to_proto(loaded)
        assert fold_padding(loaded) == ["a"]
        assert list(loaded.graph[0].attributes["pads"].as_ints()) == [2, 0, 0, 3]
        x = np.random.default_rng(0).standard_normal((1, 1, 4, 4)).astype(np.float32)
        results = [session(p).run(None, {"x": x})[0] for p in (before, ir.to_proto(loaded))]
        np.testing.assert_array_equal(*results)

    @pytest.mark.parametrize(
        "changed",
        [{"pads": "0,1,0,0,0,0,0,0"}, {"pads": "0,0,-1,0,0,0,0,0"}, {"fill": "1"},
         {"mode": '"reflect"'}],
        ids=["channels", "negative", "value", "mode"],
    )  # fmt: skip
    def test_other_padding_stays(self, changed):
        assert fold_padding(self.graph(**changed)) == []


class TestReshapes:
    def test_two_unknown_sizes_stay_computed(self):
        loaded = text(
            "g (float[A,B,4] x) => (float[] y) <int64[1] k = {2}> {"
            "a = Shape <start: int = 0, end: int = 1> (x) b = Shape <start: int = 1, end: int = 2> (x)"
            "t = Concat <axis: int = 0> (b, a, k, k) y = Reshape (x, t) }"
        )
        assert fix_reshapes(loaded) == []

    def test_sizes_that_are_copied_are_told_from_sizes_that_are_left(self):
        loaded = text(
            "g (float[A,B,6] x) => (float[] y) <int64[1] k = {2}, int64[1] l = {3}> {"
            "a = Shape <start: int = 0, end: int = 1> (x) b = Shape <start: int = 1, end: int = 2> (x)"
            "t = Concat <axis: int = 0> (a, b, k, l) y = Reshape (x, t) }"
        )
        clean_up(loaded)
        assert ops(loaded) == ["Reshape"]
        assert constant(loaded, "y.shape").tolist() == [0, 0, 2, 3]


class TestDuplicates:
    def test_equal_biases_are_not_tied(self):
        loaded = text(
            "g (float[2] x) => (float[2] y) <float[2] a = {0, 0}, float[2] b = {0, 0}> {"
            "r = Add (x, a) y = Add (r, b) }"
        )
        assert clean_up(loaded) == []

    def test_different_attributes_are_different(self):
        loaded = text(
            "g (float[2,2] x) => (float[2,2] y) { a = Softmax <axis: int = 0> (x)"
            "b = Softmax <axis: int = 1> (x) y = Add (a, b) }"
        )
        assert merge_duplicates(loaded) == []

    def test_chance_is_not_merged(self):
        loaded = text(
            "g (float[2] x) => (float[2] y) { a = RandomNormalLike (x) b = RandomNormalLike (x)"
            "y = Sub (a, b) }"
        )
        assert merge_duplicates(loaded) == []

    def test_outputs_keep_their_own_names(self):
        loaded = text("g (float[2] x) => (float[2] a, float[2] b) { a = Relu (x) b = Relu (x) }")
        assert merge_duplicates(loaded) == []


class TestSequences:
    @pytest.mark.parametrize(
        "line",
        [
            "s = SplitToSequence (x, three) l = SequenceLength (s) y = Cast <to: int = 1> (l)",
            "s = SplitToSequence (x) y = SequenceAt (s, zero)",
            "s = SplitToSequence <axis: int = 1> (x, three) y = SequenceAt (s, minus)",
        ],
        ids=["length", "drops-the-axis", "from-the-end"],
    )
    def test_other_readers_keep_the_sequence(self, line):
        constants = "<int64 three = {3}, int64 zero = {0}, int64 minus = {-1}>"
        loaded = text(f"g (float[6,6] x) => (float[] y) {constants} {{ {line} }}")
        assert replace_sequences(loaded) == []

    def test_the_last_part_may_be_smaller(self):
        loaded = text(
            "g (float[7] x) => (float[1] y) <int64 three = {3}, int64 two = {2}> {"
            "s = SplitToSequence (x, three) y = SequenceAt (s, two) }"
        )
        clean_up(loaded)
        got = session(ir.to_proto(loaded)).run(None, {"x": np.arange(7, dtype=np.float32)})[0]
        assert got.tolist() == [6]


class TestDead:
    def test_what_only_a_dead_body_reads_goes_with_it(self):
        then = helper.make_graph([node("Add", ["k", "k"], ["p"], "i")], "t", [], [value("p", (4,))])
        other = helper.make_graph([node("Neg", ["h"], ["q"], "j")], "e", [], [value("q", (4,))])
        proto = model(
            [node("Neg", ["k"], ["h"], "h"),
             node("If", ["c"], ["unused"], "if", then_branch=then, else_branch=other),
             node("Relu", ["x"], ["y"], "r")],
            [tensor("k", 4)],
            [value("x"), value("c", (), TensorProto.BOOL)],
        )  # fmt: skip
        loaded = load_model(proto)
        removed = remove_dead(loaded)
        assert ops(loaded) == ["Relu"]
        assert {"if", "h", "k"} <= set(removed)
        assert names(loaded.graph.inputs) == ["x", "c"]

    def test_unused_initializers_of_bodies_and_domains_go(self):
        then = helper.make_graph([node("Neg", ["x"], ["p"], "i")], "t", [], [value("p")],
                                 [tensor("k", 4)])  # fmt: skip
        other = helper.make_graph([node("Relu", ["x"], ["q"], "j")], "e", [], [value("q")])
        choice = node("If", ["c"], ["y"], then_branch=then, else_branch=other)
        inputs = [value("x"), value("c", (), TensorProto.BOOL)]
        loaded = load_model(model([choice], inputs=inputs, domains={"acme": 1}))
        assert remove_dead(loaded) == ["k"]
        assert set(loaded.opset_imports) == {""}
