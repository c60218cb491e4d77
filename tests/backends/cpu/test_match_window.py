"""Windows whose pads the graph does not state, against ONNX Runtime."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from sparsec.backends.cpu.assemble import build_plan, region_of
from sparsec.backends.cpu.candidate import region_model
from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.library import library_path
from sparsec.backends.cpu.observe import observe_shapes
from sparsec.backends.cpu.plan import OpCode
from sparsec.backends.cpu.recognise import recognise
from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import weight_sites
from tests.backends.cpu.layers import NEEDS_LIBRARY
from tests.graphs import model, normal

pytestmark = NEEDS_LIBRARY


def window(op: str, mode: str, kernel: tuple[int, int], size: tuple, **attributes: object):
    inputs, weights = ["x"], {}
    if op == "Conv":
        inputs, weights = ["x", "w"], {"w": normal(6, 4, *kernel)}
    else:
        attributes["kernel_shape"] = kernel
    node = helper.make_node(op, inputs, ["y"], "layer", auto_pad=mode, **attributes)
    return model([node], {"x": ["n", 4, *size]}, ["y"], weights)


def found(graph: ir.Model, feed: dict[str, np.ndarray]) -> tuple[Scene, list[Item]]:
    scene = Scene(graph, observe_shapes(graph, [feed]))
    return scene, recognise(scene, weight_sites(graph))


def assert_same(graph: ir.Model, feeds: list[dict[str, np.ndarray]]) -> None:
    scene, items = found(graph, feeds[0])
    (item,) = items
    region = region_of([item])
    part = region_model(graph, region, build_plan(scene, region).to_bytes())
    library = library_path()
    assert library is not None
    ours, stock = OrtRunner(part, libraries=[library]), OrtRunner(graph)
    for feed in feeds:
        got, want = ours.run(feed)["y"], stock.run(feed)["y"]
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("op", ["Conv", "MaxPool"])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 4), (5, 1)])
def test_at_a_stride_of_1_pads_are_known_for_every_size(op: str, mode: str, kernel) -> None:
    graph = window(op, mode, kernel, ("height", "width"))
    assert_same(graph, [{"x": normal(1, 4, *size)} for size in ((9, 9), (6, 13), (5, 4))])


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 5), (1, 3), (4, 4)])
@pytest.mark.parametrize("size", [(9, 8), (7, 12)])
@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (3, 3)])
def test_at_other_strides_for_declared_sizes(mode: str, kernel, size, strides) -> None:
    graph = window("Conv", mode, kernel, size, strides=strides)
    assert_same(graph, [{"x": normal(batch, 4, *size)} for batch in (1, 3)])


def test_a_stride_over_a_dynamic_size_is_left_alone() -> None:
    """Its pads differ between even and odd sizes."""
    feed = {"x": normal(1, 4, 8, 8)}
    assert found(window("Conv", "SAME_UPPER", (3, 3), ("h", "w"), strides=(2, 2)), feed)[1] == []
    one = found(window("Conv", "SAME_UPPER", (1, 1), ("h", "w"), strides=(2, 2)), feed)[1]
    assert [item.code for item in one] == [OpCode.CONV]
    assert one[0].fields["pads"] == (0, 0, 0, 0)
