"""The tiny graphs run, differ where they should, and hold their weights as they say."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from examples.zoo.tiny import TINY, odd_names

QUIET = ort.SessionOptions()
QUIET.log_severity_level = 3


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(model.SerializeToString(), QUIET).run(None, feed)


@pytest.mark.parametrize("name", TINY)
def test_every_graph_runs_and_depends_on_its_feed(name):
    tiny = TINY[name]
    model = tiny.model()
    answers = [run(model, feed) for feed in tiny.feeds(2, seed=3)]
    assert all(np.isfinite(each).all() for answer in answers for each in answer)
    assert not np.array_equal(answers[0][0], answers[1][0])


@pytest.mark.parametrize("name", TINY)
def test_the_same_seed_is_the_same_model(name):
    tiny = TINY[name]
    assert tiny.model(5) == tiny.model(5)
    assert tiny.model(5) != tiny.model(6)
    for left, right in zip(tiny.feeds(2), tiny.feeds(2), strict=True):
        for key, value in left.items():
            np.testing.assert_array_equal(value, right[key])


def test_literals_keep_every_bit_of_a_weight():
    tiny = TINY["constant_nodes"]
    model = tiny.model(seed=1)
    rng = np.random.default_rng(1)
    drawn = {name: draw(rng) for name, draw in tiny.weights.items()}
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    assert not model.graph.initializer
    for node in constants:
        value = onnx.numpy_helper.to_array(node.attribute[0].t)
        np.testing.assert_array_equal(value, drawn[node.output[0]])


def test_both_branches_of_the_if_are_reached():
    tiny = TINY["if_branches"]
    flags = {bool(feed["flag"]) for feed in tiny.feeds(8)}
    assert flags == {True, False}


def test_odd_names_run():
    (answer,) = run(odd_names(), {"input:0": np.ones((3, 8), np.float32)})
    assert answer.shape == (3, 8)
