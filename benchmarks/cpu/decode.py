"""``python -m benchmarks.cpu.decode [--only PART] [--output FILE]``: a language model, token by token.

Three parts, each against dense ONNX Runtime in the same process, in interleaved rounds:

* ``model``: SmolLM2-135M with its keys and values, lowered as ``compile --target cpu`` does: tokens per
  second of CPU time on one thread and of wall time on two, and where the time of a token goes;
* ``gemv``: one column times 4096 x 4096, with the weight in the cache and with the caches empty;
* ``columns``: the same product for 1 to 256 columns: where sparse stops paying.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from benchmarks.cpu.__main__ import ROUNDS, machine
from benchmarks.cpu.cases import Case, Feeds
from examples.zoo import real
from examples.zoo.benchnets import Form
from sparsec.backends.base import LowerContext
from sparsec.backends.cpu.assemble import build_plan
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cpu.candidate import region_model
from sparsec.backends.cpu.choose import is_sparse
from sparsec.backends.cpu.items import Scene
from sparsec.backends.cpu.library import library_path
from sparsec.backends.cpu.measure import Contest
from sparsec.backends.cpu.observe import observe_shapes
from sparsec.backends.cpu.recognise import recognise
from sparsec.backends.cpu.regions import grow_regions
from sparsec.backends.targets import CPU
from sparsec.ir.cleanup import clean_up
from sparsec.ir.load import load_model
from sparsec.ir.run import session_options
from sparsec.ir.sites import weight_sites
from sparsec.passes.base import PassContext
from sparsec.passes.pipeline import Pipeline
from sparsec.passes.rounding import ROUNDINGS

SPECS = (
    "block:rows=8,cols=1,sparsity=0.8",
    "block:rows=8,cols=1,sparsity=0.8,values=float16",
    "block:rows=8,cols=1,sparsity=0.8,values=int8",
    "unstructured:sparsity=0.9",
)
MODEL_MUST, MODEL_AIM = 1.6, 2.2
BARS: dict[tuple[Form, float], float | None] = {
    ("unstructured", 0.5): None, ("unstructured", 0.8): 1.4, ("unstructured", 0.9): 3.0,
    ("unstructured", 0.95): 5.3, ("block8", 0.5): None, ("block8", 0.8): 3.2,
    ("block8", 0.9): 6.5, ("block8", 0.95): 14.0,
}  # fmt: skip
NARROW = (*ROUNDINGS,)  # values of blocks that are stored in fewer bytes
_ROUNDS = (7, 30)  # of a product
COLUMNS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CURVES: tuple[tuple[Form, float], ...] = (
    ("unstructured", 0.5), ("unstructured", 0.8), ("unstructured", 0.9), ("block4", 0.8),
    ("block8", 0.8),
)  # fmt: skip


def main() -> int:
    """Measure the chosen parts and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu.decode")
    parts = {"model": model_rows, "gemv": gemv_rows, "columns": column_rows}
    parser.add_argument("--only", choices=sorted(parts))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if reason := CpuBackend().why_not(CPU):
        print(reason, file=sys.stderr)
        return 4
    record: dict[str, Any] = {"machine": machine()}
    for name, rows in parts.items():
        if arguments.only in (None, name):
            record[name] = []
            for row in rows():
                print(name, " ".join(f"{key}={value}" for key, value in row.items()), flush=True)
                record[name].append(row)
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def model_rows() -> Iterator[dict[str, Any]]:
    """Yield tokens per second of SmolLM2 after a past of 64 tokens."""
    (feeds,) = real.feeds("smollm2_decode")
    for spec in SPECS:
        model = load_model(real.path("smollm2_decode"))
        clean_up(model)
        dense = model.clone()
        Pipeline.parse([spec]).run(model, PassContext())
        lowered = CpuBackend().lower(model, CPU, LowerContext([feeds])).model
        for threads in (1, 2):
            times = _contest(dense, lowered, feeds, threads).run(6.0, ROUNDS)
            row = {"pass": spec, "threads": threads, "clock": "wall" if threads > 1 else "cpu"}
            row |= {f"{k}_tokens_per_second": round(1 / t, 1) for k, t in times.items()}
            ratio = round(times["dense"] / times["sparse"], 3)
            yield row | {"ratio": ratio, "must": MODEL_MUST, "aim": MODEL_AIM}
        yield {"pass": spec, "sparse_ms_by_operator": profile(lowered, feeds)}
    yield {"pass": None, "dense_ms_by_operator": profile(dense, feeds)}


def profile(model: ir.Model, feeds: Feeds, runs: int = 20) -> dict[str, float]:
    """Return the median milliseconds of a run by operator, on one thread; the head apart.

    ONNX Runtime's own profile. It counts wall time and its own overhead, so the sum is above what a
    token costs.
    """
    library = library_path()
    assert library is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="model.data")
        options = session_options(threads=1, libraries=[library])
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options)
        for _ in range(runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    head = next(value for value in model.graph.outputs if value.name == "logits").producer()
    assert head is not None
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event.get("cat") == "Node" and name != event["name"]:
            op_type = "head" if name == head.name else event["args"]["op_name"]
            durations[name, op_type].append(event["dur"] / 1e3)
    total: Counter[str] = Counter()
    for (_, op_type), times in durations.items():
        total[op_type] += float(np.median(times))  # type: ignore[assignment]
    return {op_type: round(ms, 3) for op_type, ms in total.most_common()}


def gemv_rows() -> Iterator[dict[str, Any]]:
    """Yield the ratios of one column, the weight in the cache and in memory."""
    for (form, sparsity), must in BARS.items():
        yield {**_product(1, form, sparsity), "must": must}
        if form == "block8":
            for values in NARROW:
                yield _product(1, form, sparsity, values)


def column_rows() -> Iterator[dict[str, Any]]:
    """Yield the ratios for growing numbers of columns."""
    for form, sparsity in CURVES:
        for columns in COLUMNS:
            yield _product(columns, form, sparsity)


def _product(columns: int, form: Form, sparsity: float, values: str = "float32") -> dict[str, Any]:
    model, feeds = Case(f"matmul {columns}x4096x4096", sparsity, form).build()
    if values in ROUNDINGS:
        (site,) = weight_sites(model)
        site.write_matrix(ROUNDINGS[values](site.matrix()))
    contest = _contest(model, in_one_region(model, feeds), feeds, 1)
    warm, cold = contest.run(1.0, _ROUNDS), contest.run(1.0, _ROUNDS, cold=True)
    return {
        "columns": columns,
        "pattern": form,
        "sparsity": sparsity,
        "values": values,
        "dense_ms": round(warm["dense"] * 1e3, 4),
        "sparse_ms": round(warm["sparse"] * 1e3, 4),
        "ratio": round(warm["dense"] / warm["sparse"], 3),
        "ratio_cold": round(cold["dense"] / cold["sparse"], 3),
    }


def in_one_region(model: ir.Model, feeds: Feeds) -> ir.Model:
    """Return a model of one region as a node, whether it pays or not."""
    scene = Scene(model, observe_shapes(model, [feeds]))
    (region,) = grow_regions(scene, recognise(scene, weight_sites(model)), is_sparse)
    return region_model(model, region, build_plan(scene, region).to_bytes())


def _contest(dense: ir.Model, sparse: ir.Model, feeds: Feeds, threads: int) -> Contest:
    contest = Contest(threads)
    contest.enter("dense", dense, feeds)
    contest.enter("sparse", sparse, feeds)
    return contest


if __name__ == "__main__":
    sys.exit(main())
