"""Quantised graphs stay quantised, whatever their zeros would gain."""

import itertools
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.backends.base import LowerContext
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.targets import targets
from sparsec.ir.codes import Code
from sparsec.ir.run import OrtRunner
from sparsec.passes.base import PassContext
from sparsec.passes.spec import parse_spec
from sparsec.verification import verify_artifact
from tests.backends.cpu.layers import NEEDS_LIBRARY
from tests.graphs import proto

SIZES = (512, 512, 256)


def quantised() -> ir.Model:
    """Two products with int8 weights and uint8 activations, all behind DequantizeLinear."""
    rng = np.random.default_rng(0)
    nodes, stored = [], {}

    def scale_of(name: str, scale: float, zero: np.generic) -> list[str]:
        stored[f"{name}.scale"], stored[f"{name}.zero"] = np.float32(scale), zero
        return [f"{name}.scale", f"{name}.zero"]

    def activation(x: str, name: str) -> str:
        scale = scale_of(name, 0.05, np.uint8(128))
        nodes.append(helper.make_node("QuantizeLinear", [x, *scale], [f"{name}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", *scale], [name]))
        return name

    x = activation("x", "x0")
    for i, (k, m) in enumerate(itertools.pairwise(SIZES)):
        w = f"w{i}"
        stored[f"{w}.q"] = rng.integers(-127, 128, (k, m)).astype(np.int8)
        scale = scale_of(w, 0.001, np.int8(0))
        nodes.append(helper.make_node("DequantizeLinear", [f"{w}.q", *scale], [w]))
        nodes.append(helper.make_node("MatMul", [x, w], [f"h{i}"], f"fc{i}"))
        x = activation(f"h{i}", f"x{i + 1}")
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, SIZES[0]])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [64, SIZES[-1]])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return ir.from_proto(made)


@NEEDS_LIBRARY
@pytest.mark.parametrize("target", ["cpu", "x86-avx2"])
@pytest.mark.parametrize("values", ["float32", "int8"])
def test_it_stays_as_it_is(target: str, values: str) -> None:
    model = quantised()
    parse_spec(f"block:rows=8,cols=1,sparsity=0.97,values={values}").run(model, PassContext())
    x = np.random.default_rng(1).standard_normal((64, SIZES[0])).astype(np.float32)
    operators = [node.op_type for node in model.graph]
    want = OrtRunner(model).run({"x": x})
    lowered = CpuBackend().lower(model, targets.get(target), LowerContext([{"x": x}]))
    assert [node.op_type for node in lowered.model.graph] == operators
    assert not lowered.files
    assert {row.code for row in lowered.layers} == {Code.NO_KERNEL}
    assert all("quantised" in row.reason for row in lowered.layers)
    for name in ("w0.q", "w1.q"):
        array = lowered.model.graph.initializers[name].const_value.numpy()
        assert array.dtype == np.int8
        assert (array == 0).mean() > 0.96
    got = OrtRunner(lowered.model).run({"x": x})
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("dtype", [np.int8, ml_dtypes.int4])
def test_weights_of_few_bits_are_proved_in_the_arithmetic_of_the_graph(
    dtype: Any, tmp_path: Path
) -> None:
    """The runtime would round x to 8 bits for such a weight, half a percent away from the graph."""
    weight = np.random.default_rng(0).integers(-8, 8, (64, 64)).astype(dtype)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=1),
        helper.make_node("MatMul", ["x", "d"], ["y"], "fc"),
    ]
    weights = {"w": weight, "s": np.full(64, 0.1, np.float32)}
    source = proto(nodes, {"x": ["n", 64]}, ["y"], weights, opset=21)
    output = tmp_path / "weight_only.sparsec"
    artifact = sparsec.compile(source, passes=["nm24"], target="onnx", output=output)
    assert artifact.manifest["verify"]["max_rel"] < 1e-5
    assert verify_artifact(output)["numerics"]["max_rel"] < 1e-5
