"""Classifiers behind pooled images: one region, whatever makes rows of the pixels."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from sparsec.backends.cpu.assemble import build_plan
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cpu.candidate import region_model
from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.library import library_path
from sparsec.backends.cpu.observe import observe_shapes
from sparsec.backends.cpu.plan import Kind, OpCode
from sparsec.backends.cpu.recognise import recognise
from sparsec.backends.cpu.regions import grow_regions
from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import weight_sites
from tests.backends.cpu.layers import NEEDS_LIBRARY, sparse_matrix
from tests.graphs import model, normal

pytestmark = NEEDS_LIBRARY

FEEDS = [{"x": normal(batch, 6, 5, 7)} for batch in (2, 1, 3)]
FLATTEN = {
    "flatten": helper.make_node("Flatten", ["pooled"], ["rows"]),
    "reshape": helper.make_node("Reshape", ["pooled", "shape"], ["rows"]),
    "squeeze": helper.make_node("Squeeze", ["pooled", "axes"], ["rows"]),
}


def classifier(flatten: str, *more: object) -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {
        "w0": sparse_matrix(rng, 32, 6, 0.5).reshape(32, 6, 1, 1),
        "w1": np.ascontiguousarray(sparse_matrix(rng, 10, 32, 0.6).T),
        "b1": normal(10),
        "shape": np.array([0, -1], np.int64),
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], "conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["pooled"]),
        FLATTEN[flatten],
        helper.make_node("Gemm", ["rows", "w1", "b1"], ["h"], "head"),
        helper.make_node("Relu", ["h"], ["y"]),
        *more,
    ]
    return model(nodes, {"x": ["n", 6, "height", "width"]}, ["y"], weights)


def found(graph: ir.Model) -> tuple[Scene, list[Item]]:
    scene = Scene(graph, observe_shapes(graph, FEEDS[:1]))
    return scene, recognise(scene, weight_sites(graph))


@pytest.mark.parametrize("flatten", FLATTEN)
def test_the_classifier_joins_the_region_of_the_images(flatten: str, tmp_path: Path) -> None:
    graph = classifier(flatten)
    scene, items = found(graph)
    assert [item.code for item in items] == [
        OpCode.LINEAR, OpCode.GLOBAL_AVERAGE_POOL, OpCode.LINEAR,
    ]  # fmt: skip
    assert (items[-1].flat, items[-1].kind) == (True, Kind.IMAGE)
    (region,) = grow_regions(scene, items, lambda item: True)
    assert {node.op_type for node in region.nodes} >= {flatten.capitalize(), "Gemm", "Relu"}
    part = region_model(graph, region, build_plan(scene, region).to_bytes())
    library = library_path()
    assert library is not None
    ours, stock = OrtRunner(part, libraries=[library]), OrtRunner(graph)
    ir.save(part, tmp_path / "part.onnx")
    dense = CpuBackend().densify(ir.load(tmp_path / "part.onnx"), tmp_path)
    assert [site.size for site in weight_sites(dense)] == [32 * 6, 10 * 32]
    back = OrtRunner(dense)
    for feed in FEEDS:
        want = stock.run(feed)["y"]
        for got in (ours.run(feed)["y"], back.run(feed)["y"]):
            assert got.shape == want.shape
            assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_rows_of_a_computed_shape_that_others_read_or_of_more_pixels_stay_outside() -> None:
    graph = classifier("reshape")
    nodes = [
        helper.make_node("Shape", ["pooled"], ["all"]),
        helper.make_node("Slice", ["all", "zero", "two"], ["shape"]),
    ]
    proto = ir.to_proto(graph)
    del proto.graph.initializer[[each.name for each in proto.graph.initializer].index("shape")]
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.array([number], np.int64), name)
        for name, number in (("zero", 0), ("two", 2))
    )
    for node in reversed(nodes):
        proto.graph.node.insert(2, node)
    _, items = found(ir.from_proto(proto))
    assert not any(item.flat for item in items)
    others = classifier("flatten", helper.make_node("Neg", ["rows"], ["z"]))
    _, items = found(others)
    assert not any(item.flat for item in items)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], "conv"),
        helper.make_node("Flatten", ["c"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w1"], ["y"], "head"),
    ]
    weights = {"w0": normal(4, 6, 5, 7), "w1": normal(4, 3)}
    _, items = found(model(nodes, {"x": ["n", 6, 5, 7]}, ["y"], weights))
    assert not any(item.flat for item in items)  # one pixel here, for this size of image
    assert len(items) == 2
