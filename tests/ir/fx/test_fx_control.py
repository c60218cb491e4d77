import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from sparsec.ir.fx import FxExecutor

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def f32(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture
def same(ort_run, assert_same):
    """Compare a whole model with ONNX Runtime."""

    def run(text, *all_feeds):
        model = onnx.parser.parse_model(HEADER + text)
        executor = FxExecutor(ir.from_proto(model))
        for feeds in all_feeds:
            got = executor.run(feeds)
            for g, w in zip(got.values(), ort_run(model, feeds), strict=True):
                assert_same(g, w, 1e-5, 1e-6)
        return executor

    return run


def test_if_takes_either_branch(same, rng):
    same(
        """
        branches (bool c, float[N] x) => (float[N] y, float[N] z) <float[1] w = {2.0}> {
            two = Constant <value = float {2.0}> ()
            s = Add (x, two)
            y, z = If (c) <
                then_branch = yes () => (float[N] a, float[N] b) {
                    k = Constant <value = float[1] {3.0}> ()
                    a = Mul (s, k)
                    b = Identity (x)
                },
                else_branch = no () => (float[N] d, float[N] e) {
                    d = Sub (x, w)
                    e = Neg (s)
                }
            >
        }
        """,
        {"c": np.array(True), "x": f32(rng, 4)},
        {"c": np.array(False), "x": f32(rng, 5)},
    )


def test_nested_if_sees_outer_values(same, rng):
    executor = same(
        """
        nested (bool c, bool d, float[N] x) => (float[N] y) {
            s = Exp (x)
            y = If (c) <
                then_branch = a () => (float[N] p) {
                    t = Tanh (x)
                    p = If (d) <
                        then_branch = b () => (float[N] q) { q = Add (s, t) },
                        else_branch = e () => (float[N] r) { r = Mul (t, x) }
                    >
                },
                else_branch = f () => (float[N] u) { u = Identity (x) }
            >
        }
        """,
        *({"c": np.array(bool(n % 2)), "d": np.array(n > 1), "x": f32(rng, 3)} for n in range(4)),
    )
    assert "s" in executor.values
    assert "t" not in executor.values


def test_if_on_a_shape(same, rng):
    same(
        """
        by_rank (float[N, M] x) => (float[K] y) {
            shape = Shape (x)
            zero = Constant <value_int = 0> ()
            n = Gather <axis = 0> (shape, zero)
            four = Constant <value_int = 4> ()
            c = Less (n, four)
            y = If (c) <
                then_branch = a () => (float[K] p) {
                    axes = Constant <value_ints = [0]> ()
                    p = ReduceSum <keepdims = 0> (x, axes)
                },
                else_branch = b () => (float[K] q) {
                    axes = Constant <value_ints = [1]> ()
                    q = ReduceSum <keepdims = 0> (x, axes)
                }
            >
        }
        """,
        {"x": f32(rng, 3, 5)},
        {"x": f32(rng, 6, 2)},
    )


LOOP = """
    repeat (int64 n, float[N] x) => (float[N] y, float[T, N] all) {
        go = Constant <value = bool {1}> ()
        y, all = Loop (n, go, x) <
            body = step (int64 i, bool c, float[N] s) => (bool more, float[N] next, float[N] seen) {
                half = Constant <value = float {0.5}> ()
                scaled = Mul (s, half)
                next = Add (scaled, x)
                limit = Constant <value = float {6.0}> ()
                axes = Constant <value_ints = [0]> ()
                sum = ReduceMax <keepdims = 0> (next)
                more = Less (sum, limit)
                fi = Cast <to = 1> (i)
                seen = Add (next, fi)
            }
        >
    }
"""


@pytest.mark.parametrize("trips", [1, 4, 50])
def test_loop(trips, same, rng):
    same(
        LOOP, {"n": np.array(trips), "x": f32(rng, 3)}, {"n": np.array(trips), "x": f32(rng, 3) + 3}
    )


def test_loop_that_never_runs(same, rng):
    executor = FxExecutor(ir.from_proto(onnx.parser.parse_model(HEADER + LOOP)))
    x = f32(rng, 3)
    got = executor.run({"n": np.array(0), "x": x})
    np.testing.assert_array_equal(got["y"], x)
    assert got["all"].shape[0] == 0
    assert got["all"].dtype == np.float32


def test_loop_carries_a_shape(same, rng):
    same(
        """
        growing (float[A, B] x) => (int64[1] y) {
            shape = Shape (x)
            zero = Constant <value_ints = [0]> ()
            start = Gather <axis = 0> (shape, zero)
            n = Constant <value_int = 3> ()
            y = Loop (n, , start) <
                body = step (int64 i, bool c, int64[1] s) => (bool more, int64[1] next) {
                    more = Identity (c)
                    t = Add (s, i)
                    next = Mul (t, start)
                }
            >
        }
        """,
        {"x": f32(rng, 2, 3)},
        {"x": f32(rng, 5, 1)},
    )


@pytest.mark.parametrize("backward", [0, 1])
def test_scan(backward, same, rng):
    same(
        f"""
        running (float[H] h, float[T, H] x, float[H, T] z) => (float[H] last, float[H, T] sums) {{
            last, sums = Scan <
                num_scan_inputs = 2, scan_input_axes = [0, 1],
                scan_input_directions = [{backward}, 0], scan_output_axes = [1],
                scan_output_directions = [{backward}],
                body = step (float[H] s, float[H] a, float[H] b) => (float[H] next, float[H] out) {{
                    p = Mul (a, b)
                    t = Add (s, p)
                    next = Tanh (t)
                    out = Add (next, h)
                }}
            > (h, x, z)
        }}
        """,
        {"h": f32(rng, 3), "x": f32(rng, 4, 3), "z": f32(rng, 3, 4)},
    )


def test_gradient_through_loop_and_if(rng):
    executor = FxExecutor(
        ir.from_proto(onnx.parser.parse_model(HEADER + LOOP)), dtype=__import__("torch").float64
    )
    feeds = {"n": np.array(4), "x": rng.uniform(0, 1, 3)}
    got = executor.gradients(feeds, lambda v: v["y"].sum(), parameters=[], values=["x"])
    # y = x (1 + 1/2 + ... + 1/16): the first state is x itself
    np.testing.assert_allclose(got.values["x"], np.full(3, 2 - 0.5**4), rtol=1e-12)


def test_sequences(same, rng):
    same(
        """
        parts (float[A, B] x) => (float[C, B] y, int64 n) {
            sizes = Constant <value_ints = [1, 3, 2]> ()
            s = SplitToSequence <axis = 0> (x, sizes)
            one = Constant <value_int = 1> ()
            middle = SequenceAt (s, one)
            t = SequenceInsert (s, middle)
            zero = Constant <value_int = 0> ()
            u = SequenceErase (t, zero)
            n = SequenceLength (u)
            y = ConcatFromSequence <axis = 0> (u)
        }
        """,
        {"x": f32(rng, 6, 2)},
    )


def test_sequences_made_and_stacked(same, rng):
    same(
        """
        parts (float[A] x, float[A] z) => (float[A, C] y) {
            e = SequenceEmpty <dtype = 1> ()
            s = SequenceInsert (e, x)
            zero = Constant <value_int = 0> ()
            t = SequenceInsert (s, z, zero)
            a = SequenceAt (t, zero)
            u = SequenceConstruct (a, x, z)
            y = ConcatFromSequence <axis = 1, new_axis = 1> (u)
        }
        """,
        {"x": f32(rng, 4), "z": f32(rng, 4)},
    )
