"""N:M pruning along the axis that each operator sums over, and nothing else changed."""

import math

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sparsec.ir.patterns import NM
from sparsec.ir.sites import weight_sites
from sparsec.passes.base import PassContext, PassResult
from sparsec.passes.spec import parse_spec
from tests.graphs import matmul, model, normal, only_site, run

N = helper.make_node


def prune(graph: ir.Model, spec: str = "nm24") -> PassResult:
    return parse_spec(spec).run(graph, PassContext())


def stored(graph: ir.Model) -> np.ndarray:
    return graph.graph.initializers["w"].const_value.numpy()


def check_groups(before: np.ndarray, after: np.ndarray, axis: int, n: int, m: int) -> None:
    """Along ``axis``, exactly the n largest of every m values are unchanged and the others zero."""
    old = np.moveaxis(before, axis, -1).reshape(-1, m)
    new = np.moveaxis(after, axis, -1).reshape(-1, m)
    order = np.argsort(-np.abs(old.astype(np.float64)), axis=-1, kind="stable")
    for was, became, ranking in zip(old, new, order, strict=True):
        assert became[ranking[:n]].tobytes() == was[ranking[:n]].tobytes()
        assert not became[ranking[n:]].any()


@given(
    rank=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 3]),
    nm=st.sampled_from([(2, 4), (1, 4), (4, 8), (1, 2), (3, 5)]),
    seed=st.integers(0, 100),
)
def test_conv_groups_run_along_the_input_channels(rank, groups, nm, seed):
    n, m = nm
    weight = normal(2 * groups, 2 * m, *[2] * rank, seed=seed)
    node = N("Conv", ["x", "w"], ["y"], "conv", group=groups)
    size = [3] * rank
    graph = model([node], {"x": [1, 2 * m * groups, *size]}, ["y"], {"w": weight})
    result = prune(graph, f"nm:n={n},m={m}")
    assert (result.changed, result.skipped) == (["conv"], [])
    check_groups(weight, stored(graph), 1, n, m)
    assert graph.graph.initializers["w"].metadata_props == {"sparsec.pattern": f"{n}:{m}@1"}
    assert math.isclose(result.notes["sparsity"], 1 - n / m)


@pytest.mark.parametrize(
    ("op", "attributes", "side", "shape", "axis"),
    [
        ("Gemm", {"transB": 1}, 1, (6, 8), 1),
        ("Gemm", {"transB": 0}, 1, (8, 6), 0),
        ("Gemm", {"transA": 0}, 0, (6, 8), 1),
        ("Gemm", {"transA": 1}, 0, (8, 6), 0),
        ("MatMul", {}, 1, (8, 6), 0),
        ("MatMul", {}, 0, (6, 8), 1),
        ("MatMul", {}, 1, (3, 8, 6), 1),
        ("MatMul", {}, 0, (3, 6, 8), 2),
    ],
)
def test_products_are_pruned_along_their_sum(op, attributes, side, shape, axis):
    weight = normal(*shape)
    node = N(op, ["w", "x"] if side == 0 else ["x", "w"], ["y"], "layer", **attributes)
    graph = model([node], {"x": [None] * len(shape)}, ["y"], {"w": weight})
    prune(graph)
    check_groups(weight, stored(graph), axis, 2, 4)
    assert graph.graph.initializers["w"].metadata_props["sparsec.pattern"] == f"2:4@{axis}"


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floating_types_keep_their_values_bit_for_bit(dtype):
    weight = normal(8, 6).astype(dtype)
    graph = matmul(weight, dtype=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    prune(graph)
    assert stored(graph).dtype == weight.dtype
    check_groups(weight, stored(graph), 0, 2, 4)


def test_int8_behind_a_scale_is_pruned_by_what_it_multiplies_with():
    weight = np.random.default_rng(0).integers(-128, 128, (6, 8)).astype(np.int8)
    # With a scale along the reduction, the largest integer is not the largest weight.
    scale = np.random.default_rng(1).uniform(0.01, 1, (8,)).astype(np.float32)
    nodes = [
        N("Cast", ["w"], ["c"], to=TensorProto.FLOAT),
        N("Mul", ["c", "s"], ["d"]),
        N("Transpose", ["d"], ["t"], perm=[1, 0]),
        N("MatMul", ["x", "t"], ["y"], "layer"),
    ]
    graph = model(nodes, {"x": ["n", 8]}, ["y"], {"w": weight, "s": scale})
    prune(graph)
    real = weight * scale
    kept = stored(graph) != 0
    np.testing.assert_array_equal(stored(graph)[kept], weight[kept])
    NM(2, 4).check(stored(graph))
    best = np.sort(np.abs(real).reshape(6, 2, 4), axis=-1)[..., 2:].sum()
    np.testing.assert_allclose(np.abs(real[kept]).sum(), best, rtol=1e-6)


def test_zero_points_are_zeros():
    weight = np.random.default_rng(0).integers(0, 256, (8, 6)).astype(np.uint8)
    weights = {"w": weight, "s": np.float32(0.02), "z": np.uint8(131)}
    nodes = [
        N("DequantizeLinear", ["w", "s", "z"], ["d"]),
        N("MatMul", ["x", "d"], ["y"], "layer"),
    ]
    graph = model(nodes, {"x": ["n", 8]}, ["y"], weights)
    prune(graph)
    changed = stored(graph) != weight
    assert np.all(stored(graph)[changed] == 131)
    NM(2, 4).check(only_site(graph).matrix())


def test_the_pruned_model_computes_with_the_masked_weights():
    """Outputs equal those of float64 numpy on the mask applied by hand."""
    first, second = normal(16, 12), normal(12, 8, seed=1)
    nodes = [
        N("MatMul", ["x", "u"], ["a"], "first"),
        N("Relu", ["a"], ["b"]),
        N("Gemm", ["b", "v"], ["y"], "second", alpha=0.5),
    ]
    graph = model(nodes, {"x": ["n", 16]}, ["y"], {"u": first, "v": second})
    assert prune(graph).changed == ["first", "second"]

    def masked(weight):
        groups = np.abs(weight.T.astype(np.float64)).reshape(weight.shape[1], -1, 4)
        rank = np.argsort(np.argsort(-groups, axis=-1, kind="stable"), axis=-1, kind="stable")
        return weight * (rank < 2).reshape(weight.shape[1], -1).T

    x = normal(5, 16, seed=2)
    expected = 0.5 * np.maximum(x.astype(np.float64) @ masked(first), 0) @ masked(second)
    np.testing.assert_allclose(run(graph, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


def test_a_tied_weight_is_pruned_once():
    nodes = [N("MatMul", ["x", "w"], ["a"], "a"), N("MatMul", ["a", "w"], ["y"], "b")]
    graph = model(nodes, {"x": ["n", 8]}, ["y"], {"w": normal(8, 8)})
    assert prune(graph).changed == ["w"]
    assert [node.name for node in only_site(graph).nodes] == ["a", "b"]


def layers() -> ir.Model:
    """One layer for every reason to leave a layer alone."""
    weights = {
        "odd": normal(6, 8),
        "one": normal(1, 8),
        "nan": np.full((8, 8), np.nan, np.float32),
        "good": normal(8, 8),
        "empty": normal(0, 8),
        "dft": np.sin(2 * np.pi * np.outer(np.arange(64), np.arange(33)) / 64).astype(np.float32),
        "dw": normal(4, 1, 3, 3),
    }
    nodes = [
        *(N("MatMul", [f"x_{n}", n], [f"y_{n}"], f"layer_{n}") for n in weights if n != "dw"),
        N("Conv", ["x_dw", "dw"], ["y_dw"], "layer_dw", group=4),
    ]
    inputs = {f"x_{n}": ["n", w.shape[0]] for n, w in weights.items() if n != "dw"}
    inputs["x_dw"] = ["n", 4, 8, 8]
    return model(nodes, inputs, [f"y_{n}" for n in weights], weights)


def test_every_layer_left_alone_has_a_code_and_a_reason():
    graph = layers()
    result = prune(graph)
    assert result.changed == ["layer_good"]
    assert {skip.site: str(skip.code) for skip in result.skipped} == {
        "layer_odd": "reduction_not_multiple",
        "layer_one": "too_small",
        "layer_nan": "not_finite",
        "layer_empty": "too_small",
        "layer_dft": "fixed_transform",
        "layer_dw": "depthwise",
    }
    assert all(skip.reason and not skip.reason.endswith(".") for skip in result.skipped)
    for site in weight_sites(graph):
        assert (site.pattern is not None) == (site.name == "layer_good")


def test_filters_skip_with_the_reason():
    reasons = {
        "include=^a": "layer_good",
        "exclude=good": "layer_good",
        "ops=Conv": "layer_good",
    }
    for option, name in reasons.items():
        (skip,) = [s for s in prune(layers(), f"nm24:{option}").skipped if s.site == name]
        assert str(skip.code) == "excluded"


def test_a_second_run_changes_nothing():
    graph = matmul(normal(8, 6))
    prune(graph)
    first = stored(graph).copy()
    result = prune(graph)
    assert result.changed == []
    assert str(result.skipped[0].code) == "already_sparse"
    assert stored(graph).tobytes() == first.tobytes()


@given(seed=st.integers(0, 20))
def test_masks_are_idempotent(seed):
    """Pruning what already follows the pattern keeps it as it is."""
    graph = matmul(normal(8, 6, seed=seed))
    prune(graph)
    first = stored(graph).copy()
    graph.graph.initializers["w"].metadata_props.clear()
    assert prune(graph).changed == ["layer"]
    assert stored(graph).tobytes() == first.tobytes()


def test_the_same_model_gives_the_same_bytes():
    ties = np.random.default_rng(0).integers(-2, 3, (16, 12)).astype(np.float32)
    results = set()
    for _ in range(2):
        graph = matmul(ties)
        prune(graph)
        results.add(ir.to_proto(graph).SerializeToString(deterministic=True))
    assert len(results) == 1
