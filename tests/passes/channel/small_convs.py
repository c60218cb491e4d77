"""A net small enough to say what should become of each of its channels."""

from __future__ import annotations

import onnx_ir as ir
from onnx import helper

from tests.graphs import model, normal


def two_convs(activation: str) -> ir.Model:
    """Conv of 8 channels, an activation, a second convolution and a mean; reads x [1, 3, 4, 4]."""
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["h"], "first", pads=[1, 1, 1, 1]),
        helper.make_node(activation, ["h"], ["a"], "act"),
        helper.make_node("Conv", ["a", "w1"], ["z"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["z"], ["y"], "pool"),
    ]
    weights = {
        "w0": normal(8, 3, 3, 3, seed=0),
        "b0": normal(8, seed=1),
        "w1": normal(2, 8, 3, 3, seed=2),
    }
    return model(nodes, {"x": [1, 3, 4, 4]}, ["y"], weights)
