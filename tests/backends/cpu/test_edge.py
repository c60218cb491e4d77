"""A plan run by a C program: no Python, no ONNX Runtime."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from examples.zoo.benchnets import BUILDERS, benchmark_input
from sparsec.backends.cpu.assemble import build_plan
from sparsec.backends.cpu.choose import is_sparse
from sparsec.backends.cpu.items import Scene
from sparsec.backends.cpu.library import LoadedPlan, library_path
from sparsec.backends.cpu.observe import observe_shapes
from sparsec.backends.cpu.recognise import recognise
from sparsec.backends.cpu.regions import grow_regions
from sparsec.ir.cleanup import clean_up
from sparsec.ir.sites import weight_sites
from tests.backends.cpu.layers import NEEDS_LIBRARY, linear_plan, sparse_matrix

pytestmark = NEEDS_LIBRARY

ROOT = Path(__file__).resolve().parents[3]
CC = shutil.which("cc") or shutil.which("gcc")


@pytest.mark.skipif(CC is None, reason="no C compiler")
def test_the_example_in_c(tmp_path: Path) -> None:
    library = library_path()
    assert library is not None
    assert CC is not None
    program = tmp_path / "run_plan"
    source, headers = ROOT / "examples/edge/run_plan.c", ROOT / "backends/cpu/csrc"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{headers}"]
    rpath = f"-Wl,-rpath,{library.parent}"
    subprocess.run([CC, *flags, source, library, rpath, "-o", program], check=True)

    rng = np.random.default_rng(0)
    plan = linear_plan(sparse_matrix(rng, 20, 30, 0.8), 1).to_bytes()
    x = rng.standard_normal((7, 30)).astype(np.float32)
    (tmp_path / "a.plan").write_bytes(plan)
    x.tofile(tmp_path / "x")
    command = [program, tmp_path / "a.plan", tmp_path / "x", tmp_path / "y", "7", "30"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.endswith("140 values\n")
    got = np.fromfile(tmp_path / "y", np.float32).reshape(7, 20)
    np.testing.assert_array_equal(got, LoadedPlan(plan).run(x)[0])

    (tmp_path / "a.plan").write_bytes(plan[:-1])
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "truncated" in failed.stderr


CROSS, QEMU = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")


@pytest.mark.slow
@pytest.mark.skipif(not (CROSS and QEMU), reason="needs aarch64-linux-gnu-g++ and qemu-aarch64")
def test_a_network_on_arm(tmp_path: Path) -> None:
    """MobileNetV1, cross-compiled library and C program under qemu, against this machine's result."""
    environment = {**os.environ, "CXX": str(CROSS), "SPARSEC_MACHINE": "aarch64"}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path / "lib"]
    subprocess.run(
        [*build, "--build-temp", tmp_path / "tmp"], check=True, cwd=ROOT, env=environment
    )
    (library,) = (tmp_path / "lib").rglob("libsparsec_cpu.so")
    program = tmp_path / "run_plan"
    cc = str(CROSS).replace("g++", "gcc")
    rpath = f"-Wl,-rpath,{library.parent}"
    source, headers = ROOT / "examples/edge/run_plan.c", ROOT / "backends/cpu/csrc"
    subprocess.run([cc, f"-I{headers}", source, library, rpath, "-o", program], check=True)

    proto = BUILDERS["mobilenet_v1"](0.9)
    model, x = ir.from_proto(proto), benchmark_input(proto)["x"]
    clean_up(model)
    scene = Scene(model, observe_shapes(model, [{"x": x}]))
    region = grow_regions(scene, recognise(scene, weight_sites(model)), is_sparse)[0]
    plan = build_plan(scene, region).to_bytes()
    (tmp_path / "a.plan").write_bytes(plan)
    x.tofile(tmp_path / "x")
    dims = [str(size) for size in x.shape]
    files = [tmp_path / "a.plan", tmp_path / "x", tmp_path / "y"]
    command = [QEMU, "-L", "/usr/aarch64-linux-gnu", program, *files, *dims]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("neon,portable")
    want = LoadedPlan(plan).run(x)[0].ravel()
    assert want.max() > 0.1
    got = np.fromfile(tmp_path / "y", np.float32)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
