"""Weights behind Cast, Mul, Transpose, Identity and DequantizeLinear are edited where they are stored."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sparsec.ir.codes import Code
from sparsec.ir.sites import weight_sites
from tests.graphs import model, normal, only_site, run

N = helper.make_node
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def chain(nodes, weights, reduction):
    """``y = x @ (chain of w)``; the chain ends in ``v``."""
    nodes = [*nodes, N("MatMul", ["x", "v"], ["y"], "m")]
    return model(nodes, {"x": ["n", reduction]}, ["y"], weights)


def int8(seed, shape=(8, 6)):
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def scales(seed, shape):
    return np.random.default_rng(seed).uniform(1e-4, 0.3, shape).astype(np.float32)


def cast_mul(seed):
    nodes = [N("Cast", ["w"], ["c"], to=FLOAT), N("Mul", ["c", "s"], ["v"])]
    return chain(nodes, {"w": int8(seed), "s": scales(seed, (6,))}, 8)


def mul_of_floats(seed):
    nodes = [N("Mul", ["s", "w"], ["v"])]
    return chain(nodes, {"w": normal(8, 6, seed=seed), "s": scales(seed, (8, 1))}, 8)


def narrowing_cast(seed):
    nodes = [N("Cast", ["w"], ["h"], to=FLOAT16), N("Cast", ["h"], ["v"], to=FLOAT)]
    return chain(nodes, {"w": normal(8, 6, seed=seed)}, 8)


def dequantize(axis, zero):
    def build(seed):
        size = (8, 6)[axis]
        weights = {"w": int8(seed), "s": scales(seed, (size,))}
        if zero:
            weights["z"] = int8(seed + 1, (size,))
        names = ["w", "s", "z"] if zero else ["w", "s"]
        nodes = [
            N("DequantizeLinear", names, ["d"], axis=axis),
            N("Transpose", ["d"], ["t"], perm=[1, 0]),
            N("Identity", ["t"], ["v"]),
        ]
        return chain(nodes, weights, 6)

    return build


def dequantize_scalar(seed):
    weights = {
        "w": int8(seed).view(np.uint8),
        "s": np.float32(0.013),
        "z": np.uint8(117),
    }
    return chain([N("DequantizeLinear", ["w", "s", "z"], ["v"])], weights, 8)


CHAINS = [
    cast_mul, mul_of_floats, narrowing_cast, dequantize_scalar,
    dequantize(0, False), dequantize(1, True),
]  # fmt: skip


@pytest.mark.parametrize("build", CHAINS)
@given(seed=st.integers(0, 10))
def test_the_matrix_is_what_the_node_multiplies_with(build, seed):
    graph = build(seed)
    site = only_site(graph)
    x = np.eye(site.shape[1], dtype=np.float32)
    np.testing.assert_allclose(run(graph, {"x": x})["y"], site.matrix().T, rtol=1e-6)


@pytest.mark.parametrize("build", CHAINS)
@given(seed=st.integers(0, 10), sparsity=st.sampled_from([0.0, 0.3, 1.0]))
def test_masking_keeps_the_other_stored_values_bit_for_bit(build, seed, sparsity):
    graph = build(seed)
    site = only_site(graph)
    before = site.weight.const_value.numpy().copy()
    matrix = site.matrix()
    mask = np.random.default_rng(seed).random(matrix.shape) >= sparsity
    site.write_matrix(np.where(mask, matrix, np.float32(0)))

    np.testing.assert_array_equal(site.matrix(), np.where(mask, matrix, 0))
    after = site.weight.const_value.numpy()
    assert after.dtype == before.dtype
    where = site.to_operand(mask)
    for step in reversed(site.steps):
        if type(step).__name__ == "TransposeStep":
            where = step.backward(where)
    assert after[where].tobytes() == before[where].tobytes()
    x = np.eye(site.shape[1], dtype=np.float32)
    np.testing.assert_allclose(run(graph, {"x": x})["y"], site.matrix().T, rtol=1e-6)


def test_a_per_axis_scale_of_one_row_broadcasts():
    """A scale [6] runs along the last axis, [8, 1] along the first: both are the weight's scale."""
    for shape in ((6,), (1, 6), (8, 1), ()):
        nodes = [N("Mul", ["w", "s"], ["v"])]
        site = only_site(chain(nodes, {"w": normal(8, 6), "s": scales(0, shape)}, 8))
        assert site.weight.name == "w"
        assert site.shape == (6, 8)


@pytest.mark.parametrize(
    ("nodes", "weights", "reader"),
    [
        # Two factors of one size could each be the weight; a scale with a zero cannot be undone.
        (
            [N("Mul", ["w", "s"], ["v"])],
            {"w": normal(8, 6), "s": normal(8, 6, seed=1)},
            "Mul",
        ),
        ([N("Mul", ["w", "w"], ["v"])], {"w": normal(8, 6)}, "Mul"),
        (
            [N("Mul", ["w", "s"], ["v"])],
            {"w": normal(8, 6), "s": np.zeros((6,), np.float32)},
            "Mul",
        ),
        # A scale that makes the product larger than the stored tensor.
        ([N("Mul", ["w", "s"], ["v"])], {"w": normal(1, 6), "s": scales(0, (8, 1))}, "Mul"),
        # Integers that float16 cannot hold.
        (
            [N("Cast", ["w"], ["h"], to=FLOAT16), N("Cast", ["h"], ["v"], to=FLOAT)],
            {"w": np.arange(48, dtype=np.int16).reshape(8, 6)},
            "Cast",
        ),
        (
            [N("DequantizeLinear", ["w", "s"], ["v"], axis=1)],
            {"w": int8(0).astype(ml_dtypes.int4), "s": scales(0, (6,))},
            "DequantizeLinear",
        ),
    ],
)
def test_what_cannot_be_undone_is_no_site_and_says_so(nodes, weights, reader):
    found = weight_sites(chain(nodes, weights, 8))
    assert not found.sites
    (other,) = found.others
    assert other.code is Code.NOT_A_SITE
    assert reader in other.reason


def test_a_stored_tensor_read_by_something_else_behind_a_step_is_shared():
    nodes = [
        N("Transpose", ["w"], ["v"], perm=[1, 0]),
        N("ReduceSum", ["v"], ["r"], keepdims=0),
    ]
    graph = chain(nodes, {"w": normal(6, 8)}, 8)
    (other,) = weight_sites(graph).others
    assert other.code is Code.SHARED
    assert "ReduceSum" in other.reason
