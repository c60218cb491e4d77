"""What looks like an operator of a plan and computes something else."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsec.backends.cpu.items import Scene
from sparsec.backends.cpu.observe import observe_shapes
from sparsec.backends.cpu.plan import OpCode
from sparsec.backends.cpu.recognise import recognise


def codes(nodes: list, constants: dict[str, np.ndarray], shape: tuple[int, ...], opset: int) -> set:
    """Return the operators that are found in a graph from x to y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    feed = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    return {item.code for item in recognise(Scene(model, observe_shapes(model, [feed])), [])}


def number(value: float, rank: int) -> np.ndarray:
    return np.full((1,) * rank, value, np.float32)


@pytest.mark.parametrize(("opset", "axis"), [(11, None), (11, 3), (11, -1), (11, 1), (13, None)])
def test_the_axis_of_a_softmax(opset: int, axis: int | None) -> None:
    """Before opset 13 it was the second axis and all that follow unless another was given."""
    split = np.array([0, 0, 4, 8], np.int64)
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["q"]),
        helper.make_node("Transpose", ["q"], ["qt"], perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", ["q"], ["kt"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["qt", "kt"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], **attributes),
        helper.make_node("MatMul", ["weights", "qt"], ["heads"]),
        helper.make_node("Transpose", ["heads"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "merge"], ["y"]),
    ]
    constants = {"split": split, "merge": np.array([0, 0, 32], np.int64)}
    found = OpCode.ATTENTION in codes(nodes, constants, (2, 5, 32), opset)
    assert found == (axis in (3, -1) or (axis is None and opset >= 13))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_gain_of_more_axes_than_the_tokens(rank: int) -> None:
    """[1, 1, M] times [N, M] is [1, N, M], which a LayerNorm of a plan does not return."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Pow", ["centred", "two"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"], axes=[-1]),
        helper.make_node("Add", ["variance", "epsilon"], ["more"]),
        helper.make_node("Sqrt", ["more"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], ["normed"]),
        helper.make_node("Mul", ["normed", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["y"]),
    ]
    gain = np.linspace(1, 2, 16, dtype=np.float32).reshape((1,) * (rank - 1) + (16,))
    constants = {
        "two": number(2, 0), "epsilon": number(1e-5, 0), "gain": gain,
        "shift": np.ones(16, np.float32),
    }  # fmt: skip
    assert (OpCode.LAYER_NORM in codes(nodes, constants, (6, 16), 17)) == (rank <= 2)


@pytest.mark.parametrize("rank", [0, 2, 3])
def test_a_factor_of_more_axes_than_the_tokens(rank: int) -> None:
    nodes = [
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["more"]),
        helper.make_node("Mul", ["x", "more"], ["twice"]),
        helper.make_node("Mul", ["twice", "half"], ["y"]),
    ]
    constants = {"root": number(2**0.5, 0), "one": number(1, 0), "half": number(0.5, rank)}
    assert (OpCode.ACTIVATION in codes(nodes, constants, (6, 16), 17)) == (rank <= 2)
