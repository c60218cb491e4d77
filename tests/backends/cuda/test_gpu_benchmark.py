"""The GPU benchmark as far as a machine without a GPU can tell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsec.backends.cuda.formats.nm24 import packed_bytes

ROOT = Path(__file__).parents[3]

# What a GPU machine need not have.
ABSENT = ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "click", "rich", "safetensors", "yaml")

IMPORTS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import {modules}
"""


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_device_nothing_is_claimed():
    done = python("-m", "benchmarks.gpu")
    assert done.returncode == 4
    assert done.stdout.startswith("Nothing was measured")


def test_the_kernels_import_without_the_rest_of_the_project():
    pytest.importorskip("torch", reason="the benchmark needs torch")
    pytest.importorskip("triton", reason="the benchmark needs triton")
    modules = (
        "benchmarks.gpu.__main__", "benchmarks.gpu.nm24", "benchmarks.gpu.ceilings",
        "sparsec.backends.cuda.aot", "sparsec.backends.cuda.launch",
        "sparsec.backends.cuda.kernels.nm24_matmul",
    )  # fmt: skip
    done = python("-c", IMPORTS.format(absent=ABSENT, modules=", ".join(modules)))
    assert done.returncode == 0, done.stderr


def test_the_limit_is_the_ratio_of_bytes():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.gpu.shapes import LAYERS, limit
    finally:
        sys.path.remove(str(ROOT))
    for layer in LAYERS:
        assert layer.dense_bytes >= 90e6  # below, launch and cache hide the ratio
        most = limit(packed_bytes(layer.m, layer.k), layer, rows=16)
        assert 1.74 < most < 2 / 1.125
