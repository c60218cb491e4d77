"""What removing channels saves: multiply-accumulates, parameters and time in ONNX Runtime, side by side.

::

    python -m benchmarks.structure [--sparsity 0.3] [--rounds 15] [NAME ...]

One thread, interleaved rounds, medians. The baseline is the dense model after our exact clean-ups,
with all of the runtime's optimisations. Results are written to benchmarks/results/structure.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from examples.zoo import real
from sparsec.artifact.writer import save_model
from sparsec.ir.cleanup import clean_up, fold_batch_norm
from sparsec.ir.cost import graph_cost
from sparsec.ir.load import load_model
from sparsec.ir.run import Feeds, OrtRunner
from sparsec.machine import fingerprint
from sparsec.passes.base import PassContext
from sparsec.passes.pipeline import Pipeline

RESULTS = Path(__file__).parents[1] / "results" / "structure.json"


def measure(name: str, spec: str, rounds: int) -> dict[str, Any]:
    feeds = real.feeds(name)[0]
    dense = load_model(real.path(name))
    clean_up(dense)
    fold_batch_norm(dense)
    pruned = dense.clone()
    started = time.process_time()
    (step,) = Pipeline.parse([spec]).run(pruned, PassContext())
    seconds = time.process_time() - started
    before, after = graph_cost(dense, feeds), graph_cost(pruned, feeds)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for kind, model in (("dense", dense), ("pruned", pruned)):
            path = Path(folder) / kind / "model.onnx"
            path.parent.mkdir()
            save_model(model, path)
            files.append(path)
        dense_ms, pruned_ms = interleaved(files, feeds, rounds)
    return {
        "model": name,
        "groups": int(step.result.notes.get("groups", 0)),
        "units": int(step.result.notes.get("units", 0)),
        "barriers": sorted({s.reason for s in step.result.skipped if s.code == "barrier"}),
        "macs": [before.macs, after.macs],
        "params": [before.params, after.params],
        "ms": [dense_ms, pruned_ms],
        "pass_seconds": seconds,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def interleaved(files: list[Path], feeds: Feeds, rounds: int) -> list[float]:
    """Return the median milliseconds of each file, timed in turns by the thread's own clock."""
    runners = [OrtRunner(file, threads=1) for file in files]
    for runner in runners:
        runner.run(feeds)
    times: list[list[float]] = [[] for _ in files]
    for _ in range(rounds):
        for runner, record in zip(runners, times, strict=True):
            started = time.thread_time()
            runner.run(feeds)
            record.append(1e3 * (time.thread_time() - started))
    return [statistics.median(record) for record in times]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(real.REAL))
    parser.add_argument("--sparsity", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    spec = f"channel:sparsity={given.sparsity}"
    rows = []
    for name in given.names:
        row = measure(name, spec, given.rounds)
        rows.append(row)
        (m0, m1), (t0, t1) = row["macs"], row["ms"]
        saved = 1 - m1 / m0 if m0 else 0.0
        print(
            f"{name:18} macs -{saved:.0%}  time {t0:.3f} -> {t1:.3f} ms ({1 - t1 / t0:+.0%} saved)"
        )
    record = {"machine": fingerprint(), "load": os.getloadavg(), "pass": spec, "rows": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
