"""What is taken for one shape: equal on the feed, and on other sizes too."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.observe import observe_shapes, with_other_sizes
from sparsec.backends.cpu.plan import OpCode
from sparsec.backends.cpu.recognise import recognise
from sparsec.ir.sites import weight_sites
from tests.graphs import model, normal, tensor

N = helper.make_node


def items(graph: ir.Model, feed: dict[str, np.ndarray]) -> list[Item]:
    scene = Scene(graph, observe_shapes(graph, [feed]))
    return recognise(scene, weight_sites(graph))


def codes(graph: ir.Model, feed: dict[str, np.ndarray]) -> list[OpCode]:
    return [item.code for item in items(graph, feed)]


def residual(second: list[helper.NodeProto], **weights: np.ndarray) -> ir.Model:
    """``x @ w + r``, with r of the second nodes."""
    nodes = [*second, N("MatMul", ["x", "w"], ["h"], "h"), N("Add", ["h", "r"], ["y"], "sum")]
    return model(nodes, {"x": ["batch", "length", 8]}, ["y"], {"w": normal(8, 8), **weights})


def test_a_residual_of_the_same_axes_is_absorbed() -> None:
    graph = residual([N("Sin", ["x"], ["r"])])
    assert codes(graph, {"x": normal(1, 4, 8)}) == [OpCode.LINEAR]
    scene = Scene(graph, observe_shapes(graph, [{"x": normal(1, 4, 8)}]))
    shapes = scene.shapes(graph.graph.node("h").outputs[0], graph.graph.outputs[0])
    assert shapes is not None
    assert shapes[:2] == [((1, 4, 8),) * 2, ((2, 3, 8),) * 2]


@pytest.mark.parametrize("axis", [0, 1])
def test_a_value_that_is_broadcast_is_no_residual(axis: int) -> None:
    """At a batch, or a length, of 1 it has the shape of the others."""
    mean = N("ReduceMean", ["x", "axes"], ["r"], keepdims=1)
    graph = residual([mean], axes=np.array([axis]))
    shape = (1, 4, 8) if axis == 0 else (4, 1, 8)
    (item,) = items(graph, {"x": normal(*shape)})
    assert item.code is OpCode.LINEAR
    assert all(node.op_type != "Add" for node in item.nodes)


@pytest.mark.parametrize("operator", ["Add", "Mul"])
@pytest.mark.parametrize("sizes", [(1, 1), (4, 4)], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_axes_of_two_names_are_two_sizes_that_may_differ(
    operator: str, sizes: tuple[int, int], axis: int
) -> None:
    """They are equal on the feed, and must be unless one of them is 1."""
    nodes = [N("MatMul", ["x", "w"], ["h"], "h"), N(operator, ["h", "r"], ["y"], "sum")]
    shapes = {"x": ["batch", "length", 8], "r": ["batch", "length", 8]}
    shapes["r"][axis] = "other"
    graph = model(nodes, shapes, ["y"], {"w": normal(8, 8)})
    feed = {name: normal(4, 4, 8).take(range(sizes[i]), axis) for i, name in enumerate("xr")}
    (item,) = items(graph, feed)
    assert len(item.nodes) == 1


@pytest.mark.parametrize("second", [["n", 8, "height", "width"], ["n", 8, "h", "w"]], ids=str)
def test_images_are_a_residual_if_their_axes_have_the_same_names(second: list[object]) -> None:
    nodes = [N("Conv", ["x", "w"], ["h"], "h"), N("Add", ["h", "r"], ["y"], "sum")]
    shapes = {"x": ["n", 8, "height", "width"], "r": second}
    graph = model(nodes, shapes, ["y"], {"w": normal(8, 8, 1, 1)})
    (item,) = items(graph, {name: normal(1, 8, 4, 4) for name in "xr"})
    assert len(item.inputs) == (2 if second == shapes["x"] else 1)


def test_batches_of_two_names_that_must_agree_are_seen_together() -> None:
    """The model takes no batches that differ, but others than 1: what is broadcast shows."""
    nodes = [
        N("Concat", ["x", "z"], ["c"], axis=1), N("MatMul", ["c", "w"], ["h"], "h"),
        N("ReduceMean", ["c", "axes"], ["r"], keepdims=1), N("Add", ["h", "r"], ["y"], "sum"),
    ]  # fmt: skip
    weights = {"w": normal(8, 8), "axes": np.array([0])}
    graph = model(nodes, {"x": ["n", 4, 8], "z": ["m", 2, 8]}, ["y"], weights)
    (item,) = items(graph, {"x": normal(1, 4, 8), "z": normal(1, 2, 8)})
    assert len(item.inputs) == 1


def attention(queries: str) -> ir.Model:
    """Softmax(q k^T) v with two heads of 4."""
    nodes = []
    for name, source in (("q", queries), ("k", "x"), ("v", "x")):
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [
            N("Reshape", [source, "split"], [f"{name}s"]),
            N("Transpose", [f"{name}s"], [f"{name}t"], perm=perm),
        ]
    nodes += [
        N("MatMul", ["qt", "kt"], ["scores"]), N("Softmax", ["scores"], ["p"], axis=-1),
        N("MatMul", ["p", "vt"], ["mixed"]), N("Transpose", ["mixed"], ["m"], perm=[0, 2, 1, 3]),
        N("Reshape", ["m", "merge"], ["y"]),
    ]  # fmt: skip
    inputs = {"x": ["batch", "length", 8], "z": ["batch", "queries", 8]}
    weights = {"split": np.array([0, 0, 2, 4]), "merge": np.array([0, 0, 8])}
    return model(nodes, inputs, ["y"], weights)


def test_attention_to_another_sequence_is_none_of_ours() -> None:
    """Queries and keys of equal number are only so on the feed."""
    feed = {"x": normal(1, 5, 8), "z": normal(1, 5, 8)}
    assert codes(attention("x"), feed) == [OpCode.ATTENTION]
    assert codes(attention("z"), feed) == []


def test_other_sizes_differ_from_each_other_and_axes_of_one_name_agree() -> None:
    graph = model(
        [N("Add", ["x", "z"], ["s"]), N("MatMul", ["s", "w"], ["y"])],
        {"x": ["batch", "length", 8], "z": ["batch", 1, 8]}, ["y"], {"w": normal(8, 8)},
    )  # fmt: skip
    feed = {"x": normal(1, 3, 8), "z": normal(1, 1, 8)}
    every, leading, length = with_other_sizes(graph, feed)
    assert every["x"].shape == (2, 4, 8)
    assert every["z"].shape == (2, 1, 8)
    assert leading["x"].shape == (2, 3, 8)
    np.testing.assert_array_equal(leading["x"], np.repeat(feed["x"], 2, 0))
    assert length["x"].shape == (1, 1, 8)


def test_a_model_that_takes_one_size_only_is_seen_on_that() -> None:
    nodes = [
        N("Constant", [], ["s"], value=tensor("", np.array([1, 3, 8]))),
        N("Reshape", ["x", "s"], ["z"]), N("MatMul", ["z", "w"], ["y"], "h"),
    ]  # fmt: skip
    graph = model(nodes, {"x": ["batch", "length", 8]}, ["y"], {"w": normal(8, 8)})
    assert observe_shapes(graph, [{"x": normal(1, 3, 8)}])["y"] == [(1, 3, 8)]
    assert list(with_other_sizes(graph, {"x": normal(2, 3, 8)}))
    static = model([N("MatMul", ["x", "w"], ["y"])], {"x": [3, 8]}, ["y"], {"w": normal(8, 8)})
    assert not list(with_other_sizes(static, {"x": normal(3, 8)}))
