"""Sessions: from memory, from files, and errors that name the operator."""

import onnx
import pytest
from onnx import helper

from sparsec.ir.errors import CalibrationError, ModelImportError, UnsupportedOpError
from sparsec.ir.load import load_model
from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import weight_sites
from tests.graphs import matmul, model, normal, proto

N = helper.make_node


def test_mapped_and_edited_weights_run_from_memory(tmp_path):
    weights = {"u": normal(64, 64), "v": normal(64, 64, seed=1)}
    nodes = [N("MatMul", ["x", "u"], ["a"], "a"), N("MatMul", ["a", "v"], ["y"], "b")]
    path = tmp_path / "m.onnx"
    built = proto(nodes, {"x": ["n", 64]}, ["y"], weights)
    onnx.save(built, path, save_as_external_data=True, location="m.data", size_threshold=0)
    graph = load_model(path)
    next(iter(weight_sites(graph))).write_matrix(0 * weights["u"].T)
    x = normal(2, 64)
    assert not OrtRunner(graph).run({"x": x})["y"].any()
    assert OrtRunner(path).run({"x": x})["y"].any()


def test_data_files_of_two_folders_run(tmp_path):
    parts = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        path = folder / "m.onnx"
        built = proto(
            [N("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, ["y"], {"w": normal(64, 64)}
        )
        onnx.save(built, path, save_as_external_data=True, location="m.data", size_threshold=0)
        parts.append(load_model(path))
    graph = model(
        [N("MatMul", ["x", "u"], ["a"]), N("MatMul", ["a", "v"], ["y"])],
        {"x": ["n", 64]},
        ["y"],
        {"u": normal(64, 64), "v": normal(64, 64)},
    )
    for name, part in zip("uv", parts, strict=True):
        graph.graph.initializers[name].const_value = part.graph.initializers["w"].const_value
    x = normal(2, 64)
    expected = x @ normal(64, 64) @ normal(64, 64)
    assert abs(OrtRunner(graph).run({"x": x})["y"] - expected).max() < 1e-2


def test_an_unknown_operator_is_named():
    nodes = [N("Twirl", ["x"], ["y"], "t", domain="com.example")]
    with pytest.raises(UnsupportedOpError, match=r"operator com\.example:Twirl"):
        OrtRunner(model(nodes, {"x": [1]}, ["y"], domains=["com.example"]))


def test_an_operator_without_a_kernel_for_its_type_is_named():
    nodes = [N("MatMul", ["x", "x"], ["y"], "product")]
    graph = model(nodes, {"x": [2, 2]}, ["y"], dtype=onnx.TensorProto.BFLOAT16)
    with pytest.raises(UnsupportedOpError, match=r"MatMul \(node 'product'\)") as caught:
        OrtRunner(graph)
    assert caught.value.where == "product"


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"garbage")
    with pytest.raises(ModelImportError, match=r"m\.onnx: ONNX Runtime cannot load it"):
        OrtRunner(path)


def test_feeds_that_do_not_fit_are_explained():
    with pytest.raises(CalibrationError, match="cannot be run on these inputs"):
        OrtRunner(matmul(normal(8, 4))).run({"x": normal(2, 7)})
