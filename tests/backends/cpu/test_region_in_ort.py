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

SEVERAL = """
import os, sys, threading, time
import numpy as np
import onnxruntime as ort
folder, library = sys.argv[1:]
data = np.load(folder + "/data.npz")
def session(model, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(library)
    return ort.InferenceSession(f"{folder}/{model}.onnx", options, providers=["CPUExecutionProvider"])
def threads():
    return len(os.listdir("/proc/self/task"))
names = ["a", "b"]
want = {name: session(name, 1).run(None, {"x": data["x"]})[0] for name in names}
before = threads()
kept = [(name, session(name, count)) for name in names for count in (1, 2, 3, 2)]
made = threads() - before  # a pool counts the thread that calls it
assert made == len(names) * (0 + 1 + 2 + 1), made
wrong, start = [], threading.Barrier(len(kept) + 1)
def run(name, one):
    start.wait()
    for _ in range(60):
        if not (one.run(None, {"x": data["x"]})[0] == want[name]).all():
            wrong.append(name)
callers = [threading.Thread(target=run, args=each) for each in kept]
[caller.start() for caller in callers]
start.wait()
most = 0
while any(caller.is_alive() for caller in callers):
    most = max(most, threads())
[caller.join() for caller in callers]
assert not wrong, wrong
assert most <= before + made + len(callers), (most, before, made)
for _ in range(1000):  # the system may list one that has ended a moment longer
    if threads() == before + made:
        break
    time.sleep(0.01)
assert threads() == before + made, (threads(), before, made)
for name in names:
    np.testing.assert_allclose(want[name], data[name], rtol=1e-4, atol=1e-4)
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_sessions_share_nothing_but_the_code(tmp_path: Path) -> None:
    """Sessions of two models, several of each, at once: the bits of one alone, no thread but their own."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((700, 100)).astype(np.float32)
    want = {}
    for name, block in (("a", 1), ("b", 4)):
        matrix = sparse_matrix(rng, 60, 100, 0.8, block)
        region_model(
            linear_plan(matrix, block).to_bytes(), tmp_path / f"{name}.onnx", external=False
        )
        want[name] = x @ matrix.T
    np.savez(tmp_path / "data.npz", x=x, **want)
    done = subprocess.run(
        [sys.executable, "-I", "-c", SEVERAL, str(tmp_path), str(library_path())],
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


def test_a_plan_that_may_change_is_refused(tmp_path: Path) -> None:
    """What was checked once must be what runs."""
    import onnxruntime as ort

    path = tmp_path / "model.onnx"
    region_model(linear_plan(np.ones((60, 100), np.float32), 1).to_bytes(), path, external=False)
    model = onnx.load(path)
    del model.graph.initializer[:]
    model.graph.input.append(helper.make_tensor_value_info("plan", TensorProto.UINT8, ["bytes"]))
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library_path()))
    with pytest.raises(Exception, match="must be an initializer"):
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
