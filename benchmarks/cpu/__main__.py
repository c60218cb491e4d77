"""``python -m benchmarks.cpu [--only TEXT] [--threads N]... [--profile] [--output FILE]``.

Every network is lowered as ``sparsec compile --target cpu`` does and raced against the dense model in
stock ONNX Runtime, and in OpenVINO where that is installed: one process, interleaved rounds, CPU time on
one thread and wall time on more. A virtual machine has neighbours who slow a core down to half, for
moments or for minutes, and nothing makes it faster than it is. So a time is that of the fastest
twentieth of a contestant's turns, which comes nearest to a quiet machine, and the ratio of the medians
stands beside that of the fastest. ``--profile`` prints what a run of each region spends on each
kind of operator instead.
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
from benchmarks.cpu.copies import Copies
from benchmarks.cpu.peak import Peak, measure_peak
from benchmarks.cpu.profile import profile
from sparsec.backends.base import LowerContext
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cpu.library import LoadedPlan, features
from sparsec.backends.cpu.measure import Contest, bound_run, race
from sparsec.backends.cpu.plan import Dense, Kind, Op, OpCode, Plan, Value
from sparsec.backends.targets import CPU
from sparsec.ir.cost import graph_cost
from sparsec.ir.sites import weight_sites

ROUNDS = (20, 1000)
FASTEST = 0.05  # of a contestant's turns


def main() -> int:
    """Measure the chosen cases and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--threads", type=int, action="append", help="default: 1 and 2")
    parser.add_argument("--seconds", type=float, default=6.0, help="of every race")
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
        f"{'median':>7}{'GFLOP/s':>9}{'of peak':>8}  must / aim"
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
    if "scaling" in row:
        bar = (
            f"{row['scaling']:.2f} x one thread, copies {row['scaling_of_copies']:.2f}, "
            f"dense {row['scaling_of_dense']:.2f}"
        )
    openvino = f"  OpenVINO {row['openvino_ms']:.3f} ms" if "openvino_ms" in row else ""
    return (
        f"{row['network']:24}{row['pattern']:14}{row['sparsity']:9.2f}{row['threads']:8d}"
        f"{row['dense_ms']:10.3f}{row['sparse_ms']:9.3f}{row['ratio']:7.2f}"
        f"{row['ratio_of_medians']:7.2f}{row['gflops']:9.1f}"
        f"{row.get('of_peak', float('nan')):8.2f}  {bar}{openvino}"
    )


def measure(
    case: Case, threads: list[int], seconds: float, peaks: Mapping[int, Peak]
) -> Iterator[dict[str, Any]]:
    """Lower one case and race it with each number of threads; a loss is measured twice.

    As ``sparsec compile`` does, the choice is made on one thread, whatever the threads of the session.

    ``gflops`` counts two operations for every stored weight and column of the whole network. With several
    threads both models run on one thread in the same rounds: ``scaling`` is what each gains over that. So do
    copies of the sparse model, one on each thread, which share nothing: ``scaling_of_copies`` is what the
    processors allow at that time.
    """
    model, feeds = case.build()
    work = 2 * nonzero_macs(model, feeds)
    lowered = CpuBackend().lower(model.clone(), CPU, LowerContext([feeds])).model
    for n in threads:
        contest = Contest(n)
        contest.enter("dense", model, feeds)
        contest.enter("sparse", lowered, feeds)
        if n > 1:
            contest.enter("dense_one_thread", model, feeds, threads=1)
            contest.enter("sparse_one_thread", lowered, feeds, threads=1)
            copies = Copies([bound_run(lowered, feeds, threads=1)[1] for _ in range(n)])
            contest.add("sparse_copies", copies.run, copies.inferences)
        if run := openvino_run(model, feeds, n):
            contest.add("openvino", run)
        median = contest.run(seconds, ROUNDS)
        if median["sparse"] > 1.03 * median["dense"]:
            median = contest.run(seconds, ROUNDS)
        times = {name: float(np.quantile(turns, FASTEST)) for name, turns in contest.times.items()}
        row = {
            "network": case.network,
            "pattern": case.form,
            "sparsity": case.sparsity,
            "threads": n,
            **{f"{name}_ms": round(t * 1e3, 4) for name, t in times.items()},
            **{f"{name}_median_ms": round(t * 1e3, 4) for name, t in median.items()},
            "ratio": round(times["dense"] / times["sparse"], 3),
            "ratio_of_medians": round(median["dense"] / median["sparse"], 3),
            "rounds": len(contest.times["dense"]),
            "gflops": round(work / times["sparse"] / 1e9, 1),
            "must": case.must,
            "aim": case.aim,
            "regions": sum(node.domain == "sparsec" for node in lowered.graph),
        }
        if n in peaks:
            row["of_peak"] = round(row["gflops"] / peaks[n].registers, 3)
        if n > 1:
            one = times["dense_one_thread"] / times["sparse_one_thread"]
            row["ratio_on_one_thread"] = round(one, 3)
            one = median["dense_one_thread"] / median["sparse_one_thread"]
            row["ratio_of_medians_on_one_thread"] = round(one, 3)
            row["scaling"] = round(times["sparse_one_thread"] / times["sparse"], 3)
            row["scaling_of_copies"] = round(times["sparse_one_thread"] / times["sparse_copies"], 3)
            row["scaling_of_dense"] = round(times["dense_one_thread"] / times["dense"], 3)
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
    tokens, size = 512, 768
    weight = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    value = Value(Kind.ROWS, size, 2)
    plan = Plan(
        (0,), (1,), (value, value), (Op(OpCode.LINEAR, (0,), 1, weight=0),), (Dense(weight),)
    )
    run = LoadedPlan(plan.to_bytes()).prepare(np.ones((tokens, size), np.float32))
    return 2 * tokens * size * size / min(race({"roof": run})["roof"]) / 1e9


if __name__ == "__main__":
    sys.exit(main())
