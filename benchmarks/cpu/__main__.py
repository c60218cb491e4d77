"""``python -m benchmarks.cpu [--only TEXT] [--threads N]... [--profile] [--output FILE]``.

Every network is lowered as ``sparsec compile --target cpu`` does and raced against the dense model in
stock ONNX Runtime, and in OpenVINO where that is installed: one process, interleaved rounds. On one
thread medians of CPU time count; on more the best rounds in wall time, because two processors of a
virtual machine are now one core and now two (medians are kept beside them). ``--profile`` prints what a
run of each region spends on each kind of operator instead.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from benchmarks.cpu.cases import CASES, Case, Feeds
from benchmarks.cpu.peak import Peak, measure_peak
from benchmarks.cpu.profile import profile
from sparsec.backends.base import LowerContext
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cpu.library import LoadedPlan, features
from sparsec.backends.cpu.measure import Contest, race
from sparsec.backends.cpu.plan import Dense, Kind, Op, OpCode, Plan, Value
from sparsec.backends.targets import CPU
from sparsec.ir.cost import graph_cost
from sparsec.ir.sites import weight_sites

ROUNDS = (20, 30)
BATCH = 0.1  # seconds of calls in a row: what runs again and again finds its caches warm


def main() -> int:
    """Measure the chosen cases and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--threads", type=int, action="append", help="default: 1 and 2")
    parser.add_argument("--seconds", type=float, default=4.0, help="of every race")
    parser.add_argument("--profile", action="store_true", help="where the time of a region goes")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if reason := CpuBackend().why_not(CPU):
        print(reason, file=sys.stderr)
        return 4
    threads = arguments.threads or [1, 2]
    peaks = {n: peak for n in threads if (peak := measure_peak(features()[0], n)) is not None}
    for n, peak in peaks.items():
        print(f"{n} thread(s): {peak.registers} GFLOP/s on registers")
    cases = [c for c in CASES if arguments.only in f"{c.network} {c.form} {c.sparsity}"]
    if arguments.profile:
        for case in cases:
            print_profile(case)
        return 0
    print(
        f"{'network':24}{'pattern':14}{'sparsity':>9}{'threads':>8}{'dense ms':>10}{'ms':>9}{'ratio':>7}"
        f"{'GFLOP/s':>9}{'of peak':>8}{'scaling':>8}  must / aim"
    )
    rows = []
    for case in cases:
        for row in measure(case, threads, arguments.seconds, peaks):
            rows.append(row)
            print(line(row), flush=True)
    if arguments.output:
        record = {
            "machine": machine(),
            "threads": threads[0] if len(threads) == 1 else threads,
            "peaks": {n: dataclasses.asdict(peak) for n, peak in peaks.items()},
            "rows": rows,
        }
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def line(row: Mapping[str, Any]) -> str:
    """Return a row as it is printed."""
    bar = f"{row['must']} / {row['aim']}" if row["must"] and row["threads"] == 1 else ""
    openvino = f"  OpenVINO {row['openvino_ms']:.3f} ms" if "openvino_ms" in row else ""
    return (
        f"{row['network']:24}{row['pattern']:14}{row['sparsity']:9.2f}{row['threads']:8d}"
        f"{row['dense_ms']:10.3f}{row['sparse_ms']:9.3f}{row['ratio']:7.2f}{row['gflops']:9.1f}"
        f"{row.get('of_peak', float('nan')):8.2f}{row.get('scaling', float('nan')):8.2f}  {bar}{openvino}"
    )


def measure(
    case: Case, threads: list[int], seconds: float, peaks: Mapping[int, Peak]
) -> Iterator[dict[str, Any]]:
    """Lower one case and race it with each number of threads; a loss is measured twice.

    ``gflops`` counts two operations for every stored weight and column of the whole network. ``scaling`` is
    the sparse model's gain over one thread, both in wall time of the same minute.
    """
    model, feeds = case.build()
    work = 2 * nonzero_macs(model, feeds)
    lowered, one_wall = {}, None
    for n in threads:
        lowered[n] = CpuBackend().lower(model.clone(), CPU, LowerContext([feeds], threads=n)).model
        contest = Contest(n)
        contest.enter("dense", model, feeds)
        contest.enter("sparse", lowered[n], feeds)
        if run := openvino_run(model, feeds, n):
            contest.add("openvino", run)
        times = contest.run(seconds, ROUNDS, batch=BATCH)
        if times["sparse"] > 1.03 * times["dense"]:
            times = contest.run(seconds, ROUNDS, batch=BATCH)
        medians, times = times, times if n == 1 else contest.least
        wall = contest.run_wall("sparse", seconds / 4)
        row = {
            "network": case.network,
            "pattern": case.form,
            "sparsity": case.sparsity,
            "threads": n,
            **{f"{name}_ms": round(t * 1e3, 4) for name, t in times.items()},
            "ratio": round(times["dense"] / times["sparse"], 3),
            "gflops": round(work / times["sparse"] / 1e9, 1),
            "must": case.must,
            "aim": case.aim,
            "regions": sum(node.domain == "sparsec" for node in lowered[n].graph),
        }
        if n > 1:
            row |= {f"{name}_median_ms": round(t * 1e3, 4) for name, t in medians.items()}
        if n in peaks:
            row["of_peak"] = round(row["gflops"] / peaks[n].registers, 3)
        if n == 1:
            one_wall = wall
        elif one_wall is not None:
            row["scaling"] = round(one_wall / wall, 3)
        yield row


def nonzero_macs(model: ir.Model, feeds: Feeds) -> int:
    """Return the multiply-adds of one run that no zero weight is part of."""
    costs = graph_cost(model, feeds).sites
    return sum(
        round(costs[site.name].macs * np.count_nonzero(site.operand()) / site.size)
        for site in weight_sites(model)
        if site.name in costs
    )


def openvino_run(model: ir.Model, feeds: Feeds, threads: int) -> Callable[[], object] | None:
    """Return a run of the dense model in OpenVINO; None where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return None
    import openvino

    data = ir.to_proto(model).SerializeToString()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.compile_model(
        openvino.Core().read_model(data), "CPU", settings
    ).create_infer_request()
    return lambda: request.infer(feeds, share_inputs=True)


def print_profile(case: Case) -> None:
    """Print the milliseconds of each kind of operator in the regions of a case, and of the rest."""
    model, feeds = case.build()
    lowered = CpuBackend().lower(model, CPU, LowerContext([feeds], threads=1)).model
    total: dict[str, float] = collections.Counter()
    for part, value in profile(lowered, feeds).items():
        total[part] += value
    print(f"{case.network} {case.form} {case.sparsity}: {sum(total.values()) * 1e3:.3f} ms")
    for part, value in sorted(total.items(), key=lambda item: -item[1]):
        print(f"  {value * 1e3:8.3f} ms  {value / sum(total.values()):5.1%}  {part}")


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
