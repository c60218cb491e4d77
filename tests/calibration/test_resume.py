"""A calibration that is killed goes on where it was, and ends with the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sparsec.ir.execute.segmented import SegmentedExecutor
from sparsec.ir.sites import weight_sites
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.calibration.statistics import Needs
from tests.calibration import nets
from tests.calibration.test_sequential import shrink, visit

ROOT = Path(__file__).parents[2]


def start(cache: Path, order: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.calibration.walker", str(cache), order],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.strip()


def kill(process: subprocess.Popen[str], after: float) -> str:
    """Kill a process after some seconds; return what it had printed: its result, if it was faster."""
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    return process.communicate()[0].strip()


@pytest.mark.parametrize(
    ("order", "kills"),
    [
        ("sequential", 2),
        pytest.param("sequential", 10, marks=pytest.mark.slow),
        pytest.param("parallel", 10, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments(order, kills, tmp_path):
    process = start(tmp_path / "whole", order)
    began = time.monotonic()
    assert process.stdout is not None
    expected = process.stdout.readline().strip()
    length = time.monotonic() - began
    finish(process)

    rng = np.random.default_rng(0)
    cache = tmp_path / "killed"
    found = ""
    for done in range(kills):
        # Most of the work is left at first; what is left shrinks from one process to the next.
        found = found or kill(start(cache, order), length * rng.uniform(0.1, 0.9) / (1 + done))
    assert (found or finish(start(cache, order))) == expected
    if order == "sequential":
        rewritten = Counter((cache.with_suffix(".log")).read_text().split())
        # A site is visited again only if the process died before its stop was saved.
        assert len(rewritten) == 5
        assert sum(rewritten.values()) <= 5 + kills


class KilledError(Exception):
    """Stands for the end of the process."""


def interrupted(build, feeds, cache: Path, after: int, **options) -> None:
    """Visit ``after`` sites, then die."""
    left = [after]
    model = build()

    def rewrite(site, statistics):
        if not left[0]:
            raise KilledError
        left[0] -= 1
        shrink(site, statistics.norms)

    with pytest.raises(KilledError):
        Calibration(feeds, cache=cache, **options).sequential(
            model, list(weight_sites(model)), Needs(), rewrite, method="shrink"
        )


@pytest.mark.parametrize("name", ["residual", "network", "branching", "looping", "sequence"])
def test_every_place_to_stop_leads_to_the_same_bits(name, tmp_path):
    build, feeds = {
        "residual": (nets.residual, nets.vectors(3, 8)),
        "network": (nets.network, nets.images(3)),
        "branching": (nets.branching, nets.choices()),
        "looping": (nets.looping, nets.iterations()),
        "sequence": (nets.sequence, nets.vectors(3, 6)),
    }[name]
    order, expected = visit(build(), feeds)
    for after in range(len(order)):
        cache = tmp_path / str(after)
        interrupted(build, feeds, cache, after)
        left, found = visit(build(), feeds, cache=cache)
        assert len(left) >= len(order) - after
        assert left == order[len(order) - len(left) :]
        for key, matrix in expected.items():
            np.testing.assert_array_equal(found[key], matrix)
        assert not list((cache / "walks").glob("*/"))


def test_finished_stops_are_not_run_again(tmp_path):
    feeds = nets.vectors(3, 8)
    interrupted(nets.residual, feeds, tmp_path, 4, collected_bytes=1)
    left, _ = visit(nets.residual(), feeds, cache=tmp_path, collected_bytes=1)
    assert [name for name, _ in left] == ["down"]


@pytest.mark.parametrize("what", ["feeds", "method", "weights"])
def test_another_walk_is_not_resumed(what, tmp_path):
    feeds = nets.vectors(3, 8)
    interrupted(nets.residual, feeds, tmp_path, 4, collected_bytes=1)
    model, method, calls = nets.residual(), "shrink", []
    if what == "feeds":
        feeds[0]["x"][0, 0] += 1
    elif what == "method":
        method = "another"
    else:
        site = list(weight_sites(model))[-1]
        site.write_matrix(site.matrix() * 2)
    Calibration(feeds, cache=tmp_path, collected_bytes=1).sequential(
        model,
        list(weight_sites(model)),
        Needs(),
        lambda site, statistics: calls.append(site.name),
        method=method,
    )
    assert len(calls) == 5


@pytest.mark.parametrize("damage", ["value", "weight", "state", "missing", "version"])
def test_a_damaged_walk_starts_over(damage, tmp_path):
    feeds = nets.vectors(3, 8)
    order, expected = visit(nets.residual(), feeds, collected_bytes=1)
    interrupted(nets.residual, feeds, tmp_path, 4, collected_bytes=1)
    (folder,) = (tmp_path / "walks").glob("*/")
    state = folder / "state.json"
    pattern = {"value": "*.npys", "weight": "*.pb", "missing": "*.pb"}.get(damage, "state.json")
    path = sorted(folder.glob(pattern))[0]
    if damage == "missing":
        path.unlink()
    elif damage == "version":
        state.write_text(json.dumps({**json.loads(state.read_text()), "format": 99}))
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x01
        path.write_bytes(data[:-1] if damage == "state" else data)
    left, found = visit(nets.residual(), feeds, cache=tmp_path, collected_bytes=1)
    assert left == order
    for key, matrix in expected.items():
        np.testing.assert_array_equal(found[key], matrix)


def test_a_walk_that_another_process_holds_is_not_touched(tmp_path):
    from sparsec.ir.execute.checkpoint import locked

    executor = SegmentedExecutor(cache=tmp_path)
    with executor._folder("key") as (mine, resumable):
        assert resumable
        with executor._folder("key") as (other, shared):
            assert not shared
            assert other != mine
    with locked(mine) as free:
        assert free
