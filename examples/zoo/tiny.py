"""Graphs of a few nodes, one for each way in which a model may hold its weights; no torch needed.

Examples
--------
>>> model = TINY["gemm_chain"].model()
>>> [node.op_type for node in model.graph.node]
['Gemm', 'Relu', 'Gemm']
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from examples.zoo.textual import Tiny, fixed, floats, integers, positive, signal

TINY: dict[str, Tiny] = {
    "gemm_chain": Tiny(
        "a multi-layer perceptron: weights [out, in] and [in, out]",
        """
        mlp (float[N,16] x) => (float[N,8] y) {
            [fc1] h = Gemm <transB = 1> (x, w1, b1)
            [act] r = Relu (h)
            [fc2] y = Gemm (r, w2, b2)
        }
        """,
        {"w1": floats(32, 16), "b1": floats(32), "w2": floats(32, 8), "b2": floats(8)},
        {"x": signal(3, 16)},
    ),
    "gemm_variants": Tiny(
        "transA, transB, alpha, beta, and a missing bias",
        """
        gemms (float[16,4] x) => (float[4,8] y) {
            [a] h = Gemm <transA = 1, transB = 1, alpha = 0.5, beta = 2.0> (x, w1, b1)
            [b] i = Gemm <alpha = -1.5> (h, w2)
            [c] y = Gemm <transB = 1, beta = 0.0> (i, w3, b3)
        }
        """,
        {
            "w1": floats(12, 16),
            "b1": floats(12),
            "w2": floats(12, 8),
            "w3": floats(8, 8),
            "b3": floats(8),
        },
        {"x": signal(16, 4)},
    ),
    "matmul_left": Tiny(
        "the constant on the left of one MatMul and on the right of the next",
        """
        left (float[B,16,5] x) => (float[B,8,4] y) {
            [mix] h = MatMul (w1, x)
            [out] y = MatMul (h, w2)
        }
        """,
        {"w1": floats(8, 16), "w2": floats(5, 4)},
        {"x": signal(2, 16, 5)},
    ),
    "matmul_batched": Tiny(
        "a constant of rank 3: one matrix for each head",
        """
        heads (float[B,4,5,8] x) => (float[B,4,5,8] y) {
            [heads] y = MatMul (x, w)
        }
        """,
        {"w": floats(4, 8, 8)},
        {"x": signal(2, 4, 5, 8)},
    ),
    "conv_net": Tiny(
        "3x3 convolution, BatchNormalization, 1x1 convolution, pooling, classifier",
        """
        conv (float[N,3,12,12] x) => (float[N,8] y) {
            [stem] a = Conv <kernel_shape = [3,3], pads = [1,1,1,1]> (x, w1)
            [bn] b = BatchNormalization (a, scale, shift, mean, var)
            [relu] c = Relu (b)
            [point] d = Conv <kernel_shape = [1,1]> (c, w2, b2)
            [pool] e = GlobalAveragePool (d)
            [flat] f = Flatten (e)
            [fc] y = Gemm <transB = 1> (f, w3, b3)
        }
        """,
        {
            "w1": floats(16, 3, 3, 3),
            "scale": positive(16),
            "shift": floats(16),
            "mean": floats(16),
            "var": positive(16),
            "w2": floats(24, 16, 1, 1),
            "b2": floats(24),
            "w3": floats(8, 24),
            "b3": floats(8),
        },
        {"x": signal(2, 3, 12, 12)},
    ),
    "conv_groups": Tiny(
        "grouped, depthwise, one-dimensional and transposed convolution",
        """
        groups (float[N,16,8] x) => (float[N,8,16] y) {
            [grouped] a = Conv <group = 4, kernel_shape = [3], pads = [1,1]> (x, w1, b1)
            [depthwise] b = Conv <group = 16, kernel_shape = [3], pads = [1,1]> (a, w2)
            [point] c = Conv <kernel_shape = [1]> (b, w3)
            [up] y = ConvTranspose <kernel_shape = [2], strides = [2]> (c, w4)
        }
        """,
        {
            "w1": floats(16, 4, 3),
            "b1": floats(16),
            "w2": floats(16, 1, 3),
            "w3": floats(16, 16, 1),
            "w4": floats(16, 8, 2),
        },
        {"x": signal(2, 16, 8)},
    ),
    "residual": Tiny(
        "channels that must shrink together: two convolutions into one Add, a Concat, a Split",
        """
        residual (float[N,8,6,6] x) => (float[N,8,6,6] y) {
            [a] a = Conv <kernel_shape = [1,1]> (x, w1, b1)
            [b] b = Conv <kernel_shape = [3,3], pads = [1,1,1,1]> (x, w2)
            [sum] s = Add (a, b)
            [relu] r = Relu (s)
            [cat] c = Concat <axis = 1> (r, a)
            [cut] p, q = Split <axis = 1, num_outputs = 2> (c)
            [gate] g = Mul (p, q)
            [out] y = Conv <kernel_shape = [1,1]> (g, w3)
        }
        """,
        {
            "w1": floats(16, 8, 1, 1),
            "b1": floats(16),
            "w2": floats(16, 8, 3, 3),
            "w3": floats(8, 16, 1, 1),
        },
        {"x": signal(2, 8, 6, 6)},
    ),
    "attention": Tiny(
        "one pre-norm attention block with two heads; batch and length are dynamic",
        """
        attention (float[B,L,16] x) => (float[B,L,16] y) <int64[4] heads = {0, 0, 2, 8},
                int64[3] joined = {0, 0, 16}, float root = {2.8284271}> {
            [norm] n = LayerNormalization (x, scale, shift)
            [q] q0 = MatMul (n, wq)
            [k] k0 = MatMul (n, wk)
            [v] v0 = MatMul (n, wv)
            q1 = Reshape (q0, heads)
            k1 = Reshape (k0, heads)
            v1 = Reshape (v0, heads)
            q2 = Transpose <perm = [0,2,1,3]> (q1)
            k2 = Transpose <perm = [0,2,3,1]> (k1)
            v2 = Transpose <perm = [0,2,1,3]> (v1)
            [scores] s0 = MatMul (q2, k2)
            s1 = Div (s0, root)
            p = Softmax <axis = -1> (s1)
            [mix] m0 = MatMul (p, v2)
            m1 = Transpose <perm = [0,2,1,3]> (m0)
            m2 = Reshape (m1, joined)
            [o] o0 = MatMul (m2, wo)
            o1 = Add (o0, bo)
            y = Add (x, o1)
        }
        """,
        {
            "scale": positive(16),
            "shift": floats(16),
            "wq": floats(16, 16),
            "wk": floats(16, 16),
            "wv": floats(16, 16),
            "wo": floats(16, 16),
            "bo": floats(16),
        },
        {"x": signal(2, 5, 16)},
    ),
    "tied": Tiny(
        "one tensor read by rows, as a matrix behind Transpose, and by two Gemm at once",
        """
        tied (int64[B,L] ids) => (float[B,L,32] logits, float[K,16] z) {
            [embed] e = Gather (table, ids)
            [turn] t = Transpose <perm = [1,0]> (table)
            [head] logits = MatMul (e, t)
            flat = Reshape (e, rows)
            [once] h = Gemm <transB = 1> (flat, shared)
            [twice] z = Gemm <transB = 1> (h, shared)
        }
        """,
        {"table": floats(32, 16), "shared": floats(16, 16), "rows": fixed([-1, 16], np.int64)},
        {"ids": integers(0, 32, 2, 3)},
    ),
    "constant_nodes": Tiny(
        "every weight in a Constant node; the graph has no initializer",
        """
        constants (float[N,8] x) => (float[N,4] y) {
            w1 = Constant <value = $w1> ()
            b1 = Constant <value = $b1> ()
            w2 = Constant <value = $w2> ()
            [one] h = Gemm <transB = 1> (x, w1, b1)
            [two] y = MatMul (h, w2)
        }
        """,
        {"w1": floats(16, 8), "b1": floats(16), "w2": floats(16, 4)},
        {"x": signal(3, 8)},
    ),
    "dequantize": Tiny(
        "int8 weights behind DequantizeLinear, one scale per output and one per tensor",
        """
        qdq (float[N,16] x) => (float[N,8] y) {
            w1 = DequantizeLinear <axis = 0> (q1, s1, z1)
            [one] h = Gemm <transB = 1> (x, w1, b1)
            w2 = DequantizeLinear (q2, s2)
            [two] y = MatMul (h, w2)
        }
        """,
        {
            "q1": integers(-127, 128, 16, 16, dtype=np.int8),
            "s1": lambda rng: rng.uniform(0.001, 0.003, 16).astype(np.float32),
            "z1": fixed([0] * 16, np.int8),
            "b1": floats(16),
            "q2": integers(-127, 128, 16, 8, dtype=np.int8),
            "s2": fixed(0.002, np.float32),
        },
        {"x": signal(3, 16)},
    ),
    "cast_mul": Tiny(
        "int8 and fp16 weights behind Cast, Mul and Transpose",
        """
        cast (float[N,16] x) => (float[N,8] y) {
            c1 = Cast <to = 1> (q1)
            w1 = Mul (c1, s1)
            [one] h = MatMul (x, w1)
            c2 = Cast <to = 1> (f2)
            w2 = Transpose <perm = [1,0]> (c2)
            [two] y = MatMul (h, w2)
        }
        """,
        {
            "q1": integers(-127, 128, 16, 12, dtype=np.int8),
            "s1": lambda rng: rng.uniform(0.001, 0.003, 12).astype(np.float32),
            "f2": lambda rng: rng.standard_normal((8, 12)).astype(np.float16),
        },
        {"x": signal(3, 16)},
    ),
    "if_branches": Tiny(
        "weights inside both branches of an If, and one captured from outside by both",
        """
        choose (float[N,8] x, bool flag) => (float[N,8] y) {
            [pick] y = If (flag) <
                then_branch = yes () => (float[N,8] y1) {
                    a = Constant <value = $a> ()
                    [inner_yes] h1 = MatMul (x, a)
                    [shared_yes] y1 = MatMul (h1, outer)
                },
                else_branch = no () => (float[N,8] y2) {
                    b = Constant <value = $b> ()
                    [inner_no] h2 = MatMul (x, b)
                    [shared_no] y2 = MatMul (h2, outer)
                }
            >
        }
        """,
        {"a": floats(8, 8), "b": floats(8, 8), "outer": floats(8, 8)},
        {"x": signal(3, 8), "flag": lambda rng: np.array(rng.random() < 0.5)},
    ),
    "loop_body": Tiny(
        "a weight inside the body of a Loop, used once per turn",
        """
        turns (float[N,8] x, int64 count) => (float[N,8] y) <bool go = {1}> {
            [repeat] y = Loop (count, go, x) <
                body = turn (int64 i, bool before, float[N,8] h) => (bool after, float[N,8] o)
                {
                    w = Constant <value = $w> ()
                    [inner] m = MatMul (h, w)
                    o = Tanh (m)
                    after = Identity (before)
                }
            >
        }
        """,
        {"w": floats(8, 8)},
        {"x": signal(3, 8), "count": integers(1, 4)},
    ),
    "lstm": Tiny(
        "recurrent weights, which no pattern touches, between two linears",
        """
        lstm (float[T,N,8] x) => (float[T,N,4] y, float[1,N,16] state) {
            [into] u = MatMul (x, w1)
            [cell] all, state, c = LSTM <hidden_size = 16> (u, w, r)
            all3 = Squeeze (all, one)
            [out] y = MatMul (all3, w2)
        }
        """,
        {
            "w1": floats(8, 8),
            "w": floats(1, 64, 8),
            "r": floats(1, 64, 16),
            "one": fixed([1], np.int64),
            "w2": floats(16, 4),
        },
        {"x": signal(5, 2, 8)},
    ),
    "integer_matmul": Tiny(
        "DynamicQuantizeLinear and MatMulInteger: integer operators to leave alone",
        """
        integer (float[N,16] x) => (float[N,8] y) {
            q, s, z = DynamicQuantizeLinear (x)
            [int] i = MatMulInteger (q, w, z)
            f = Cast <to = 1> (i)
            g = Mul (f, s)
            [float] y = MatMul (g, v)
        }
        """,
        {"w": integers(-127, 128, 16, 8, dtype=np.int8), "v": floats(8, 8)},
        {"x": signal(3, 16)},
    ),
    "vendor_op": Tiny(
        "an operator of a vendor's domain between two linears, and a domain never used",
        """
        <ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1, "never.used" : 3]>
        vendor (float[N,8] x) => (float[N,8] y) {
            [one] h = MatMul (x, w1)
            [gelu] g = com.microsoft.Gelu (h)
            [two] y = MatMul (g, w2)
        }
        """,
        {"w1": floats(8, 8), "w2": floats(8, 8)},
        {"x": signal(3, 8)},
    ),
    "old_opset": Tiny(
        "opset 9: limits of Clip and axes of Unsqueeze as attributes",
        """
        <ir_version: 4, opset_import: ["" : 9]>
        old (float[N,8] x) => (float[N,1,8] y) {
            [fc] h = Gemm <transB = 1, alpha = 1.0, beta = 1.0> (x, w, b)
            [six] c = Clip <min = 0.0, max = 6.0> (h)
            [wide] y = Unsqueeze <axes = [1]> (c)
        }
        """,
        {"w": floats(8, 8), "b": floats(8)},
        {"x": signal(3, 8)},
    ),
    "weights_as_inputs": Tiny(
        "IR version 3, where every initializer is listed as an input that a caller may override",
        """
        <ir_version: 3, opset_import: ["" : 11]>
        listed (float[N,8] x, float[8,8] w, float[8] b) => (float[N,8] y) {
            [fc] h = Gemm <transB = 1> (x, w, b)
            [relu] y = Relu (h)
        }
        """,
        {"w": floats(8, 8), "b": floats(8)},
        {"x": signal(3, 8)},
    ),
}


def odd_names(seed: int = 0) -> onnx.ModelProto:
    """Build a graph whose names are what no identifier may be: a number, a colon, a path, JSON.

    Its first node has no name. Its input is ``input:0``, float32 ``[N, 8]``.
    """
    rng = np.random.default_rng(seed)
    output = '{"1": "ten minutes", "2": "<b>"}'
    weights = {"42": floats(8, 8)(rng), "../w": floats(8, 8)(rng)}
    nodes = [
        helper.make_node("MatMul", ["input:0", "42"], ["7"]),
        helper.make_node("MatMul", ["7", "../w"], [output], name='a/b:c "d"'),
    ]
    graph = helper.make_graph(
        nodes,
        "odd names",
        [helper.make_tensor_value_info("input:0", onnx.TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
