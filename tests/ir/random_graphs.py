"""Small random graphs that use what exporters write: noise around a few real operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclasses.dataclass
class Builder:
    """A graph in the making; every value is float32 [2, 6] or an int64 vector of its shape."""

    draw: Draw
    opset: int
    symbolic: bool
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    inits: list[onnx.TensorProto] = dataclasses.field(default_factory=list)
    values: list[str] = dataclasses.field(default_factory=lambda: ["x"])
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def constant(self, array: Any, dtype: Any = None) -> str:
        name = self.name()
        array = np.asarray(array, dtype)
        if self.draw(st.booleans()):
            self.inits.append(numpy_helper.from_array(array, name))
        else:
            value = numpy_helper.from_array(array)
            self.nodes.append(helper.make_node("Constant", [], [name], value=value))
        return name

    def floats(self, *shape: int) -> str:
        seed = self.draw(st.integers(0, 3))
        array = np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)
        return self.constant(array)

    def ints(self, *values: int) -> str:
        return self.constant(list(values), np.int64)

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"n{self.count}", **attributes))
        return names[0]

    def pick(self) -> str:
        return self.draw(st.sampled_from(self.values))

    def axes(self, op: str, data: str, *axes: int) -> str:
        if self.opset >= 13:
            return self.add(op, data, self.ints(*axes))
        return self.add(op, data, axes=list(axes))


def unary(b: Builder) -> str:
    return b.add(b.draw(st.sampled_from(["Relu", "Neg", "Identity", "Abs", "Dropout"])), b.pick())


def arithmetic(b: Builder) -> str:
    op = b.draw(st.sampled_from(["Add", "Sub", "Mul"]))
    other = b.draw(st.sampled_from(["value", "zero", "minus zero", "one", "row", "computed"]))
    if other == "computed":
        right = b.add("Mul", b.floats(6), b.add("Neg", b.floats(1)))
    else:
        scalar = {"zero": 0.0, "minus zero": -0.0, "one": 1.0}
        right = b.pick() if other == "value" else b.floats(6)
        if other in scalar:
            shape = b.draw(st.sampled_from([(), (1,), (1, 1)]))
            right = b.constant(np.full(shape, scalar[other], np.float32))
    return b.add(op, b.pick(), right)


def casts(b: Builder) -> str:
    middle = b.draw(st.sampled_from([TensorProto.FLOAT, TensorProto.DOUBLE]))
    return b.add("Cast", b.add("Cast", b.pick(), to=middle), to=TensorProto.FLOAT)


def transposes(b: Builder) -> str:
    inner = b.add("Transpose", b.pick(), perm=[1, 0])
    if b.draw(st.booleans()):
        inner = b.add("Relu", inner)
    return b.add("Transpose", inner, perm=[1, 0])


def reshapes(b: Builder) -> str:
    there = b.draw(st.sampled_from([[12], [3, 4], [-1, 3], [0, -1], [2, 1, 6], [1, 0, -1]]))
    if there[0] == 1:
        there = [1, 2, 6]
    back = b.draw(st.sampled_from([[2, 6], [-1, 6], [2, -1]]))
    return b.add("Reshape", b.add("Reshape", b.pick(), b.ints(*there)), b.ints(*back))


def shape_arithmetic(b: Builder) -> str:
    source = b.pick()
    shape = b.add("Shape", source)
    index = b.constant(b.draw(st.sampled_from([0, 1])), np.int64)
    size = b.axes("Unsqueeze", b.add("Gather", shape, index, axis=0), 0)
    order = b.draw(st.booleans())
    parts = (size, b.ints(-1)) if order else (b.ints(-1), size)
    reshaped = b.add("Reshape", source, b.add("Concat", *parts, axis=0))
    return b.add("Reshape", reshaped, shape)


def slices(b: Builder) -> str:
    if b.opset < 10:
        return b.add("Slice", b.pick(), starts=[0, 0], ends=[2, 9999])
    ends = b.draw(st.sampled_from([(2, 6), (9, 2**31 - 1), (2**62, 6)]))
    return b.add("Slice", b.pick(), b.ints(0, 0), b.ints(*ends))


def halves(b: Builder) -> str:
    source = b.pick()
    if b.opset >= 13 and b.draw(st.booleans()):
        parts = [b.name(), b.name()]
        b.nodes.append(helper.make_node("Split", [source, b.ints(3, 3)], parts, axis=1))
    elif b.opset >= 11:
        sequence = b.add("SplitToSequence", source, b.constant(3, np.int64), axis=1)
        parts = [b.add("SequenceAt", sequence, b.constant(i, np.int64)) for i in (0, 1)]
    else:
        parts = [b.add("Identity", source)]
    return b.add("Concat", *parts, axis=1)


def expand(b: Builder) -> str:
    return b.add("Expand", b.pick(), b.ints(*b.draw(st.sampled_from([(2, 6), (1, 1), (6,)]))))


def matmul(b: Builder) -> str:
    weight = b.floats(6, 6)
    if b.draw(st.booleans()):
        weight = b.add("Transpose", weight, perm=[1, 0])
    return b.add("MatMul", b.pick(), weight)


def quantised_matmul(b: Builder) -> str:
    seed = b.draw(st.integers(0, 3))
    stored = np.random.default_rng(seed).integers(-9, 9, (6, 6)).astype(np.int8)
    weight = b.add("Cast", b.constant(stored), to=TensorProto.FLOAT)
    return b.add("MatMul", b.pick(), b.add("Mul", weight, b.constant(np.float32(0.25))))


def padded_convolution(b: Builder) -> str:
    data = b.add("Reshape", b.pick(), b.ints(1, 2, 6))
    pads = b.draw(st.sampled_from([(0, 0, 1, 0, 0, 1), (0, 0, 0, 0, 0, 0), (0, 0, 2, 0, 0, 0)]))
    if b.opset >= 11:
        padded = b.add("Pad", data, b.ints(*pads), b.constant(np.float32(0)))
    else:
        padded = b.add("Pad", data, pads=list(pads))
    inputs = [padded, b.floats(2, 2, 1 + pads[2] + pads[5])]
    if b.draw(st.booleans()):
        inputs.append(b.add("Expand", b.constant(np.float32([0])), b.ints(2)))
    return b.add("Reshape", b.add("Conv", *inputs), b.ints(2, 6))


def condition(b: Builder) -> str:
    outer = b.pick()
    inner = Builder(b.draw, b.opset, b.symbolic, values=[outer], count=b.count + 1000)
    arithmetic(inner)
    unary(inner)
    then_name = inner.nodes[-1].output[0]
    kind = helper.make_tensor_value_info
    then = helper.make_graph(
        inner.nodes, "then", [], [kind(then_name, TensorProto.FLOAT, None)], inner.inits
    )
    b.count = inner.count + 1
    other = b.name()
    otherwise = helper.make_graph(
        [helper.make_node("Identity", [outer], [other])],
        "else",
        [],
        [kind(other, TensorProto.FLOAT, None)],
    )
    return b.add("If", "flag", then_branch=then, else_branch=otherwise)


STEPS = (
    unary, arithmetic, casts, transposes, reshapes, shape_arithmetic, slices, halves, expand, matmul,
    quantised_matmul, padded_convolution, condition,
)  # fmt: skip


@st.composite
def graphs(draw: Draw) -> onnx.ModelProto:
    """Draw a model of inputs x [2, 6] (dimensions named or not) and flag, and a few outputs."""
    opset = draw(st.integers(9, 21))
    builder = Builder(draw, opset, symbolic=draw(st.booleans()))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=7)):
        builder.values.append(step(builder))
    made = builder.values[1:]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    kind = helper.make_tensor_value_info
    graph = helper.make_graph(
        builder.nodes,
        "g",
        [kind("x", TensorProto.FLOAT, ["n", "m"] if builder.symbolic else [2, 6]),
         kind("flag", TensorProto.BOOL, [])],
        [kind(name, TensorProto.FLOAT, None) for name in outputs],
        builder.inits,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
