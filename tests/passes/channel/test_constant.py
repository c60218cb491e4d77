"""Constant channels: folded into the next bias where that is exact, left alone where it is not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from sparsec.ir.constant_channels import constant_channels
from sparsec.passes.base import PassContext, PassResult
from sparsec.passes.pipeline import Pipeline
from tests.graphs import model, normal, run

node = helper.make_node
CONSTANT = [1, 4, 6]


def prune(graph: ir.Model) -> PassResult:
    (step,) = Pipeline.parse(["prune-exact"]).run(graph, PassContext())
    return step.result


def sparse_rows(*shape: int, seed: int = 0) -> np.ndarray:
    """Return filters of which those at CONSTANT are zero."""
    array = normal(*shape, seed=seed)
    array[CONSTANT] = 0
    return array


def normed(activation: str, *rest, bias: bool, **weights):
    """Conv -> BatchNormalization of which three scales are zero -> activation -> rest."""
    gamma = normal(8, seed=1)
    gamma[CONSTANT] = 0
    nodes = [
        node("Conv", ["x", "w0"], ["h"], "first", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["h", "gamma", "beta", "mean", "var"], ["n"], "norm"),
        node(activation, ["n"], ["a"], "act"),
        *rest,
    ]
    values = {
        "w0": normal(8, 3, 3, 3),
        "gamma": gamma,
        "beta": normal(8, seed=2) + 1,
        "mean": normal(8, seed=3),
        "var": np.abs(normal(8, seed=4)) + 0.5,
        **weights,
        **({"b1": normal(5, seed=6)} if bias else {}),
    }
    return model(nodes, {"x": [2, 3, 6, 6]}, ["y"], values)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "HardSwish"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_scale_of_zero_is_folded_into_the_next_bias(activation, kernel, bias):
    inputs = ["a", "w1", "b1"] if bias else ["a", "w1"]
    last = node("Conv", inputs, ["y"], "second", strides=[2, 2])
    graph = normed(activation, last, bias=bias, w1=normal(5, 8, kernel, kernel, seed=5))
    x = {"x": normal(2, 3, 6, 6, seed=9)}
    before = run(graph, x)["y"]
    result = prune(graph)
    assert result.notes["constant"] + result.notes["zero"] == 3
    assert result.notes["unread"] == 0
    assert graph.graph.initializers["w1"].shape[1] == 5
    np.testing.assert_allclose(run(graph, x)["y"], before, rtol=1e-4, atol=1e-5)


def test_a_padded_reader_keeps_it_and_says_why():
    last = node("Conv", ["a", "w1"], ["y"], "second", pads=[1, 1, 1, 1])
    graph = normed("Sigmoid", last, bias=False, w1=normal(5, 8, 3, 3, seed=5))
    result = prune(graph)
    assert graph.graph.initializers["w1"].shape[1] == 8
    (why,) = [item.reason for item in result.skipped if item.site == "first"]
    assert why == "3 of its channels are constant but not zero, and second pads them with zeros"


def test_what_becomes_zero_behind_a_relu_may_be_padded():
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["h"], "first"),
        node("Relu", ["h"], ["a"]),
        node("Conv", ["a", "w1"], ["y"], "second", pads=[1, 1, 1, 1]),
    ]
    weights = {
        "w0": sparse_rows(8, 3, 1, 1),
        "b0": -np.abs(normal(8, seed=1)),
        "w1": normal(5, 8, 3, 3, seed=2),
    }
    graph = model(nodes, {"x": [1, 3, 6, 6]}, ["y"], weights)
    x = {"x": normal(1, 3, 6, 6, seed=9)}
    before = run(graph, x)["y"]
    assert prune(graph).notes["constant"] == 3
    np.testing.assert_allclose(run(graph, x)["y"], before, rtol=1e-5, atol=1e-6)


def test_through_pooling_flattening_and_a_classifier():
    last = [
        node("MaxPool", ["a"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[3, 3]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w1", "b1"], ["y"], "head", transB=1, alpha=0.5, beta=2.0),
    ]
    graph = normed("Tanh", *last, bias=True, w1=normal(5, 8 * 4, seed=5))
    x = {"x": normal(2, 3, 6, 6, seed=9)}
    before = run(graph, x)["y"]
    assert prune(graph).notes["constant"] == 3
    assert graph.graph.initializers["w1"].shape[1] == 5 * 4
    np.testing.assert_allclose(run(graph, x)["y"], before, rtol=1e-4, atol=1e-5)


def test_a_residual_is_constant_where_both_sides_are():
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["a"], "left"),
        node("Conv", ["x", "w1", "b1"], ["b"], "right"),
        node("Add", ["a", "b"], ["c"]),
        node("Conv", ["c", "w2"], ["y"], "reader"),
    ]
    weights = {
        "w0": sparse_rows(8, 3, 1, 1),
        "b0": normal(8, seed=1),
        "w1": sparse_rows(8, 3, 1, 1, seed=2),
        "b1": normal(8, seed=3),
        "w2": normal(5, 8, 1, 1, seed=4),
    }
    weights["w1"][CONSTANT[0]] = 1
    graph = model(nodes, {"x": [1, 3, 6, 6]}, ["y"], weights)
    x = {"x": normal(1, 3, 6, 6, seed=9)}
    before = run(graph, x)["y"]
    assert prune(graph).notes["constant"] == 2
    np.testing.assert_allclose(run(graph, x)["y"], before, rtol=1e-5, atol=1e-5)


def test_what_is_multiplied_by_something_that_varies_is_not_constant():
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["a"], "first"),
        node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        node("Mul", ["a", "m"], ["b"]),
        node("Conv", ["b", "w1"], ["y"], "reader"),
    ]
    weights = {
        "w0": sparse_rows(8, 3, 1, 1),
        "b0": normal(8, seed=1),
        "w1": normal(5, 8, 1, 1, seed=4),
        "axes": np.array([1]),
    }
    graph = model(nodes, {"x": [1, 3, 6, 6]}, ["y"], weights)
    assert prune(graph).notes.get("constant", 0) == 0


def test_a_linear_layer_on_constants_is_constant():
    nodes = [
        node("MatMul", ["x", "w0"], ["a"], "first"),
        node("Add", ["a", "b0"], ["b"]),
        node("MatMul", ["b", "w1"], ["y"], "second"),
    ]
    weights = {
        "w0": sparse_rows(8, 3).T.copy(),
        "b0": normal(8, seed=1),
        "w1": normal(8, 4, seed=2),
    }
    weights["w1"][:, 0] = 0
    weights["w1"][CONSTANT, 0] = 1
    graph = model(nodes, {"x": [5, 3]}, ["y"], weights)
    found = constant_channels(graph)
    (second,) = [v for v in found if v.name == "y"]
    assert found[second].varies.tolist() == [False, True, True, True]
    expected = run(graph, {"x": normal(5, 3, seed=9)})["y"][:, 0]
    np.testing.assert_allclose(found[second].numbers[0], expected, rtol=1e-5)
    x = {"x": normal(5, 3, seed=8)}
    before = run(graph, x)["y"]
    assert prune(graph).notes["constant"] == 3
    np.testing.assert_allclose(run(graph, x)["y"], before, rtol=1e-5, atol=1e-5)
