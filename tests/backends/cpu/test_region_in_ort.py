"""A Region node in stock ONNX Runtime, in a process that never imports SparseC."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsec.backends.cpu.library import library_path
from tests.backends.cpu.layers import NEEDS_LIBRARY, linear_plan, sparse_matrix

pytestmark = NEEDS_LIBRARY

SCRIPT = """
import sys, threading
import numpy as np
import onnxruntime as ort
model, library, data, threads = sys.argv[1:]
options = ort.SessionOptions()
options.intra_op_num_threads = int(threads)
options.register_custom_ops_library(library)
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
feeds = np.load(data)
results = {}
def run(i):
    for _ in range(20):
        results[i] = session.run(None, {"x": feeds["x"]})[0]
workers = [threading.Thread(target=run, args=(i,)) for i in range(3)]
[w.start() for w in workers]
[w.join() for w in workers]
assert all((r == results[0]).all() for r in results.values())
assert not any(name.split(".")[0] == "sparsec" for name in sys.modules)
np.testing.assert_allclose(results[0], feeds["y"], rtol=1e-4, atol=1e-4)
print("same")
"""


def region_model(plan: bytes, path: Path, *, external: bool) -> None:
    node = helper.make_node("Region", ["plan", "x"], ["y"], domain="sparsec")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 100])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 60])],
        [numpy_helper.from_array(np.frombuffer(plan, np.uint8), "plan")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("sparsec", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(
        model, path, save_as_external_data=external, location="model.onnx.data", size_threshold=1024
    )


@pytest.mark.parametrize(("external", "threads"), [(True, 1), (False, 2)])
def test_runs_without_sparsec(tmp_path: Path, external: bool, threads: int) -> None:
    rng = np.random.default_rng(0)
    matrix = sparse_matrix(rng, 60, 100, 0.8)
    region_model(linear_plan(matrix, 1).to_bytes(), tmp_path / "model.onnx", external=external)
    x = rng.standard_normal((33, 100)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=x @ matrix.T)
    arguments = [tmp_path / "model.onnx", library_path(), tmp_path / "data.npz", threads]
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == "same\n", done.stderr


def test_a_damaged_plan_fails_when_the_session_is_made(tmp_path: Path) -> None:
    import onnxruntime as ort

    data = bytearray(linear_plan(np.ones((60, 100), np.float32), 1).to_bytes())
    data[-1] ^= 1
    region_model(bytes(data), tmp_path / "model.onnx", external=False)
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library_path()))
    with pytest.raises(Exception, match="the bytes were altered"):
        ort.InferenceSession(
            str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
