"""A plan run by a C program: no Python, no ONNX Runtime."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import sparsec
from examples.zoo import real
from examples.zoo.cache import UnavailableError
from sparsec.backends.cpu.build import SOURCES
from sparsec.backends.cpu.library import LoadedPlan, library_path
from tests.backends.cpu import emulated
from tests.backends.cpu.layers import NEEDS_LIBRARY, linear_plan, sparse_matrix

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "examples/edge/run_plan.c"
CC = shutil.which("cc") or shutil.which("gcc")


@NEEDS_LIBRARY
@pytest.mark.skipif(CC is None, reason="no C compiler")
def test_the_example_in_c(tmp_path: Path) -> None:
    library = library_path()
    assert library is not None
    assert CC is not None
    program = tmp_path / "run_plan"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    rpath = f"-Wl,-rpath,{library.parent}"
    subprocess.run([CC, *flags, PROGRAM, library, rpath, "-o", program], check=True)

    rng = np.random.default_rng(0)
    first = linear_plan(sparse_matrix(rng, 20, 30, 0.8), 1).to_bytes()
    second = linear_plan(sparse_matrix(rng, 6, 140, 0.8), 1).to_bytes()
    x = rng.standard_normal((7, 30)).astype(np.float32)
    a, b = tmp_path / "a.plan", tmp_path / "b.plan"
    a.write_bytes(first)
    b.write_bytes(second)
    x.tofile(tmp_path / "x")
    command = [program, tmp_path / "x", tmp_path / "y", a, "7x30", b, "1x140"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.endswith(": 6 values\n")
    (middle,) = LoadedPlan(first).run(x)
    (want,) = LoadedPlan(second).run(middle.reshape(1, 140))
    np.testing.assert_array_equal(np.fromfile(tmp_path / "y", np.float32), want.ravel())

    for change, said in (
        (["7x31"], "another size"),
        (["7x30", b, "2x70"], "70 channels"),
        (["7x30", b], "usage"),
    ):
        failed = subprocess.run(
            [*command[:4], *change], check=False, capture_output=True, text=True
        )
        assert failed.returncode == 1
        assert said in failed.stderr
    a.write_bytes(first[:-1])
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "truncated" in failed.stderr


@pytest.mark.slow
@pytest.mark.zoo
@NEEDS_LIBRARY
@pytest.mark.skipif(emulated.why_not() is not None, reason=str(emulated.why_not()))
def test_a_trained_network_on_arm(tmp_path: Path) -> None:
    """EfficientNet-lite0 from pixels to scores: the artifact, and nothing else, under an emulator."""
    try:
        model, feeds = real.path("effnet_lite0"), real.feeds("effnet_lite0", n=1, seed=0)[0]
    except UnavailableError as error:
        pytest.skip(str(error))
    recipe = {"passes": ["unstructured:sparsity=0.9"], "seed": 0}
    arm = sparsec.compile(model, target="aarch64", output=tmp_path / "arm.sparsec", **recipe).path
    library = arm / "lib/linux-aarch64/libsparsec_cpu.so"
    machine = int.from_bytes(library.read_bytes()[18:20], "little")
    assert machine == 183, "ELF of AArch64"
    layers = json.loads((arm / "manifest.json").read_text())["layers"]
    assert {row["code"] for row in layers if row["pattern"] != "dense"} == {"modelled"}

    program = tmp_path / "run_plan"
    link = [library, f"-Wl,-rpath,{library.parent}"]
    flags = ["-std=c11", "-O2", f"-I{SOURCES}"]
    subprocess.run([str(emulated.CC), *flags, PROGRAM, *link, "-o", program], check=True)
    (x,) = feeds.values()
    x.tofile(tmp_path / "x")
    (plan,) = (arm / "plans").iterdir()  # the whole network, its classifier too
    stages = [plan, "1x3x224x224"]
    command = [str(emulated.QEMU), "-L", emulated.SYSROOT, program, tmp_path / "x", tmp_path / "y"]
    done = subprocess.run([*command, *stages], check=True, capture_output=True, text=True)
    assert done.stdout == "neon,portable: 1000 values\n"
    got = np.fromfile(tmp_path / "y", np.float32)

    # The same plan with this machine's kernels, and the pruned network in stock operators.
    (scores,) = LoadedPlan(plan.read_bytes()).run(x)
    assert scores.shape == (1, 1000)
    stock = sparsec.compile(model, target="onnx", output=tmp_path / "stock.sparsec", **recipe)
    (want,) = sparsec.load(stock.path).run(feeds).values()
    for other in (scores.ravel(), want.ravel()):
        assert np.abs(got - other).max() <= 1e-4 * np.abs(other).max()
