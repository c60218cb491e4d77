import json

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsec.ir.errors import ArtifactError
from sparsec.ir.safetensors import (
    FILE_NAME,
    check_external,
    large_tensors,
    point_into,
    read_header,
    write_weights,
)


def tensors():
    rng = np.random.default_rng(0)
    return {
        "half": rng.standard_normal((5, 7)).astype(np.float16),
        "words": rng.integers(-9, 9, (3, 4), dtype=np.int32),
        "bytes": rng.integers(0, 9, 13, dtype=np.uint8),
        'ümlaut/"quoted"': np.arange(3, dtype=np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.float64(2.5).reshape(()),
        "strided": np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2],
        "flags": np.array([True, False]),
    }


@pytest.fixture
def path(tmp_path):
    write_weights(tmp_path / FILE_NAME, tensors())
    return tmp_path / FILE_NAME


def test_the_safetensors_library_reads_it(path):
    loaded = safetensors.numpy.load_file(path)
    assert loaded.keys() == tensors().keys()
    for name, array in tensors().items():
        assert loaded[name].dtype == array.dtype
        assert np.array_equal(loaded[name], array)


def test_tensors_are_aligned_to_their_elements_and_the_first_to_64(path):
    header, start = read_header(path)
    assert start % 64 == 0
    for name, entry in header.items():
        assert (start + entry["data_offsets"][0]) % tensors()[name].dtype.itemsize == 0


def test_order_of_the_mapping_does_not_matter(path, tmp_path):
    write_weights(tmp_path / "again", dict(reversed(tensors().items())))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_bfloat16_is_stored_as_such(tmp_path):
    array = np.arange(4).astype(ml_dtypes.bfloat16)
    write_weights(tmp_path / "w", {"b": array})
    header, start = read_header(tmp_path / "w")
    assert header["b"]["dtype"] == "BF16"
    assert (tmp_path / "w").read_bytes()[start:] == array.tobytes()


def graph(weight):
    x, w = ir.val("x", dtype=ir.DataType.FLOAT, shape=[1, 64]), ir.val("w", const_value=weight)
    node = ir.node("MatMul", [x, w], name="n")
    node.outputs[0].name = "y"
    node.outputs[0].type, node.outputs[0].shape = (
        ir.TensorType(ir.DataType.FLOAT),
        ir.Shape([1, 32]),
    )
    inner = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 17})
    return ir.Model(inner, ir_version=9)


@pytest.fixture
def stored(tmp_path):
    weight = np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)
    model = graph(ir.tensor(weight, name="w"))
    found = large_tensors(model)
    write_weights(tmp_path / FILE_NAME, found)
    point_into(model, tmp_path / FILE_NAME, found)
    ir.save(model, tmp_path / "model.onnx")
    return tmp_path, weight


def test_onnx_runtime_reads_external_data_inside_the_file(stored):
    root, weight = stored
    assert (root / "model.onnx").stat().st_size < 1000
    x = np.ones((1, 64), np.float32)
    (y,) = ort.InferenceSession(root / "model.onnx").run(None, {"x": x})
    assert np.allclose(y, x @ weight, rtol=1e-5)
    loaded = ir.load(root / "model.onnx")
    check_external(loaded, root)
    assert np.array_equal(loaded.graph.initializers["w"].const_value.numpy(), weight)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 4},
        {"length": 4},
        {"dtype": ir.DataType.INT32},
        {"shape": ir.Shape([32, 64])},
    ],
    ids=str,
)
def test_a_reference_that_the_header_does_not_back_is_refused(stored, change):
    root, _ = stored
    model = ir.load(root / "model.onnx")
    tensor = model.graph.initializers["w"].const_value
    fields = {
        "location": tensor.location, "offset": tensor.offset, "length": tensor.length,
        "dtype": tensor.dtype, "shape": tensor.shape,
    } | change  # fmt: skip
    wrong = ir.ExternalTensor(**fields, name="w", base_dir=root)
    model.graph.initializers["w"].const_value = wrong
    with pytest.raises(ArtifactError, match="'w'"):
        check_external(model, root)


def rewrite_header(path, change):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_offsets", [0, 10**15]),
        ("data_offsets", [-70, 0]),
        ("data_offsets", [70, 0]),
        ("data_offsets", [0]),
        ("data_offsets", None),
        ("shape", [5, 2**62]),
        ("shape", [5.0, 7]),
        ("shape", [True, 7]),
        ("dtype", "F17"),
    ],
)
def test_an_impossible_entry_is_refused(path, key, value):
    rewrite_header(path, lambda header: header["half"].update({key: value}))
    with pytest.raises(ArtifactError, match=r"weights.safetensors: .*'half'"):
        read_header(path)


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 64, b"\2\0\0\0\0\0\0\0[]"])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        read_header(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"weights\.safetensors: cannot be read"):
        read_header(tmp_path / FILE_NAME)


@given(st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_changed_header_byte_is_read_or_refused(path, data):
    content = bytearray(path.read_bytes())
    _, start = read_header(path)
    at = data.draw(st.integers(0, start - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    changed = path.with_name("changed")
    changed.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        header, start = read_header(changed)
    except ArtifactError:
        return
    size = changed.stat().st_size
    assert all(start + entry["data_offsets"][1] <= size for entry in header.values())
