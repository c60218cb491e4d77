"""Models that are none, and one that no runtime knows the operator of."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def _named(name: bytes) -> bytes:
    """Return a model whose node has the given three bytes as its name."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "abc")], "g", value[:1], value[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString().replace(b"abc", name)


MODELS = [
    ("empty", b""),
    ("garbage", bytes(range(256)) * 4),
    ("text", b"this is no model\n"),
    ("zip", b"PK\x03\x04" + b"\0" * 64),
    ("name-not-utf8", _named(b"\xff\xfe\xff")),
    ("truncated", helper.make_model(
        helper.make_graph([], "g", [], [])
    ).SerializeToString()[:-3]),
]  # fmt: skip


def custom_operator() -> bytes:
    """Return a model with a layer that can be pruned, and an operator of an unknown domain."""
    weight = numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "fc"),
        helper.make_node("Mystery", ["h"], ["y"], "mystery", domain="com.example"),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], [weight])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
