"""Sources that are refused, each with one error that names the file and what is wrong."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from sparsec.ir.errors import ModelImportError
from sparsec.ir.load import load_model
from sparsec.ir.verify import verify
from tests.corpus.models import IMPORT, Case, good, model, node, saved, tensor


@pytest.mark.parametrize("case", IMPORT, ids=lambda case: case.name)
def test_a_bad_file_is_one_clear_error(case: Case, tmp_path, capfd):
    path = case.write(tmp_path)
    with pytest.raises(ModelImportError) as caught:
        load_model(path)
    message = caught.value.message
    assert message.startswith(str(path))
    for word in case.words:
        assert word in message.replace(str(path), "", 1)
    assert capfd.readouterr() == ("", "")


def error_or_model(path: Path) -> None:
    """Load a file: either the error names it, or the graph has every invariant."""
    message = str(path)
    try:
        verify(load_model(path))
    except ModelImportError as error:
        message = error.message
    assert message.startswith(str(path))


def test_every_truncation_of_a_model_is_an_error_or_a_model(tmp_path):
    data = good().SerializeToString()
    for length in range(1, len(data)):
        (tmp_path / "m.onnx").write_bytes(data[:length])
        error_or_model(tmp_path / "m.onnx")


def test_every_flipped_byte_is_an_error_or_a_model(tmp_path):
    data = good().SerializeToString()
    for position in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= flip
            (tmp_path / "m.onnx").write_bytes(damaged)
            error_or_model(tmp_path / "m.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(tmp_path):
    path = saved(good())(tmp_path)
    path.chmod(stat.S_IWUSR)
    with pytest.raises(ModelImportError, match="cannot be read"):
        load_model(path)


def test_what_is_no_model_at_all():
    with pytest.raises(ModelImportError, match="cannot load a model from int"):
        load_model(7)  # type: ignore[arg-type]


def test_a_model_in_memory_may_not_have_its_data_elsewhere(tmp_path):
    proto = good()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.bin")
    with pytest.raises(ModelImportError, match="load the model by its path"):
        load_model(proto)


def test_several_violations_are_all_said():
    with pytest.raises(ModelImportError, match=r"'one'.*; .*'two'"):
        load_model(model([node("Add", ["x", "one"], ["a"]), node("Add", ["a", "two"], ["y"])]))


def test_the_source_is_never_changed(tmp_path):
    proto = model([node("MatMul", ["x", "w"], ["y"])], [tensor("w", 4, 4)])
    before = proto.SerializeToString()
    loaded = load_model(proto)
    loaded.graph.initializers["w"].const_value = ir.tensor([1.0], name="w")
    assert proto.SerializeToString() == before

    original = ir.from_proto(proto)
    copy = load_model(original)
    copy.graph.initializers["w"].metadata_props["sparsec.pattern"] = "2:4@0"
    assert "sparsec.pattern" not in original.graph.initializers["w"].metadata_props
