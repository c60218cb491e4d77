"""Threads: identical results however many, several callers at once, and no data race.

And what the library does with memory over time, and with arguments from C that are not there.
"""

import ctypes
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.cpu.build import SOURCES
from sparsec.backends.cpu.library import LoadedPlan, library_path
from sparsec.backends.cpu.pack import pack_blocks
from sparsec.backends.cpu.plan import Activation, Dense, Kind, Op, OpCode, Plan, Value
from sparsec.ir.errors import ArtifactError
from tests.backends.cpu.layers import NEEDS_LIBRARY, sparse_matrix

pytestmark = NEEDS_LIBRARY


def separable(rng: np.random.Generator, block: int) -> bytes:
    """Stem, depthwise and pointwise pairs with a residual, pool: windows of planes with gaps too."""
    window = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
    clip = {"activation": Activation.CLIP, "low": 0.0, "high": 6.0}
    ops = (
        Op(OpCode.CONV, (0,), 1, weight=0, **window, **clip),
        Op(OpCode.DEPTHWISE, (1,), 2, weight=1, **window, **clip),
        Op(OpCode.LINEAR, (2,), 3, weight=2),
        Op(OpCode.DEPTHWISE, (3,), 4, weight=1, stride=(2, 2), **window),
        Op(OpCode.LINEAR, (4,), 5, weight=2, **clip),
        Op(OpCode.LINEAR, (5, 4), 6, weight=2),
        Op(OpCode.DEPTHWISE, (6,), 7, weight=3, kernel=(5, 5), pads=(2, 2, 2, 2)),
        Op(OpCode.LINEAR, (7,), 8, weight=2),
        Op(OpCode.GLOBAL_AVERAGE_POOL, (8,), 9),
    )
    tensors = (
        Dense(rng.standard_normal((24, 27)).astype(np.float32)),
        Dense(rng.standard_normal((24, 9)).astype(np.float32)),
        pack_blocks(sparse_matrix(rng, 24, 24, 0.7, block), block),
        Dense(rng.standard_normal((24, 25)).astype(np.float32)),
    )
    values = (Value(Kind.IMAGE, 3, 4), *(Value(Kind.IMAGE, 24, 4),) * 9)
    return Plan((0,), (6, 9), values, ops, tensors).to_bytes()


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("size", [(14, 14), (28, 28), (37, 21), (56, 44), (112, 112)])
def test_results_do_not_depend_on_threads(block: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    plan = separable(rng, block)
    x = rng.standard_normal((2, 3, *size)).astype(np.float32)
    want = LoadedPlan(plan).run(x)
    for threads in (2, 3, 7):
        got = LoadedPlan(plan, threads=threads).run(x)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_several_callers_at_once() -> None:
    """Plans of two threads each, called from four, some sharing a plan: all get the same bits."""
    rng = np.random.default_rng(1)
    data = separable(rng, 1)
    images = [rng.standard_normal((1, 3, 28, 28 + 7 * i)).astype(np.float32) for i in range(2)]
    want = [LoadedPlan(data).run(x) for x in images]
    shared = LoadedPlan(data, threads=2)
    wrong: list[str] = []

    def call(index: int) -> None:
        plan = shared if index % 2 else LoadedPlan(data, threads=2)
        for turn in range(20):
            got = plan.run(images[turn % 2])
            if any(not np.array_equal(a, b) for a, b in zip(got, want[turn % 2], strict=True)):
                wrong.append(f"caller {index}, turn {turn}")

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.slow
def test_team_has_no_data_race(tmp_path: Path) -> None:
    """Jobs of a few tasks, one after the other, late helpers included, under the thread sanitizer."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    program = tmp_path / "stress"
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=thread", "-pthread", f"-I{SOURCES}"]
    sources = [str(Path(__file__).with_name("team_stress.cc")), str(SOURCES / "team.cc")]
    built = subprocess.run(["g++", *flags, *sources, "-o", str(program)], capture_output=True)
    if built.returncode:
        pytest.skip("this compiler has no thread sanitizer")
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer does not run on this kernel")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "12000 jobs"


def test_memory_is_bounded_however_many_sizes_come() -> None:
    """Values and packed weights of sizes that are no longer used are given back."""
    plan = LoadedPlan(separable(np.random.default_rng(2), 1))
    held = []
    for turn in range(60):
        plan.run(np.ones((1, 3, 20 + turn % 30, 20 + turn), np.float32))
        for width in range(8, 16):
            plan.run(np.ones((1, 3, 8, width), np.float32))
        held.append(plan.memory())
    assert max(held) == held[0]


def test_more_threads_than_there_can_be() -> None:
    data = separable(np.random.default_rng(2), 1)
    with pytest.raises(ArtifactError, match="10000 threads, at most 1024"):
        LoadedPlan(data, threads=10_000)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_threads_that_cannot_be_started_are_an_error() -> None:
    script = (
        "import resource, sys\n"
        "from sparsec.backends.cpu.library import LoadedPlan\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "data = sys.stdin.buffer.read()\n"
        "try:\n"
        "    LoadedPlan(data, threads=1024)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
        "LoadedPlan(data, threads=2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=separable(np.random.default_rng(2), 1),
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()[-1000:]
    assert done.stdout.decode().strip() == "ArtifactError"


def test_arguments_that_are_not_there() -> None:
    """From C: a sentence or 0, never a read of address 0."""
    library = ctypes.CDLL(str(library_path()))
    error = ctypes.create_string_buffer(200)
    for name in ("inputs", "outputs", "ops", "memory"):
        assert getattr(library, f"sparsec_plan_{name}")(None) == 0
    for call in (library.sparsec_plan_shapes, library.sparsec_plan_run):
        assert call(None, None, None, error, ctypes.c_size_t(200)) == 1
        assert error.value == b"no plan"
    plan = LoadedPlan(separable(np.random.default_rng(2), 1))
    run = plan.prepare(np.ones((1, 3, 14, 14), np.float32))
    handle = ctypes.c_void_p(plan._handle)
    for inputs, outputs, text in (
        (None, run._out, b"no array of inputs"),
        (run._in, None, b"no array of outputs"),
    ):
        assert library.sparsec_plan_run(handle, inputs, outputs, error, ctypes.c_size_t(200)) == 1
        assert error.value == text
    run._out[1].data = None
    assert library.sparsec_plan_run(handle, run._in, run._out, error, ctypes.c_size_t(200)) == 1
    assert error.value == b"output 1: no data"
