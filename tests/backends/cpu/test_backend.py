"""Lowering a graph for this machine, and undoing it from the packed bytes."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.backends.base import LowerContext
from sparsec.backends.cpu import library
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cpu.library import library_path
from sparsec.backends.targets import CPU
from sparsec.ir.codes import Code
from sparsec.ir.patterns import Block, Unstructured
from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import weight_sites
from sparsec.ir.verify import verify
from tests.backends.cpu.layers import NEEDS_LIBRARY, sparse_matrix
from tests.graphs import proto

pytestmark = NEEDS_LIBRARY


def two_layers(sparsity: float) -> ir.Model:
    """Gemm + Relu (prunable), then a MatMul + bias behind it, and a dense head."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": sparse_matrix(rng, 256, 192, sparsity),
        "b1": rng.standard_normal(256).astype(np.float32),
        "w2": np.ascontiguousarray(sparse_matrix(rng, 128, 256, sparsity, 4).T),
        "b2": rng.standard_normal(128).astype(np.float32),
        "w3": rng.standard_normal((128, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["m"], "second"),
        helper.make_node("Add", ["b2", "m"], ["s"], "bias"),
        helper.make_node("MatMul", ["s", "w3"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 192])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    model = ir.from_proto(made)
    for site in weight_sites(model):
        if site.name != "head":
            site.mark(Block(4, 1) if site.name == "second" else Unstructured())
    return model


@pytest.fixture
def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((128, 192)).astype(np.float32)}


def test_sparse_layers_become_regions_and_come_back(
    tmp_path: Path, feeds: dict[str, np.ndarray]
) -> None:
    model = two_layers(0.95)
    want = OrtRunner(model).run(feeds)["y"]
    lowered = CpuBackend().lower(model, CPU, LowerContext([feeds]))
    assert [row.name for row in lowered.layers] == ["first", "second", "head"]
    assert [row.code for row in lowered.layers] == [
        Code.MEASURED_FASTER,
        Code.MEASURED_FASTER,
        Code.DENSE,
    ]
    assert lowered.layers[1].kernel == "f32_spmm_block4x1"
    stored = {value.name for value in lowered.model.graph.initializers.values()}
    assert not stored & {"w1", "w2", "b1", "b2"}, "the dense weights are gone"
    assert {name for name in lowered.files if name.startswith("plans/")}

    library_file = library_path()
    assert library_file is not None
    got = OrtRunner(lowered.model, libraries=[library_file]).run(feeds)["y"]
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()

    ir.save(lowered.model, tmp_path / "model.onnx")
    dense = CpuBackend().densify(ir.load(tmp_path / "model.onnx"), tmp_path)
    assert "sparsec" not in dense.opset_imports
    assert [(site.name, site.pattern) for site in weight_sites(dense)] == [
        ("first", Unstructured()),
        ("second", Block(4, 1)),
        ("head", None),
    ]
    back = OrtRunner(dense).run(feeds)["y"]
    assert np.abs(back - want).max() <= 1e-5 * np.abs(want).max()


def test_names_of_regions_and_plans_are_not_those_of_the_model(
    feeds: dict[str, np.ndarray],
) -> None:
    model = two_layers(0.95)
    names = {"h": "region_0", "r": "region_0.plan", "m": "plan"}
    for node in model.graph:
        for value in node.outputs:
            value.name = names.get(value.name or "", value.name)
    next(iter(model.graph)).name = "region_0"
    want = OrtRunner(model).run(feeds)["y"]
    lowered = CpuBackend().lower(model, CPU, LowerContext([feeds]))
    assert [row.code for row in lowered.layers][:2] == [Code.MEASURED_FASTER] * 2
    verify(lowered.model)
    library_file = library_path()
    assert library_file is not None
    got = OrtRunner(lowered.model, libraries=[library_file]).run(feeds)["y"]
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize(
    ("spec", "bytes_of_a_value", "rows"),
    [
        ("unstructured:sparsity=0.9", 4, 1),
        ("block:rows=8,cols=1,sparsity=0.8,values=int8", 1, 8),
    ],
)
def test_an_artifact_is_as_small_as_its_weights(
    tmp_path: Path, spec: str, bytes_of_a_value: int, rows: int
) -> None:
    """Kept values, a 16-bit column for each block, and the library: what is not stored is not there."""
    rng = np.random.default_rng(0)
    size = 768
    weights = {f"w{i}": rng.standard_normal((size, size)).astype(np.float32) for i in range(3)}
    nodes = [
        helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], f"n{i}") for i in range(3)
    ]
    artifact = sparsec.compile(
        proto(nodes, {"x0": [1, size]}, ["x3"], weights),
        passes=[spec],
        target="cpu",
        output=tmp_path / "m.sparsec",
    )
    manifest = artifact.manifest
    assert {layer["code"] for layer in manifest["layers"]} == {Code.MEASURED_FASTER}
    library_file = library_path()
    assert library_file is not None
    rest = manifest["after"]["bytes"] - library_file.stat().st_size
    packed = manifest["after"]["nonzero"] * (bytes_of_a_value + 2 / rows)
    rows_and_graph = 3 * 8 * size + 4096  # starts and scales
    assert packed <= rest <= 1.02 * packed + rows_and_graph
    assert rest < manifest["before"]["bytes"] / 4


def test_dense_models_are_left_alone(feeds: dict[str, np.ndarray]) -> None:
    model = two_layers(0.0)
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    lowered = CpuBackend().lower(model, CPU, LowerContext([feeds]))
    assert {row.code for row in lowered.layers} == {Code.DENSE}
    assert not lowered.files
    assert [node.op_type for node in lowered.model.graph] == [
        "Gemm",
        "Relu",
        "MatMul",
        "Add",
        "MatMul",
    ]


def test_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CpuBackend().why_not(CPU) is None
    monkeypatch.setattr(library, "library_path", lambda: None)
    assert "C++ compiler" in (CpuBackend().why_not(CPU) or "")
