"""``python -m benchmarks.cpu.real [--only TEXT] [--pass SPEC]... [--output FILE]``: no model gets slower.

Every real model is compiled for this machine as ``sparsec compile --target cpu`` does and raced against
the faster of its source file and the cleaned-up dense graph, in stock ONNX Runtime on one thread: 20
interleaved rounds, medians of CPU time, once more where the artifact seems slower. Exit code 1 if one is
slower by more than 3 % both times. A FILE that exists keeps its rows of other models and passes, so that
the models may be measured a few at a time.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import sparsec
from benchmarks.cpu.__main__ import machine
from examples.zoo import real
from examples.zoo.cache import UnavailableError
from sparsec.artifact.reader import open_artifact
from sparsec.artifact.writer import save_model
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.targets import CPU
from sparsec.ir.cleanup import clean_up
from sparsec.ir.errors import SparsecError
from sparsec.ir.load import load_model
from sparsec.verdict import measure

SPECS = ("unstructured:sparsity=0.5", "unstructured:sparsity=0.9", "block41:sparsity=0.8")
ROUNDS = 20
SLOWEST = 1 / 1.03


def main() -> int:
    """Compile and race; print a line for each model and pass."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu.real")
    parser.add_argument("--only", default="", help="models whose name this expression is found in")
    parser.add_argument("--pass", dest="specs", action="append", help=f"default: {SPECS}")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if reason := CpuBackend().why_not(CPU):
        print(reason, file=sys.stderr)
        return 4
    print(
        f"{'model':18}{'pass':28}{'dense ms':>10}{'ms':>10}{'ratio':>7}{'sparse layers':>15}{'s':>6}"
    )
    rows = []
    for name in real.REAL:
        for spec in arguments.specs or SPECS:
            if re.search(arguments.only, name) and (row := compile_and_race(name, spec)):
                rows.append(row)
                print(line(row), flush=True)
    if arguments.output:
        record = {"machine": machine(), "threads": 1, "rows": with_earlier(arguments.output, rows)}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    slower = [row for row in rows if row.get("ratio", 1.0) < SLOWEST]
    for row in slower:
        print(f"SLOWER {row['model']} {row['pass']}: {row['ratio']}")
    return 1 if slower else 0


def with_earlier(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``rows`` and those of the file that are of other models or passes, in the order of the zoo."""
    new = {(row["model"], row["pass"]) for row in rows}
    earlier = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    order = list(real.REAL)
    kept = [r for r in earlier if r["model"] in order and (r["model"], r["pass"]) not in new]
    return sorted([*kept, *rows], key=lambda row: (order.index(row["model"]), row["pass"]))


def compile_and_race(name: str, spec: str) -> dict[str, Any] | None:
    """Return the row of one model; None if its package was not fetched."""
    try:
        source, feeds = real.path(name), real.feeds(name)[0]
    except UnavailableError as error:
        print(f"{name:18}not available: {error}")
        return None
    row: dict[str, Any] = {"model": name, "pass": spec}
    with tempfile.TemporaryDirectory() as folder:
        calib, output = Path(folder) / "feeds.npz", Path(folder) / "m.sparsec"
        np.savez(calib, allow_pickle=False, **{key: value[None] for key, value in feeds.items()})
        start = time.perf_counter()
        try:
            sparsec.compile(source, passes=[spec], target="cpu", calib=str(calib), output=output)
        except SparsecError as error:
            return row | {"error": f"{type(error).__name__}: {error}"}
        row["compile_s"] = round(time.perf_counter() - start, 1)
        manifest = open_artifact(output)
        codes = [layer["code"] for layer in manifest["layers"] if layer["pattern"] != "dense"]
        row |= {"pruned": len(codes), "sparse": codes.count("measured_faster")}
        row["whole"] = [note for note in manifest["lowering_notes"] if note.startswith("whole")]
        dense = load_model(source)
        clean_up(dense)
        clean = Path(folder) / "clean.onnx"
        save_model(dense, clean)
        for _ in range(2):  # a loss is measured twice, in new sessions: memory lies otherwise then
            runner = CpuBackend().runner(output, manifest, 1)
            found = measure(runner, (source, clean), feeds, rounds=ROUNDS)
            if found["speedup"] >= SLOWEST:
                break
    keys = {"dense_ms": "dense_ms", "sparse_ms": "sparse_ms", "speedup": "ratio"}
    return row | {new: round(found[old], 4) for old, new in keys.items()}


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    head = f"{row['model']:18}{row['pass']:28}"
    if "error" in row:
        return f"{head}{row['error'].splitlines()[0][:100]}"
    layers = f"{row['sparse']} of {row['pruned']}"
    times = f"{row['dense_ms']:10.3f}{row['sparse_ms']:10.3f}{row['ratio']:7.2f}"
    return f"{head}{times}{layers:>15}{row['compile_s']:6.0f}"


if __name__ == "__main__":
    sys.exit(main())
