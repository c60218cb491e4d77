"""Recognising and growing regions, and whole networks against ONNX Runtime."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from examples.zoo.benchnets import BUILDERS, benchmark_input, bert4
from sparsec.backends.cpu.assemble import build_plan
from sparsec.backends.cpu.candidate import region_model
from sparsec.backends.cpu.choose import is_sparse
from sparsec.backends.cpu.densify import densify_model
from sparsec.backends.cpu.items import Scene
from sparsec.backends.cpu.library import library_path
from sparsec.backends.cpu.observe import observe_shapes
from sparsec.backends.cpu.plan import OpCode
from sparsec.backends.cpu.recognise import recognise
from sparsec.backends.cpu.regions import grow_regions, trimmed
from sparsec.ir.cleanup import clean_up
from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import weight_sites
from tests.backends.cpu.layers import NEEDS_LIBRARY, sparse_matrix
from tests.graphs import model as graph
from tests.graphs import normal

pytestmark = NEEDS_LIBRARY


def scene_of(model: ir.Model, feeds: dict[str, np.ndarray]) -> Scene:
    return Scene(model, observe_shapes(model, [feeds]))


def test_a_region_never_reads_what_it_makes_through_the_outside() -> None:
    """x -> A -> (Sin) -> B with A -> B too: A and B may not be one region."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(sparse_matrix(rng, 16, 16, 0.5), name) for name in ("a", "b", "c")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], "A"),
        helper.make_node("Sin", ["p"], ["q"], "outside"),
        helper.make_node("MatMul", ["q", "b"], ["r"], "B"),
        helper.make_node("Add", ["r", "p"], ["s"], "sum"),
        helper.make_node("MatMul", ["s", "c"], ["y"], "C"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 16])], weights,
    )  # fmt: skip
    model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    scene = scene_of(model, {"x": rng.standard_normal((8, 16)).astype(np.float32)})
    items = recognise(scene, weight_sites(model))
    regions = grow_regions(scene, items, lambda item: True)
    assert [[i.nodes[0].name for i in r.items] for r in regions] == [["A"], ["B", "C"]]
    assert items[1].code is OpCode.LINEAR
    assert len(items[1].inputs) == 2, "B adds the residual"


def test_the_whole_encoder_is_one_region() -> None:
    proto = bert4(0.9, length=16)
    model = ir.from_proto(proto)
    clean_up(model)
    scene = scene_of(model, benchmark_input(proto))
    items = recognise(scene, weight_sites(model))
    (region,) = grow_regions(scene, items, is_sparse)
    codes = [item.code for item in region.items]
    counts = [codes.count(c) for c in (OpCode.LINEAR, OpCode.ATTENTION, OpCode.LAYER_NORM)]
    assert counts == [24, 4, 8]
    assert len(codes) == 36
    assert len(trimmed(region, is_sparse).items) == 35
    assert len([n for n in model.graph if n not in set(region.nodes)]) == 0


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v1",
        "mobilenet_v2",
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("bert4", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("form", ["unstructured", "block4"])
def test_whole_networks(name: str, form: str) -> None:
    """Plan and densified plan agree with the dense graph of the same weights."""
    proto = BUILDERS[name](0.9, form)
    model = ir.from_proto(proto)
    clean_up(model)
    feeds = benchmark_input(proto)
    scene = scene_of(model, feeds)
    region = grow_regions(scene, recognise(scene, weight_sites(model)), is_sparse)[0]
    (output,) = (value.name or "" for value in region.outputs)
    if not region.outputs[0].is_graph_output():
        model.graph.outputs.append(region.outputs[0])
    want = OrtRunner(model).run(feeds)[output]
    part = region_model(model, region, build_plan(scene, region).to_bytes())
    library = library_path()
    assert library is not None
    got = OrtRunner(part, libraries=[library]).run(feeds)[output]
    # This net multiplies a relative change of its input by 170 (ONNX Runtime with and without its
    # optimisations differs by 6e-5 on it), so that rounding alone is seen.
    tolerance = 1e-3 if name == "mobilenet_v2" else 1e-5
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()
    back = OrtRunner(densify_model(part)).run(feeds)[output]
    assert np.abs(back - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("opset", [7, 9, 17])
def test_operators_come_back_as_the_models_opset_has_them(opset: int) -> None:
    """Max and Min do not broadcast before opset 8, where a plan's bounds of one number would fail."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    weights = {"w": normal(16, 8), "b": normal(16), "v": normal(16, 4)}
    model = graph(nodes, {"x": ["n", 8]}, ["y"], weights, opset=opset)
    feeds = {"x": normal(5, 8)}
    want = OrtRunner(model).run(feeds)["y"]
    scene = scene_of(model, feeds)
    (region,) = grow_regions(scene, recognise(scene, weight_sites(model)), lambda item: True)
    assert [item.code for item in region.items] == [OpCode.LINEAR] * 2
    part = region_model(model, region, build_plan(scene, region).to_bytes())
    back = OrtRunner(densify_model(part)).run(feeds)["y"]
    assert np.abs(back - want).max() <= 1e-6 * np.abs(want).max()


@pytest.mark.parametrize(
    ("alpha", "reduction"), [(0.0, 8), (1.0, 0)], ids=["times nothing", "of nothing"]
)
def test_a_product_whose_weights_no_plan_can_hold_is_left_alone(
    alpha: float, reduction: int
) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "layer", transB=1, alpha=alpha)
    weights = {"w": normal(16, reduction), "b": normal(16)}
    model = graph([node], {"x": ["n", reduction]}, ["y"], weights)
    scene = scene_of(model, {"x": normal(5, reduction)})
    assert recognise(scene, weight_sites(model)) == []
