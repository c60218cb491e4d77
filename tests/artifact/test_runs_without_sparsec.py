"""A CPU artifact in another virtual environment: stock ONNX Runtime, numpy, and no SparseC."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import venv
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest

import sparsec
from sparsec.backends.cpu.library import why_no_library

PROGRAM = """
    import importlib.util, pathlib, platform, sys
    import numpy as np, onnxruntime as ort

    assert importlib.util.find_spec("sparsec") is None, "SparseC is installed here"
    root = pathlib.Path(sys.argv[1])
    options = ort.SessionOptions()
    tag = f"{platform.system().lower()}-{platform.machine().lower()}"
    options.register_custom_ops_library(str(root / "lib" / tag / "libsparsec_cpu.so"))
    session = ort.InferenceSession(root / "model.onnx", options, providers=["CPUExecutionProvider"])
    data = np.load(sys.argv[2])
    (y,) = session.run(None, {"x": data["x"]})
    np.savez(sys.argv[3], y=y)
"""


def sparse_model() -> onnx.ModelProto:
    """Two layers wide enough that 95 % zeros beat any dense kernel by far."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((1024, 1024)).astype(np.float32) / 32 for _ in range(2)]
    helper = onnx.helper
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "w0"], ["a"], "first"),
                helper.make_node("Relu", ["a"], ["b"], "relu"),
                helper.make_node("MatMul", ["b", "w1"], ["y"], "second"),
            ],
            "sparse",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1024])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 1024])],
            [onnx.numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


@pytest.mark.skipif(why_no_library() is not None, reason=why_no_library() or "")
def test_stock_runtime_alone_runs_the_artifact(tmp_path: Path) -> None:
    artifact = sparsec.compile(
        sparse_model(), passes=["unstructured:sparsity=0.95"], output=tmp_path / "m.sparsec"
    )
    assert "sparsec::Region" in {
        f"{node.domain}::{node.op_type}"
        for node in onnx.load(artifact.path / "model.onnx", load_external_data=False).graph.node
    }, "nothing was lowered, so this test would show nothing"

    environment = tmp_path / "environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    wanted = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy")]
    # By the pip that is here, and without what onnxruntime asks for beyond numpy but does not import.
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    installed = subprocess.run([*pip, "--no-compile", *wanted], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"onnxruntime cannot be installed here: {installed.stderr[-200:]}")

    x = np.random.default_rng(1).standard_normal((7, 1024)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    subprocess.run(
        [python, "-I", "-c", textwrap.dedent(PROGRAM), artifact.path, "in.npz", "out.npz"],
        check=True,
        cwd=tmp_path,
        env={"PATH": ""},
    )
    expected = artifact.session().run({"x": x})["y"]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["y"], expected)
