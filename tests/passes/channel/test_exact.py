"""The exact tier: what goes is found, nothing else goes, and the output is the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.ir.groups import find_groups
from sparsec.ir.replay import relative_difference
from sparsec.passes.base import PassContext
from sparsec.passes.spec import parse_spec
from tests.passes.channel.small_convs import two_convs
from tests.structure.random_structure import random_model
from tests.structure.test_structure_random import outputs


def exact(model: ir.Model) -> dict[str, float]:
    result = parse_spec("prune-exact").run(model, PassContext())
    return {key: value for key, value in result.notes.items() if value}


def array(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy().copy()


def put(model: ir.Model, name: str, value: np.ndarray) -> None:
    model.graph.initializers[name].const_value = ir.tensor(value, name=name)


@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
def test_zero_filters_go(activation: str):
    model = two_convs(activation)
    for name in ("w0", "b0"):
        weight = array(model, name)
        weight[[1, 5]] = 0
        put(model, name, weight)
    before = outputs(model, 0)
    assert exact(model) == {"zero": 2}
    assert array(model, "w0").shape[0] == 6
    assert relative_difference(outputs(model, 0), before) < 1e-5


def test_zero_filters_stay_where_zero_becomes_something_else():
    model = two_convs("Sigmoid")
    for name in ("w0", "b0"):
        weight = array(model, name)
        weight[1] = 0
        put(model, name, weight)
    assert exact(model) == {}


def test_a_bias_keeps_its_channel_where_the_border_sees_zeros_instead():
    model = two_convs("Relu")
    weight = array(model, "w0")
    weight[1] = 0
    put(model, "w0", weight)
    assert exact(model) == {}


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid"])
def test_channels_that_nobody_reads_go(activation: str):
    model = two_convs(activation)
    weight = array(model, "w1")
    weight[:, [0, 3, 4]] = 0
    put(model, "w1", weight)
    before = outputs(model, 0)
    assert exact(model) == {"unread": 3}
    assert relative_difference(outputs(model, 0), before) < 1e-5


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid"])
def test_copies_are_merged(activation: str):
    model = two_convs(activation)
    for name in ("w0", "b0"):
        weight = array(model, name)
        weight[[2, 6]] = weight[4]
        put(model, name, weight)
    before = outputs(model, 0)
    assert exact(model) == {"duplicates": 2}
    assert relative_difference(outputs(model, 0), before) < 1e-5


def test_the_last_channel_stays():
    model = two_convs("Relu")
    for name in ("w0", "b0"):
        put(model, name, np.zeros_like(array(model, name)))
    before = outputs(model, 0)
    assert exact(model) == {"zero": 7}
    assert array(model, "w0").shape[0] == 1
    assert relative_difference(outputs(model, 0), before) < 1e-5


@pytest.mark.parametrize(
    "first", [0, 30, *(pytest.param(n, marks=pytest.mark.slow) for n in range(60, 300, 30))]
)
def test_random_graphs_return_the_same(first: int):
    """Units of random graphs are zeroed, or made copies of each other; then the exact tier runs."""
    removed = 0
    for seed in range(first, first + 30):
        model = random_model(seed)
        rng = np.random.default_rng(seed)
        for group in find_groups(model):
            for member in group.members:
                if rng.random() < 0.7:
                    weight = array(model, member.tensor)
                    rows = rng.integers(0, weight.shape[member.axis], 3)
                    moved = np.moveaxis(weight, member.axis, 0)
                    moved[rows] = 0 if rng.random() < 0.6 else moved[rows[0]]
                    put(model, member.tensor, weight)
        before = outputs(model, seed)
        removed += sum(exact(model).values())
        after = outputs(model, seed)
        scale = max(0.01, *(float(np.abs(value).max()) for value in before.values()))
        assert all(np.abs(after[k] - before[k]).max() < 1e-5 * scale for k in before), seed
    assert removed > 20
