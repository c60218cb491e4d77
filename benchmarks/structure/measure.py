"""One model pruned and timed: what every table about structural pruning is made of."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec.artifact.writer import save_model
from sparsec.ir.cost import graph_cost
from sparsec.ir.groups import find_groups, prepare
from sparsec.ir.memory import return_to_system
from sparsec.ir.run import Feeds, OrtRunner, new_session, session_options
from sparsec.passes.base import PassContext
from sparsec.passes.pipeline import Pipeline

_ENOUGH_SECONDS = 6.0  # of timing one model
_STATUS = Path("/proc/self/status")


def prune_and_time(
    dense: ir.Model, feeds: Feeds, specs: Sequence[str], rounds: int, *, profile: bool = False
) -> dict[str, Any]:
    """Prune a copy of ``dense``, with every certificate replayed, and time both in ONNX Runtime.

    Parameters
    ----------
    dense : onnx_ir.Model
        Cleaned up, BatchNormalization folded.
    feeds : mapping of str to array
    specs : sequence of str
        The passes.
    rounds : int
        Of timing, at most.
    profile : bool
        Also say how the time spreads over operators.

    Returns
    -------
    dict
        ``groups``: found, frozen, pruned; ``reasons``: of frozen groups, with how many each froze;
        ``macs``, ``params``, ``ms``: before and after; ``seconds``: processor time of all passes;
        ``megabytes``: the most memory that they took beyond what was held before; ``operators``:
        milliseconds by operator, before and after, if ``profile``.
    """
    pruned = dense.clone()
    prepare(pruned)
    groups = find_groups(pruned)
    row: dict[str, Any] = {
        "groups": len(groups.groups),
        "frozen": len(groups.frozen),
        "reasons": Counter(in_general(g.reason or "") for g in groups.frozen),
    }
    return_to_system()
    held = _reset_peak()
    started, wall = time.process_time(), time.perf_counter()
    steps = Pipeline.parse(specs).run(pruned, PassContext())
    row["seconds"] = time.process_time() - started
    row["wall_seconds"] = time.perf_counter() - wall
    row["megabytes"] = (_status("VmHWM") - held) / 1024
    row["certificates"] = sum(len(step.result.certificates) for step in steps)
    row["pruned"] = sum(int(step.result.notes.get("groups", 0)) for step in steps)
    row["units"] = sum(int(step.result.notes.get("units", 0)) for step in steps)
    before, after = graph_cost(dense, feeds), graph_cost(pruned, feeds)
    row["macs"], row["params"] = [before.macs, after.macs], [before.params, after.params]
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for kind, model in (("dense", dense), ("pruned", pruned)):
            path = Path(folder) / kind / "model.onnx"
            path.parent.mkdir()
            save_model(model, path)
            files.append(path)
        row["ms"] = interleaved(files, feeds, rounds)
        if profile:
            row["operators"] = [by_operator(file, feeds, Path(folder)) for file in files]
    return row


def by_operator(file: Path, feeds: Feeds, folder: Path, runs: int = 10) -> dict[str, float]:
    """Return the milliseconds that one run spends in the kernels of each operator, largest first."""
    options = session_options(threads=1)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = new_session(file, options)
    for _ in range(runs):
        session.run(None, dict(feeds))
    events = json.loads(Path(session.end_profiling()).read_text())
    fastest: dict[tuple[str, str], float] = {}  # what interrupts a kernel is not its time
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["args"]["op_name"], event["name"]
            fastest[key] = min(event["dur"], fastest.get(key, event["dur"]))
    spent: Counter[str] = Counter()
    for (operator, _), microseconds in fastest.items():
        spent[operator] += microseconds / 1e3
    return dict(spent.most_common())


def in_general(reason: str) -> str:
    """Return a reason without the names of nodes and values, so that equal ones can be counted.

    Examples
    --------
    >>> in_general("Softmax 'layer1/Softmax' normalises over it")
    'Softmax normalises over it'
    """
    return re.sub(r" '[^']*'", "", reason)


def interleaved(files: Sequence[Path], feeds: Feeds, rounds: int) -> list[float]:
    """Return the median milliseconds of each file, timed in turns by the thread's own clock."""
    runners = [OrtRunner(file, threads=1) for file in files]
    times: list[list[float]] = [[] for _ in files]
    begun = time.perf_counter()
    for number in range(rounds + 1):
        for runner, record in zip(runners, times, strict=True):
            started = time.thread_time()
            runner.run(feeds)
            if number:  # the first run of each warms up
                record.append(1e3 * (time.thread_time() - started))
        if number >= 3 and time.perf_counter() - begun > _ENOUGH_SECONDS:
            break
    return [statistics.median(record) for record in times]


def _reset_peak() -> int:
    """Make the kernel count the peak of memory anew, and return what is held now, in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])
