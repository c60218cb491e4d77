"""What no rule follows is frozen, with the operator that froze it; nothing is guessed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from sparsec.ir.groups import find_groups
from tests.graphs import model, normal


def around(node: onnx.NodeProto, **options: object) -> ir.Model:
    """Put ``node``, which reads h and makes z of the same shape, between two convolutions."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h"], "first"),
        node,
        helper.make_node("Conv", ["z", "w1"], ["y"], "second"),
    ]
    weights = {"w0": normal(6, 3, 1, 1), "w1": normal(2, 6, 1, 1)}
    return model(nodes, {"x": [1, 3, 4, 4]}, ["y"], weights, **options)


def reason_of(graph: ir.Model, name: str = "first") -> str | None:
    groups = find_groups(graph)
    return {group.name: group.reason for group in (*groups.groups, *groups.frozen)}[name]


def test_without_a_barrier_channels_are_free():
    assert reason_of(around(helper.make_node("Relu", ["h"], ["z"], "act"))) is None


def test_an_operator_of_another_domain_is_a_barrier():
    node = helper.make_node("Mystery", ["h"], ["z"], "odd", domain="acme")
    reason = reason_of(around(node, domains=["acme"]))
    assert reason == "Mystery 'odd' has no rule for how its axes hang together"


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Softmax", ["h"], ["z"], "s", axis=1), "normalises over it"),
        (helper.make_node("LpNormalization", ["h"], ["z"], "n", axis=1), "normalises over it"),
        (helper.make_node("LRN", ["h"], ["z"], "n", size=3), "normalises over it"),
        (helper.make_node("Bernoulli", ["h"], ["z"], "b"), "has no rule"),
    ],
)
def test_operators_that_mix_channels_are_barriers(node: onnx.NodeProto, words: str):
    assert words in (reason_of(around(node)) or "")


def test_what_a_body_captures_is_frozen():
    shape = [1, 6, 4, 4]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("a", "b")]
    branches = [
        helper.make_graph([helper.make_node(op, ["h"], [i.name])], op, [], [i])
        for op, i in zip(("Relu", "Tanh"), info, strict=True)
    ]
    node = helper.make_node(
        "If", ["flag"], ["z"], "choose", then_branch=branches[0], else_branch=branches[1]
    )
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h"], "first"),
        node,
        helper.make_node("Conv", ["z", "w1"], ["y"], "second"),
    ]
    weights = {"w0": normal(6, 3, 1, 1), "w1": normal(2, 6, 1, 1), "flag": np.array(True)}
    graph = model(nodes, {"x": [1, 3, 4, 4]}, ["y"], weights)
    assert "has a body that reads it" in (reason_of(graph) or "")


def test_a_sum_over_what_does_not_vanish_is_a_barrier():
    """Queries behind a sigmoid are 0.5 where their weights are zero, and so are the keys."""
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q0"], "q"),
        helper.make_node("Sigmoid", ["q0"], ["q1"], "sq"),
        helper.make_node("MatMul", ["x", "wk"], ["k0"], "k"),
        helper.make_node("Sigmoid", ["k0"], ["k1"], "sk"),
        helper.make_node("Transpose", ["k1"], ["k2"], "t", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q1", "k2"], ["y"], "product"),
    ]
    weights = {"wq": normal(3, 6), "wk": normal(3, 6, seed=1)}
    reason = reason_of(model(nodes, {"x": [1, 5, 3]}, ["y"], weights), "q")
    assert "need not be zero there" in (reason or "")
