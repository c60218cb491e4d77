"""Small graphs with every way in which a weight can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from sparsec.ir.load import load_model
from tests.graphs import normal, proto, tensor

node = helper.make_node
Feed = Mapping[str, np.ndarray]


def single(
    op: str, x: list[Any], weight: np.ndarray, index: int = 1, **attributes: Any
) -> ir.Model:
    """One layer with its weight at input ``index``."""
    inputs = ["x", "w"] if index else ["w", "x"]
    layer = node(op, inputs, ["y"], "layer", **attributes)
    return load_model(proto([layer], {"x": x}, ["y"], {"w": weight}))


def residual() -> ir.Model:
    """Two branches from one value, a residual, and a layer that two nodes share side by side."""
    nodes = [
        node("MatMul", ["x", "a"], ["q"], "q"),
        node("MatMul", ["x", "b"], ["k"], "k"),
        node("Relu", ["q"], ["q1"]),
        node("Sigmoid", ["k"], ["k1"]),
        node("Mul", ["q1", "k1"], ["m"]),
        node("MatMul", ["m", "c"], ["o"], "o"),
        node("Add", ["o", "x"], ["r"]),
        node("Tanh", ["r"], ["t"]),
        node("MatMul", ["r", "shared"], ["u"], "left"),
        node("MatMul", ["t", "shared"], ["v"], "right"),
        node("Sub", ["u", "v"], ["w"]),
        node("MatMul", ["w", "d"], ["y"], "down"),
    ]
    shapes = {"a": (8, 8), "b": (8, 8), "c": (8, 8), "shared": (8, 12), "d": (12, 4)}
    weights = {name: normal(*shape, seed=i) / 2 for i, (name, shape) in enumerate(shapes.items())}
    return load_model(proto(nodes, {"x": ["n", 8]}, ["y"], weights))


def recurrent() -> ir.Model:
    """One layer applied three times in a row: a later input depends on the layer itself."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "first"),
        node("Tanh", ["a"], ["b"]),
        node("MatMul", ["b", "w"], ["c"], "second"),
        node("Tanh", ["c"], ["d"]),
        node("MatMul", ["d", "v"], ["y"], "last"),
    ]
    weights = {"w": normal(6, 6), "v": normal(6, 3, seed=1)}
    return load_model(proto(nodes, {"x": ["n", 6]}, ["y"], weights))


def network() -> ir.Model:
    """A convolution, a grouped one, a depthwise one, pooling and a classifier."""
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["a"], "stem", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w1"], ["c"], "grouped", pads=[1, 1, 1, 1], group=2),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w2"], ["e"], "depthwise", pads=[1, 1, 1, 1], group=8),
        node("Conv", ["e", "w3"], ["f"], "pointwise"),
        node("Add", ["f", "d"], ["g"]),
        node("GlobalAveragePool", ["g"], ["h"]),
        node("Flatten", ["h"], ["i"]),
        node("Gemm", ["i", "w4", "b4"], ["y"], "head", transB=1),
    ]
    weights = {
        "w0": normal(8, 3, 3, 3) / 3,
        "b0": normal(8, seed=1),
        "w1": normal(8, 4, 3, 3, seed=2) / 3,
        "w2": normal(8, 1, 3, 3, seed=3) / 2,
        "w3": normal(8, 8, 1, 1, seed=4) / 2,
        "w4": normal(5, 8, seed=5),
        "b4": normal(5, seed=6),
    }
    return load_model(proto(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], weights))


def branching(opset: int = 20) -> ir.Model:
    """An If with a layer in each branch, one of them nested, between two ordinary layers."""
    deep_then = _body([node("MatMul", ["h", "wd"], ["deep"], "deep")], "deep", {"wd": (6, 6)}, 7)
    deep_else = _body([node("Identity", ["h"], ["flat"])], "flat", {}, 0)
    then = _body(
        [
            node("MatMul", ["h", "wt"], ["t0"], "then"),
            node("If", ["second"], ["t1"], "inner", then_branch=deep_then, else_branch=deep_else),
            node("Add", ["t0", "t1"], ["t2"]),
        ],
        "t2",
        {"wt": (6, 6)},
        5,
    )
    other = _body([node("MatMul", ["h", "we"], ["e"], "else")], "e", {"we": (6, 6)}, 6)
    nodes = [
        node("MatMul", ["x", "w0"], ["h"], "before"),
        node("If", ["first"], ["i"], "choice", then_branch=then, else_branch=other),
        node("Relu", ["i"], ["j"]),
        node("MatMul", ["j", "w1"], ["y"], "after"),
    ]
    weights = {"w0": normal(6, 6), "w1": normal(6, 3, seed=1)}
    model = proto(nodes, {"x": ["n", 6]}, ["y"], weights, opset=opset)
    for name in ("first", "second"):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.BOOL, []))
    return load_model(model)


def looping() -> ir.Model:
    """A Loop whose body holds a layer; the number of iterations is an input."""
    body = helper.make_graph(
        [
            node("MatMul", ["state", "wl"], ["next0"], "step"),
            node("Tanh", ["next0"], ["next"]),
            node("Identity", ["going"], ["go_on"]),
            node("ReduceMean", ["next"], ["mean"], keepdims=0),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, []),
        ],
        [tensor("wl", normal(6, 6, seed=3))],
    )
    nodes = [
        node("MatMul", ["x", "w0"], ["h"], "before"),
        node("Loop", ["times", "", "h"], ["last", "means"], "loop", body=body),
        node("MatMul", ["last", "w1"], ["y"], "after"),
    ]
    weights = {"w0": normal(6, 6), "w1": normal(6, 3, seed=1)}
    model = proto(nodes, {"x": ["n", 6]}, ["y", "means"], weights)
    model.graph.input.append(helper.make_tensor_value_info("times", TensorProto.INT64, []))
    return load_model(model)


def experts(count: int = 4) -> ir.Model:
    """A mixture of experts in gather form: each token goes to the expert that likes it best."""
    nodes = [
        node("MatMul", ["x", "router"], ["likes"], "router"),
        node("ArgMax", ["likes"], ["chosen"], axis=1, keepdims=0),
        node("Mul", ["x", "zero"], ["sum0"]),
    ]
    weights = {"router": normal(8, count, seed=9), "zero": np.zeros(1, np.float32)}
    for e in range(count):
        weights |= {f"up{e}": normal(8, 12, seed=e), f"down{e}": normal(12, 8, seed=10 + e)}
        weights[f"number{e}"] = np.array(e, np.int64)
        nodes += [
            node("Equal", ["chosen", f"number{e}"], [f"mine{e}"]),
            node("NonZero", [f"mine{e}"], [f"places{e}"]),
            node("Transpose", [f"places{e}"], [f"rows{e}"]),
            node("GatherND", ["x", f"rows{e}"], [f"tokens{e}"]),
            node("MatMul", [f"tokens{e}", f"up{e}"], [f"hidden{e}"], f"up{e}"),
            node("Relu", [f"hidden{e}"], [f"active{e}"]),
            node("MatMul", [f"active{e}", f"down{e}"], [f"result{e}"], f"down{e}"),
            node(
                "ScatterND", [f"sum{e}", f"rows{e}", f"result{e}"], [f"sum{e + 1}"], reduction="add"
            ),
        ]
    nodes.append(node("Identity", [f"sum{count}"], ["y"]))
    return load_model(proto(nodes, {"x": ["n", 8]}, ["y"], weights))


def sequence() -> ir.Model:
    """A sequence of tensors that outlives several layers."""
    nodes = [
        node("MatMul", ["x", "w0"], ["h"], "before"),
        node("SplitToSequence", ["h", "parts"], ["s"], axis=1),
        node("SequenceAt", ["s", "zero"], ["a"]),
        node("MatMul", ["a", "w1"], ["b"], "first"),
        node("SequenceAt", ["s", "one"], ["c"]),
        node("Add", ["b", "c"], ["d"]),
        node("MatMul", ["d", "w2"], ["y"], "second"),
    ]
    weights = {
        "w0": normal(6, 8),
        "w1": normal(4, 4, seed=1),
        "w2": normal(4, 3, seed=2),
        "parts": np.array([4, 4], np.int64),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
    }
    return load_model(proto(nodes, {"x": ["n", 6]}, ["y"], weights))


def _body(
    nodes: list[onnx.NodeProto], output: str, weights: dict[str, tuple[int, ...]], seed: int
) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        output,
        [],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [tensor(name, normal(*shape, seed=seed)) for name, shape in weights.items()],
    )


def vectors(count: int, width: int, rows: int = 5) -> list[dict[str, np.ndarray]]:
    return [{"x": normal(rows + i, width, seed=50 + i) + 1} for i in range(count)]


def images(count: int) -> list[dict[str, np.ndarray]]:
    """Pictures of different sizes."""
    return [{"x": normal(1 + i % 2, 3, 9 + i, 12, seed=50 + i)} for i in range(count)]


def choices() -> list[dict[str, np.ndarray]]:
    """Feeds of :func:`branching`: each way through it."""
    return [
        {"x": normal(3 + i, 6, seed=i), "first": np.array(a), "second": np.array(b)}
        for i, (a, b) in enumerate([(True, True), (True, False), (False, True), (True, True)])
    ]


def iterations() -> list[dict[str, np.ndarray]]:
    """Feeds of :func:`looping`: none, one and several iterations."""
    return [
        {"x": normal(2 + i, 6, seed=i), "times": np.array(n, np.int64)}
        for i, n in enumerate([3, 0, 1])
    ]
