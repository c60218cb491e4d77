"""A bias of its own for every layer: nothing changes until something is added, and then only that."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from sparsec.ir.bias import own_bias
from sparsec.ir.sites import weight_sites
from sparsec.ir.verify import verify
from tests.graphs import model, normal, run

node = helper.make_node
X = [2, 3, 8]


def conv(bias: bool = True):
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    weights = {"w": normal(4, 3, 3, seed=1)} | ({"b": normal(4, seed=2)} if bias else {})
    return model([node("Conv", inputs, ["y"], "layer")], {"x": [2, 3, 8]}, ["y"], weights), (-1, 1)


def gemm(c: np.ndarray | None, **attributes):
    inputs = ["x", "w"] if c is None else ["x", "w", "c"]
    weights = {"w": normal(5, 8, seed=1)} | ({} if c is None else {"c": c})
    layer = node("Gemm", inputs, ["y"], "layer", transB=1, **attributes)
    return model([layer], {"x": [3, 8]}, ["y"], weights), (-1,)


def gemm_left():
    layer = node("Gemm", ["w", "x", "c"], ["y"], "layer")
    weights = {"w": normal(5, 8, seed=1), "c": normal(1, 6, seed=2)}
    return model([layer], {"x": [8, 6]}, ["y"], weights), (-1, 1)


def matmul(*then: object, weight=(8, 5), x=(2, 3, 8), left: bool = False, shape=(-1,)):
    inputs = ["w", "x"] if left else ["x", "w"]
    nodes = [node("MatMul", inputs, ["h" if then else "y"], "layer"), *then]
    weights = {"w": normal(*weight, seed=1), "b": normal(5, seed=2)}
    return model(nodes, {"x": list(x)}, ["y"], weights), shape


CASES = {
    "conv": lambda: conv(),
    "conv without": lambda: conv(bias=False),
    "gemm": lambda: gemm(normal(5, seed=2)),
    "gemm without": lambda: gemm(None),
    "gemm scalar": lambda: gemm(normal(1, seed=2)),
    "gemm beta": lambda: gemm(normal(5, seed=2), beta=0.5, alpha=2.0),
    "gemm by row": lambda: gemm(normal(3, 5, seed=2)),
    "gemm left": gemm_left,
    "matmul": lambda: matmul(),
    "matmul add": lambda: matmul(node("Add", ["b", "h"], ["y"])),
    "matmul relu": lambda: matmul(node("Relu", ["h"], ["y"])),
    "matmul left": lambda: matmul(weight=(5, 3), x=(2, 3, 8), left=True, shape=(-1, 1)),
    "matmul batched": lambda: matmul(weight=(2, 8, 5), x=(2, 3, 8), shape=(2, 1, 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_added_is_all_that_changes(name: str):
    graph, shape = CASES[name]()
    (site,) = weight_sites(graph)
    sizes = [site.operand_shape[axis] for axis in site.layout.perm[: site.layout.row_axes]]
    x = {v.name: normal(*[int(s) for s in v.shape.numpy()], seed=9) for v in graph.graph.inputs}
    relu = name == "matmul relu"
    before = run(graph, x)["y"]
    bias = own_bias(site.node, site.index_in(site.node), tuple(sizes))
    verify(graph)
    np.testing.assert_allclose(run(graph, x)["y"], before, rtol=1e-6, atol=1e-6)
    shift = np.abs(normal(int(np.prod(sizes)), seed=5)) + 50  # every output ends up positive
    bias.add(shift)
    after = run(graph, x)["y"]
    if relu:
        assert (after > 0).all()
        return
    wanted = np.broadcast_to(before + shift.reshape(shape), before.shape)
    np.testing.assert_allclose(after, wanted, rtol=1e-5)


def test_a_shared_bias_is_copied():
    nodes = [
        node("Conv", ["x", "w", "b"], ["h"], "one"),
        node("Conv", ["x", "v", "b"], ["y"], "two"),
    ]
    weights = {"w": normal(4, 3, 3), "v": normal(4, 3, 3, seed=1), "b": normal(4, seed=2)}
    graph = model(nodes, {"x": [2, 3, 8]}, ["h", "y"], weights)
    x = {"x": normal(2, 3, 8, seed=3)}
    before = run(graph, x)
    site = next(iter(weight_sites(graph)))
    own_bias(site.node, 1, (4,)).add(np.ones(4))
    after = run(graph, x)
    np.testing.assert_allclose(after["h"], before["h"] + 1, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(after["y"], before["y"])
