"""``python -m benchmarks.cpu [--only TEXT] [--threads N] [--output FILE]``: lower, race, print, record.

Every network is lowered as ``sparsec compile --target cpu`` does and raced against the dense model in
stock ONNX Runtime: one process, interleaved rounds, medians; CPU time on one thread, wall time on more.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.cpu.cases import CASES, Case
from sparsec.backends.base import LowerContext
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cpu.library import LoadedPlan, features
from sparsec.backends.cpu.measure import Contest, race
from sparsec.backends.cpu.plan import Dense, Kind, Op, OpCode, Plan, Value
from sparsec.backends.targets import CPU

ROUNDS = (20, 30)


def main() -> int:
    """Measure the chosen cases and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if reason := CpuBackend().why_not(CPU):
        print(reason, file=sys.stderr)
        return 4
    rows = []
    header = f"{'network':24}{'pattern':14}{'sparsity':>9}{'dense ms':>10}{'ms':>9}{'ratio':>8}  must / aim"
    print(header)
    for case in CASES:
        if arguments.only and arguments.only not in f"{case.network} {case.form} {case.sparsity}":
            continue
        row = measure(case, arguments.threads)
        rows.append(row)
        bar = f"{case.must} / {case.aim}" if case.must else ""
        print(
            f"{case.network:24}{case.form:14}{case.sparsity:9.2f}{row['dense_ms']:10.3f}"
            f"{row['sparse_ms']:9.3f}{row['ratio']:8.2f}  {bar}",
            flush=True,
        )
    if arguments.output:
        record = {"machine": machine(), "threads": arguments.threads, "rows": rows}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(case: Case, threads: int) -> dict[str, Any]:
    """Lower one case and race it; a loss is measured twice."""
    model, feeds = case.build()
    dense = model.clone()
    lowered = CpuBackend().lower(model, CPU, LowerContext([feeds], threads=threads))
    contest = Contest(threads)
    contest.enter("dense", dense, feeds)
    contest.enter("sparse", lowered.model, feeds)
    times = contest.run(6.0, ROUNDS)
    if times["sparse"] > 1.03 * times["dense"]:
        times = contest.run(6.0, ROUNDS)
    regions = [node for node in lowered.model.graph if node.domain == "sparsec"]
    return {
        "network": case.network,
        "pattern": case.form,
        "sparsity": case.sparsity,
        "dense_ms": round(times["dense"] * 1e3, 4),
        "sparse_ms": round(times["sparse"] * 1e3, 4),
        "ratio": round(times["dense"] / times["sparse"], 3),
        "must": case.must,
        "aim": case.aim,
        "regions": len(regions),
    }


def machine() -> dict[str, Any]:
    """Describe the machine and its roof in this minute."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    return {
        "cpu": model,
        "isas": list(features()),
        "dense_gflops": round(roof(), 1),
        "onnxruntime": ort.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def roof() -> float:
    """Return the GFLOP/s of our dense product on one thread: what the sparse ones are judged by."""
    weight = np.random.default_rng(0).standard_normal((768, 768)).astype(np.float32)
    value = Value(Kind.ROWS, 768, 2)
    plan = Plan(
        (0,), (1,), (value, value), (Op(OpCode.LINEAR, (0,), 1, weight=0),), (Dense(weight),)
    )
    run = LoadedPlan(plan.to_bytes()).prepare(np.ones((512, 768), np.float32))
    return 2 * 512 * 768 * 768 / min(race({"roof": run})["roof"]) / 1e9


if __name__ == "__main__":
    sys.exit(main())
