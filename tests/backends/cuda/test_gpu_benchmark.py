"""The GPU benchmark as far as a machine without a GPU can tell."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparsec.backends.cuda import formats
from sparsec.backends.cuda.formats.nm24 import packed_bytes

ROOT = Path(__file__).parents[3]

# What a GPU machine need not have.
ABSENT = ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "click", "rich", "safetensors", "yaml")

IMPORTS = """
import sys
sys.modules.update(dict.fromkeys({absent}))  # to import one of them fails, as if it were not there
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


def test_a_dry_run_names_every_kernel_that_the_registry_has():
    done = python("-m", "benchmarks.gpu", "--dry-run")
    assert done.returncode == 0, done.stderr
    for name in formats.names():
        assert f"time: {name} " in done.stdout
    assert done.stdout.count("time: ") == int(done.stdout.splitlines()[-1].split()[0])


def test_the_kernels_import_without_the_rest_of_the_project():
    pytest.importorskip("torch", reason="the benchmark needs torch")
    pytest.importorskip("triton", reason="the benchmark needs triton")
    modules = (
        "benchmarks.gpu.__main__", "benchmarks.gpu.packed", "benchmarks.gpu.ceilings",
        "sparsec.backends.cuda.aot", "sparsec.backends.cuda.launch",
        "sparsec.backends.cuda.kernels.nm_matmul", "sparsec.backends.cuda.kernels.unpack",
        "benchmarks.gpu.native", "benchmarks.gpu.prefill",
        "sparsec.backends.cuda.loader", "sparsec.backends.cuda.nvcc",
        "sparsec.backends.cuda.native_launch",
        "benchmarks.gpu.end_to_end", "sparsec.torch", "examples.zoo.decode_graph",
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


LABELS = ["2:4 0.5 nm24_sp", "unstructured 0.7 lps", "2:4 0.5 nm24", "unstructured 0.7 bm32"]


def test_the_end_to_end_benchmark_runs_dry(tmp_path):
    """Everything but the device: models, masks, packing, the check of logits, the table."""
    pytest.importorskip("torch", reason="the benchmark needs torch")
    out = tmp_path / "dry.json"
    code = f"import sys; sys.argv[1:] = ['--dry-run', '--out', {str(out)!r}]\n"
    module = "benchmarks.gpu.end_to_end"
    run = f"import runpy; runpy.run_module({module!r}, run_name='__main__')"
    done = python("-c", IMPORTS.format(absent=ABSENT, modules=module) + code + run)
    assert done.returncode == 0, done.stderr
    assert "the times mean nothing" in done.stdout
    result = json.loads(out.read_text())
    sparse = result["checks"]["2:4 0.5 nm24"]
    assert sparse["passed"]
    assert 0 <= sparse["logit_error"] < 1e-2  # some processors round both the same
    assert sparse["weight_bytes"] < result["checks"]["dense"]["weight_bytes"]
    assert {row["model"] for row in result["rows"]} == {"dense", *LABELS}


def test_products_of_many_rows_are_planned_and_measured(monkeypatch, tmp_path):
    """Everything but the device and its clock: packing, both ways to multiply, the row as it is printed."""
    pytest.importorskip("torch", reason="the benchmark needs torch")
    from benchmarks.gpu import prefill
    from benchmarks.gpu.__main__ import prefill_line
    from benchmarks.gpu.plan import PREFILL, PREFILL_ROWS, prefill_table
    from benchmarks.gpu.prepare import pack_to
    from benchmarks.gpu.shapes import QUICK, Layer

    assert PREFILL_ROWS == (128, 512, 2048)
    assert len(prefill_table()) == len(PREFILL) * len(QUICK) * 3
    assert {"nm24", "bm32", "block16x1", "nm24_sp", "lps"} <= {e.format for e in PREFILL}
    monkeypatch.setattr(prefill, "copies_needed", lambda nbytes: 2)
    clock = {"dense": 4e-6, "packed": 8e-6, "unpacked": 5e-6, "unpack": 1e-6}

    def timer(candidates):
        results = {name: [call() for call in calls] for name, calls in candidates.items()}
        assert {name: len(made) for name, made in results.items()} == dict.fromkeys(clock, 2)
        shapes = {name: tuple(made[0].shape) for name, made in results.items()}
        assert shapes == {**dict.fromkeys(clock, (130, 64)), "unpack": (64, 256)}
        assert (results["packed"][0] == results["unpacked"][0]).all()
        return {name: [seconds] * 3 for name, seconds in clock.items()}

    layer = Layer("tiny", "up", 64, 256)
    for entry in PREFILL:
        path = pack_to(str(tmp_path), layer, entry)
        row = prefill.measure(layer, 130, entry, path, "cpu", timer)
        assert (row["speedup"], row["speedup_packed"]) == pytest.approx((0.8, 0.5))
        assert (row["unpack_us"], row["n"]) == (pytest.approx(1.0), 130)
        assert 2 * 64 * 256 / 1e-6 < row["unpack_gbytes_per_second"] * 1e9 < 4 * 64 * 256 / 1e-6
        assert f" {row['unpacked_us']:.1f} " in prefill_line(row)


def test_wrong_products_of_many_rows_are_noticed(monkeypatch):
    torch = pytest.importorskip("torch", reason="the benchmark needs torch")
    from benchmarks.gpu import prefill
    from benchmarks.gpu.plan import PREFILL

    found = prefill.check(0, PREFILL, "cpu")
    assert found["passed"]
    assert 0 < found["max_rel"] <= prefill.TOLERANCE
    real = prefill.unpack_operator

    def wrong(name):
        return lambda *args: real(name)(*args) * (1 - 2.0**-9 * (name == "bm32"))

    monkeypatch.setattr(prefill, "unpack_operator", wrong)
    few = [entry for entry in PREFILL if entry.format in ("nm24", "bm32")]
    found = prefill.check(0, few, "cpu")
    assert not found["passed"]
    assert {each.split()[0] for each in found["inexact"]} == {"bm32"}
    monkeypatch.setattr(prefill, "unpack_operator", real)

    def broken(name):
        return lambda *args: torch.full((130, args[5]), torch.nan)

    monkeypatch.setattr(prefill, "linear_operator", broken)
    assert not prefill.check(0, few, "cpu")["passed"]


def test_wrong_logits_fail_the_end_to_end_benchmark(monkeypatch):
    pytest.importorskip("torch", reason="the benchmark needs torch")
    from benchmarks.gpu import end_to_end

    made, make, logits_of = [], end_to_end.sparse_model, end_to_end.logits_of

    def sparse_model(*args):
        made.append(make(*args))
        return made[-1]

    def wrong(model, plan):
        return logits_of(model, plan) * (1.1 if any(model is other for other in made) else 1)

    monkeypatch.setattr(end_to_end, "sparse_model", sparse_model)
    monkeypatch.setattr(end_to_end, "logits_of", wrong)
    assert end_to_end.failed(end_to_end.run(end_to_end.DRY)) == LABELS


DEVICE_TESTS = """
import sys, warnings, pytest
class Absent:
    def pytest_sessionstart(self, session):
        sys.modules.update(dict.fromkeys({absent}))
    def pytest_pycollect_makemodule(self):
        warnings.warn("by a library that is newer than this project", FutureWarning)
sys.exit(pytest.main({arguments}, plugins=[Absent()]))
"""


def test_the_device_tests_collect_without_the_rest_of_the_project():
    """As documented: ``pytest --noconftest -W default -m gpu tests/gpu``; here each of them is skipped."""
    pytest.importorskip("torch", reason="the device tests need torch")
    pytest.importorskip("triton", reason="the device tests need triton")
    arguments = ["--noconftest", "-W", "default", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    arguments += ["tests/gpu"]
    done = python("-c", DEVICE_TESTS.format(absent=(*ABSENT, "ml_dtypes"), arguments=arguments))
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d{2,} skipped", done.stdout, re.MULTILINE), done.stdout
