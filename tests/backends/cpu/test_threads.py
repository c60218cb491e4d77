"""Threads: identical results however many, several callers at once, and no data race."""

import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.cpu.build import SOURCES
from sparsec.backends.cpu.library import LoadedPlan
from sparsec.backends.cpu.pack import pack_blocks
from sparsec.backends.cpu.plan import Activation, Dense, Kind, Op, OpCode, Plan, Value
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
