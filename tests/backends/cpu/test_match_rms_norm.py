"""RMSNorm is found in the forms that exporters write, and not where it is something else."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.observe import observe_shapes
from sparsec.backends.cpu.plan import OpCode
from sparsec.backends.cpu.recognise import recognise


def items_of(
    form: str = "reciprocal",
    *,
    axis: int = -1,
    gain_shape: tuple[int, ...] | None = (8,),
    root_is_output: bool = False,
) -> list[Item]:
    gain = np.ones(gain_shape or (1,), np.float32) * 3
    weights = [
        numpy_helper.from_array(np.array([2.0], np.float32), "two"),
        numpy_helper.from_array(np.array([1e-5], np.float32), "eps"),
        numpy_helper.from_array(np.array([axis], np.int64), "axes"),
        numpy_helper.from_array(gain, "gain"),
    ]
    scale = {
        "reciprocal": [
            helper.make_node("Reciprocal", ["root"], ["r"]),
            helper.make_node("Mul", ["r", "x"], ["n"]),
        ],
        "division": [helper.make_node("Div", ["x", "root"], ["n"])],
        "inverted": [helper.make_node("Div", ["root", "x"], ["n"])],
    }[form]
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axes"], ["mean"], keepdims=1),
        helper.make_node("Add", ["mean", "eps"], ["plus"]),
        helper.make_node("Sqrt", ["plus"], ["root"]),
        *scale,
        helper.make_node("Mul", ["gain", "n"], ["y"]),
    ]
    outputs = ["y", "root"] if root_is_output else ["y"]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        weights,
    )  # fmt: skip
    model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    )
    feed = {"x": np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float32)}
    return recognise(Scene(model, observe_shapes(model, [feed])), [])


@pytest.mark.parametrize("form", ["reciprocal", "division"])
def test_both_forms_are_found(form: str) -> None:
    (item,) = items_of(form)
    assert item.code is OpCode.RMS_NORM
    assert item.output.name == "y"
    assert item.fields["alpha"] == pytest.approx(1e-5)
    assert item.tensors["gain"].tolist() == [3.0] * 8


def test_a_factor_that_differs_by_row_stays_outside() -> None:
    (item,) = items_of(gain_shape=(8, 1))
    assert item.output.name == "n"
    assert item.tensors["gain"].tolist() == [1.0] * 8


@pytest.mark.parametrize(
    "changed", [{"form": "inverted"}, {"axis": 1}, {"root_is_output": True}], ids=str
)
def test_what_only_looks_like_one_is_left_alone(changed: dict) -> None:
    assert OpCode.RMS_NORM not in [item.code for item in items_of(**changed)]
