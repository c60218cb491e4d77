"""Calibration data from files and functions: cut into feeds, or refused by name."""

import pickle
import re

import numpy as np
import pytest
from onnx import TensorProto, helper

from sparsec.ir.errors import CalibrationError
from sparsec.ir.load import load_model
from sparsec.ir.sources import load_feeds, read_npz
from tests.graphs import proto

N = helper.make_node


def graph(batch="n"):
    nodes = [N("Cast", ["m"], ["f"], to=TensorProto.FLOAT), N("Add", ["x", "f"], ["y"])]
    built = proto(nodes, {"x": [batch, 3], "m": [batch, 3]}, ["y"])
    built.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    return load_model(built)


X = np.arange(12, dtype=np.float32).reshape(4, 3)
M = np.ones((4, 3), np.int64)


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return str(path)

    return write


def test_stacked_samples_are_cut_to_the_batch(save):
    feeds = load_feeds(save(x=X, m=M), graph())
    assert [feed["x"].shape for feed in feeds] == [(1, 3)] * 4
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), X)
    assert [feed["x"].shape for feed in load_feeds(save(x=X, m=M), graph(2))] == [(2, 3)] * 2


def test_one_more_axis_is_one_full_feed_per_item(save):
    feeds = load_feeds(save(x=X.reshape(2, 2, 3), m=M.reshape(2, 2, 3)), graph())
    assert [feed["x"].shape for feed in feeds] == [(2, 3)] * 2


def test_labels_are_no_input_and_types_of_one_kind_are_converted(save):
    feeds = load_feeds(save(x=X.astype(np.float64), m=M.astype(np.int32), labels=M[:, 0]), graph())
    assert {name: str(array.dtype) for name, array in feeds[0].items()} == {
        "x": "float32",
        "m": "int64",
    }


@pytest.mark.parametrize(
    ("arrays", "name", "message"),
    [
        ({"x": X}, "m", "misses the input 'm'"),
        ({"x": X, "m": M, "z": X}, "z", "unknown array 'z'"),
        ({"x": X, "m": X}, "m", "'m' is float32; the model needs int64"),
        ({"x": X[:, :2], "m": M}, "x", "'x' has the shape [1, 2]"),
        ({"x": X[0], "m": M}, "x", "'x' has 1 axes"),
        ({"x": X[:3], "m": M}, "x", "different numbers of samples"),
        ({"x": X[:0], "m": M[:0]}, "x", "holds no samples"),
        ({"x": np.where(X > 3, np.nan, X), "m": M}, "x", "'x' holds NaN"),
        ({"x": np.where(X > 3, np.inf, X), "m": M}, "x", "'x' holds NaN or infinite"),
    ],
)
def test_arrays_that_do_not_fit_are_named_with_the_file(save, arrays, name, message):
    with pytest.raises(CalibrationError, match=re.escape(message)) as caught:
        load_feeds(save(**arrays), graph())
    assert "data.npz" in str(caught.value)


def test_a_batch_that_does_not_divide_is_refused(save):
    with pytest.raises(CalibrationError, match="no multiple of the model's batch of 3"):
        load_feeds(save(x=X, m=M), graph(3))


def truncated(path):
    np.savez(path, x=X)
    path.write_bytes(path.read_bytes()[:-40])


def damaged(path):
    np.savez(path, x=X)
    data = bytearray(path.read_bytes())
    data[60:120] = bytes(60)
    path.write_bytes(data)


def objects(path):
    np.savez(path, x=np.array([{"a": 1}], dtype=object))


@pytest.mark.parametrize(
    "write",
    [
        truncated,
        damaged,
        objects,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"garbage" * 100),
        lambda path: path.write_bytes(pickle.dumps({"x": 1})),
        lambda path: np.savez(path),
        lambda path: path.mkdir(),
    ],
)
def test_damaged_files_are_named_and_nothing_is_unpickled(tmp_path, write):
    path = tmp_path / "bad.npz"
    write(path)
    with pytest.raises(CalibrationError, match=r"bad\.npz"):
        read_npz(path)


def test_a_missing_file_is_named():
    with pytest.raises(CalibrationError, match=r"nowhere\.npz: no such file"):
        load_feeds("nowhere.npz", graph())


@pytest.fixture
def module(tmp_path, monkeypatch):
    def write(text):
        (tmp_path / "my_data.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(__import__("sys").modules, "my_data", raising=False)

    return write


def test_a_function_returns_feeds(module):
    module(
        "import numpy as np\n"
        "def feeds():\n"
        "    for i in range(2):\n"
        "        yield {'x': np.full((5, 3), float(i)), 'm': np.ones((5, 3), int)}\n"
    )
    feeds = load_feeds("my_data:feeds", graph())
    assert [feed["x"].mean() for feed in feeds] == [0, 1]
    assert feeds[0]["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("text", "source", "message"),
    [
        ("", "my_data:feeds", "no function 'feeds'"),
        ("feeds = 3", "my_data:feeds", "no function 'feeds'"),
        ("", "no_such_module:feeds", "cannot import 'no_such_module'"),
        ("1 / 0", "my_data:feeds", "cannot import 'my_data': ZeroDivisionError"),
        ("def feeds(): return {}", "my_data:feeds", "needed an iterable of feeds, got dict"),
        ("def feeds(): return []", "my_data:feeds", "no samples"),
        ("def feeds(): return [3]", "my_data:feeds", "a feed is a dictionary of arrays, got int"),
        ("def feeds(): raise OSError('gone')", "my_data:feeds", "OSError: gone"),
        ("def feeds(x): return []", "my_data:feeds", "TypeError"),
        ("", "my_data", "needed FILE.npz or module:function"),
    ],
)
def test_a_function_that_is_no_source_is_explained(module, text, source, message):
    module(text)
    with pytest.raises(CalibrationError, match=re.escape(message)):
        load_feeds(source, graph())
