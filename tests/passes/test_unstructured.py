"""Unstructured pruning: exactly the zeros asked for, in each layer or in all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from sparsec.ir.errors import PassConfigError
from sparsec.ir.sites import weight_sites
from sparsec.passes.base import PassContext
from sparsec.passes.spec import parse_spec
from tests.graphs import matmul, model, normal

N = helper.make_node


def stack(*weights):
    """A chain of square products; the layers are called layer0, layer1, ..."""
    nodes, value = [], "x"
    for index, _ in enumerate(weights):
        nodes.append(N("MatMul", [value, f"w{index}"], [f"v{index}"], f"layer{index}"))
        value = f"v{index}"
    named = {f"w{index}": weight for index, weight in enumerate(weights)}
    return model(nodes, {"x": ["n", weights[0].shape[0]]}, [value], named)


def prune(graph, spec):
    return parse_spec(spec).run(graph, PassContext())


def values(graph):
    return {name: v.const_value.numpy() for name, v in graph.graph.initializers.items()}


@given(sparsity=st.floats(0.01, 0.99), seed=st.integers(0, 50), rows=st.integers(2, 12))
def test_a_layer_loses_the_smallest_weights_and_no_others(sparsity, seed, rows):
    weight = normal(rows, 7, seed=seed)
    graph = matmul(weight)
    result = prune(graph, f"unstructured:sparsity={sparsity!r}")
    after = values(graph)["w"]
    zeros = round(weight.size * sparsity)
    assert np.count_nonzero(after == 0) == zeros
    assert after[after != 0].tobytes() == weight[after != 0].tobytes()
    lost, left = np.abs(weight[after == 0]), np.abs(weight[after != 0])
    if lost.size and left.size:
        assert lost.max() <= left.min()
    assert result.notes["sparsity"] == zeros / weight.size


@given(sparsity=st.floats(0.05, 0.9), seed=st.integers(0, 50), ties=st.booleans())
def test_a_global_budget_is_one_sort_over_all_layers(sparsity, seed, ties):
    rng = np.random.default_rng(seed)
    scales = (0.1, 1.0, 3.0)
    weights = [(rng.standard_normal((6, 6)) * scale).astype(np.float32) for scale in scales]
    if ties:
        weights = [np.round(weight) for weight in weights]
    graph = stack(*weights)
    prune(graph, f"unstructured:sparsity={sparsity!r},scope=global")

    # In the order in which a site is read: rows are outputs.
    flat = np.concatenate([np.abs(weight.T).ravel() for weight in weights])
    keep = flat.size - round(flat.size * sparsity)
    chosen = np.zeros(flat.size, bool)
    chosen[np.argsort(-flat, kind="stable")[:keep]] = True
    for index, (weight, part) in enumerate(zip(weights, np.split(chosen, 3), strict=True)):
        if not part.any():  # no layer is cut
            part[np.argmax(np.abs(weight.T).ravel())] = True
        expected = np.where(part.reshape(6, 6).T, weight, 0)
        np.testing.assert_array_equal(values(graph)[f"w{index}"], expected)


def test_layers_that_are_left_alone_take_no_part_in_the_budget():
    graph = stack(normal(6, 6), normal(6, 6, seed=1))
    prune(graph, "unstructured:sparsity=0.5,scope=global,exclude=layer1")
    assert np.count_nonzero(values(graph)["w0"]) == 18
    assert np.count_nonzero(values(graph)["w1"]) == 36


def test_the_pattern_is_recorded():
    graph = matmul(normal(6, 6))
    prune(graph, "unstructured:sparsity=0.5")
    (site,) = weight_sites(graph)
    assert site.weight.metadata_props == {"sparsec.pattern": "unstructured@0"}


def test_a_sparsity_left_open_says_how_to_settle_it():
    with pytest.raises(PassConfigError, match="needs sparsity="):
        prune(matmul(normal(6, 6)), "unstructured")


@pytest.mark.parametrize("value", ["0", "1", "-0.5", "nan", "2"])
def test_what_is_no_sparsity_is_refused(value):
    with pytest.raises(PassConfigError, match="fraction of zeros"):
        parse_spec(f"unstructured:sparsity={value}")
