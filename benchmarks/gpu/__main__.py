"""Check and measure the GPU kernels: ``python -m benchmarks.gpu`` from a checkout.

Needs numpy, torch with CUDA, triton, and this checkout. Prints tables and writes
``benchmarks/results/gpu-<device>.json``, anew after every step: what was measured is kept, whatever comes
next. A kernel that computes wrong results, fails, crashes or hangs is reported and not measured, and the
others are: each step runs in a process apart. What there is no time for within ``--minutes`` is listed as
unmeasured. Exits with 3 if anything was wrong or failed; without a device it says so and exits with 4.
``--dry-run`` prints what would be measured, and needs none. ``--only`` measures some parts, in a file of
their own, for instance those that there was no time for. ``benchmarks.gpu.end_to_end`` measures a whole
model alone.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.isolated import FailedError, Worker
from benchmarks.gpu.plan import (
    ENTRIES,
    EVERYWHERE,
    Entry,
    native_table,
    prefill_table,
    table,
)
from benchmarks.gpu.prepare import Preparation, compile_file, compile_triton
from benchmarks.gpu.shapes import Layer

NO_DEVICE = 4
WRONG_RESULT = 3
PARTS = ("native", "model", "triton", "prefill")  # in their order
RESULTS = Path(__file__).parents[1] / "results"
_STEP_SECONDS = 60.0  # that one step may take
_CHECK_SECONDS = 150.0  # that a check may take, which compiles what was not compiled ahead
_GRACE = 20.0  # seconds that a step which began in time may take longer
# Of the time: when the tables that come before the whole model have to be done, and the whole model.
NATIVE_SHARE, MODEL_SHARE = 0.4, 0.75


def missing() -> str | None:
    """Return why nothing can be measured here, or None."""
    for name in ("torch", "triton"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    return None


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers."""
    import torch
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "sm": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
        # Whether cuBLAS may add float16 products of a split reduction in float16: torch's default is yes.
        "dense_may_reduce_in_float16": str(
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
        ),
        "state": state(),
    }


_ASKED = (
    "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.draw",
    "power.limit", "temperature.gpu",
)  # fmt: skip


def state() -> dict[str, str] | None:
    """Return driver, clocks, power and temperature as the driver's own tool tells them; None without it."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(_ASKED, done.stdout.strip().split(", "), strict=False))


HEADER = (
    "format    values        zeros layer         M      K   N  dense us packed us  ratio  limit "
    "%limit    GB/s   fp8 us\n" + "-" * 112
)


def line(row: dict[str, Any]) -> str:
    """Return one row of the printed table."""
    float8 = row.get("dense_float8_us")
    return (
        f"{row['format']:9s} {row.get('values', 'float16'):13s} {100 * row['sparsity']:4.0f}% "
        f"{row['layer']:8s} {row['m']:6d} {row['k']:6d} {row['n']:3d} "
        f"{row['dense_us']:9.1f} {row['packed_us']:9.1f} {row['speedup']:6.2f} {row['limit']:6.2f} "
        f"{100 * row['share_of_limit']:6.0f} {row['gbytes_per_second']:7.0f} "
        + (f"{float8:8.1f}" if float8 else "       -")
    )


PREFILL_HEADER = (
    "format    values        zeros layer         M      K    N  dense us unpacked us  ratio packed us  "
    "unpack us  GB/s\n" + "-" * 112
)


def prefill_line(row: dict[str, Any]) -> str:
    """Return one row of the table of many rows; the ratio is dense over unpacked."""
    return (
        f"{row['format']:9s} {row['values']:13s} {100 * row['sparsity']:4.0f}% "
        f"{row['layer']:8s} {row['m']:6d} {row['k']:6d} {row['n']:4d} "
        f"{row['dense_us']:9.1f} {row['unpacked_us']:11.1f} {row['speedup']:6.2f} "
        f"{row['packed_us']:9.1f} {row['unpack_us']:10.1f} {row['unpack_gbytes_per_second']:5.0f}"
    )


def plan(quick: bool, only: Sequence[str] = PARTS) -> str:
    """Return what a run measures, for people."""
    rows, native, long = table(quick), native_table(), prefill_table()
    parts = {
        "native": [
            f"time: {entry} {layer.model} {layer.name} N={n} (CUDA C++)"
            for layer, n, entry in native
        ],
        "model": ["end to end: a model of the shape of Llama-2-7B, see benchmarks.gpu.end_to_end"],
        "triton": [f"correctness: {', '.join(map(str, EVERYWHERE + ENTRIES))}"]
        + [f"time: {entry} {layer.model} {layer.name} N={n}" for layer, n, entry in rows],
        "prefill": [
            f"time: {entry} {layer.model} {layer.name} N={n} (unpacked, then dense)"
            for layer, n, entry in long
        ],
    }
    lines = ["ceilings: copy, matmul"]
    lines += [each for part in PARTS if part in only for each in parts[part]]
    return "\n".join([*lines, f"{sum(each.startswith('time: ') for each in lines)} rows"])


class Run:
    """Steps on the device, one after the other, and the file of their results.

    Parameters
    ----------
    path : Path
        Written anew after every step.
    until : float
        On ``clock``: no step begins later.
    """

    def __init__(
        self, path: Path, until: float, worker: Worker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path, self.until, self.worker, self.clock = path, until, worker, clock
        self.result: dict[str, Any] = {"unmeasured": [], "failed": []}

    def save(self) -> None:
        """Write the results so far, in full or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.result, indent=1) + "\n")
        os.replace(unfinished, self.path)

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        *arguments: Any,
        until: float | None = None,
        seconds: float = _STEP_SECONDS,
    ) -> Any:
        """Return what a function returns in the process apart; None, and a note why, if it does not."""
        left = min(self.until, until or self.until) - self.clock()
        if left <= 0:
            self.result["unmeasured"].append(name)
            return None
        try:
            return self.worker.call(function, *arguments, seconds=min(seconds, left + _GRACE))
        except FailedError as error:
            self.result["failed"].append({"what": name, "reason": str(error)})
            print(f"FAILED {name}: {error}", flush=True)
            return None
        finally:
            self.save()

    def rows(
        self,
        kind: str,
        plans: Iterable[tuple[Any, ...]],
        measure: Callable[..., tuple[Callable[..., Any], tuple[Any, ...]]],
        until: float | None = None,
        show: Callable[[dict[str, Any]], str] = line,
    ) -> list[dict[str, Any]]:
        """Measure and print one row after the other, as many as there is time for; return them.

        ``measure`` returns for a plan the function to call and its arguments.
        """
        found: list[dict[str, Any]] = self.result.setdefault(kind, {}).setdefault("rows", [])
        before = len(self.result["unmeasured"])
        for each in plans:
            name = f"{kind} " + " ".join(str(getattr(part, "name", part)) for part in each)
            if self.clock() >= min(self.until, until or self.until):
                self.result["unmeasured"].append(name)
                continue
            try:
                function, arguments = measure(*each)
            except Exception as error:  # of the pool, which packs
                self.result["failed"].append({"what": name, "reason": repr(error)})
                continue
            if (row := self.step(name, function, *arguments, until=until)) is not None:
                found.append(row)
                print(show(row), flush=True)
                self.save()
        if late := self.result["unmeasured"][before:]:
            print(f"unmeasured, time was up: {len(late)} rows, from {late[0]!r} on", flush=True)
            self.save()
        return found

    def correct(self, kind: str, name: str, function: Callable[..., Any], *arguments: Any) -> bool:
        """Check one kernel; whether its results are right."""
        what = f"{kind} {name}: correctness"
        found = self.step(what, function, *arguments, seconds=_CHECK_SECONDS)
        checks = self.result.setdefault(kind, {}).setdefault("correctness", {})
        checks[name] = found or {"passed": False, "reason": "not checked or failed"}
        passed = bool(checks[name]["passed"])
        print(f"correctness: {kind} {name}: {json.dumps(checks[name])}", flush=True)
        if not passed:
            print(f"WRONG or unchecked: {kind} {name}; it is not measured.", flush=True)
        self.save()
        return passed

    def wrong(self) -> list[str]:
        """Return what failed and what was found to compute wrong results."""
        wrong = [each["what"] for each in self.result["failed"]]
        for kind, part in self.result.items():
            for name, check in (
                part.get("correctness", {}).items() if isinstance(part, dict) else ()
            ):
                if not check["passed"]:
                    wrong.append(f"{kind} {name}")
        return [*dict.fromkeys(wrong), *self.result.get("end_to_end", {}).get("wrong", [])]


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two layers instead of all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="time for everything (default: 9)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)"
    )
    parser.add_argument("--out", type=Path, help="result file (default: benchmarks/results/)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return parser.parse_args(arguments)


def result_file(device: str, parts: Sequence[str]) -> Path:
    """Return the file of a device's results; some parts alone do not replace those of all."""
    name = re.sub(r"\W+", "-", device).strip("-").lower()
    some = "" if set(parts) == set(PARTS) else "".join(f"-{p}" for p in PARTS if p in parts)
    return RESULTS / f"gpu-{name}{some}.json"


def main(arguments: list[str] | None = None) -> int:
    """Run everything; return the exit code."""
    options = options_of(arguments)
    if options.dry_run:
        print(plan(options.quick, options.only))
        return 0
    until = time.monotonic() + 60 * options.minutes
    if reason := missing():
        print(f"Nothing was measured: {reason}. Run this on a machine with an NVIDIA GPU.")
        return NO_DEVICE
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the processes

    found = machine()
    print(json.dumps(found), flush=True)
    path = options.out or result_file(found["device"], options.only)
    with Preparation(int(found["sm"].replace(".", "")), until) as made, Worker() as worker:
        run = Run(path, until, worker)
        run.result["machine"] = found
        begin = time.monotonic()
        measure_all(run, made, options.quick, options.seed, begin, options.only)
        run.result["state_after"] = state()
        run.result["seconds"] = time.monotonic() - begin
        run.save()
    print(f"written to {path}")
    if wrong := run.wrong():
        print(f"WRONG or FAILED: {'; '.join(wrong)}")
        return WRONG_RESULT
    return 0


def measure_all(
    run: Run,
    made: Preparation,
    quick: bool,
    seed: int,
    begin: float,
    only: Sequence[str] = PARTS,
) -> None:
    """Prepare, check and measure the parts, what the targets are about first.

    Parts that are not the last have to be done within their share of the time.
    """
    from benchmarks.gpu import native, prefill

    no_native = native.missing()
    natives = [] if no_native else [(each,) for each in native.variants(made.sm)]
    triton = {e: triton_calls(e, quick, f"sm{made.sm}") for e in (*EVERYWHERE, *ENTRIES)}
    long = [each for each in prefill_table() if prefill.missing(each[-1]) is None]
    # All kernels, whatever the parts: the model and products of many rows launch those of both kinds.
    made.compile(compile_file, natives)
    measured = "native" in only and not no_native
    made.pack((layer, entry) for layer, _, entry in (native_table() if measured else []))
    for calls in triton.values():
        made.compile(compile_triton, calls)
    made.pack((layer, entry) for layer, _, entry in (table(quick) if "triton" in only else []))
    made.pack((layer, entry) for layer, _, entry in (long if "prefill" in only else []))

    share = run.until - begin

    def ends(part: str, portion: float) -> float:
        later = any(each in only for each in PARTS[PARTS.index(part) + 1 :])
        return begin + portion * share if later else run.until

    bandwidth = ceilings_of(run)
    if "native" in only:
        if no_native:
            run.result["native"] = {"skipped": no_native}
            print(f"CUDA C++ kernels are not measured: {no_native}", flush=True)
        else:
            made.compiled(compile_file, natives)
            native_rows(run, made, seed, bandwidth, ends("native", NATIVE_SHARE))
    if "model" in only:
        whole_model(run, ends("model", MODEL_SHARE))
    if "triton" in only:
        triton_rows(run, made, triton, quick, seed, bandwidth)
    if "prefill" in only:
        prefill_rows(run, made, long, seed)


def ceilings_of(run: Run) -> float:
    """Measure what the device can do at most; return bytes a second, NaN if that failed."""
    from benchmarks.gpu import ceilings

    copy = run.step("copy", ceilings.copy_bytes_per_second)
    flops = run.step("matmul", ceilings.matmul_flops)
    run.result |= {"copy_bytes_per_second": copy, "matmul_flops": flops}
    if copy and flops:
        print(f"copy {copy / 1e12:.2f} TB/s, matmul {flops / 1e12:.0f} TFLOP/s", flush=True)
    return float(copy or "nan")


def timed(
    made: Preparation, bandwidth: float, native_kernel: bool
) -> Callable[..., tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Return what ``Run.rows`` asks for the measurement of a layer, rows of x and an entry."""
    from benchmarks.gpu import packed

    def of(layer: Any, n: int, entry: Entry) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        arguments = (layer, n, entry, bandwidth, made.packed(layer, entry), native_kernel)
        return packed.measure, arguments

    return of


def native_rows(run: Run, made: Preparation, seed: int, bandwidth: float, until: float) -> None:
    """Check the CUDA C++ kernels and measure those that are right."""
    from benchmarks.gpu import native

    right = {
        (name, sparsity): run.correct(
            "native", f"{name} {sparsity:g}", native.check, seed, name, sparsity
        )
        for name, sparsity in native.CASES
    }
    print(HEADER, flush=True)
    rows = [each for each in native_table() if right[each[-1].format, each[-1].sparsity]]
    run.rows("native", rows, timed(made, bandwidth, True), until)


def triton_rows(
    run: Run,
    made: Preparation,
    calls_of: dict[Entry, list[tuple[Any, ...]]],
    quick: bool,
    seed: int,
    bandwidth: float,
) -> None:
    """Check the Triton kernels and measure those that are right, each from its first row on."""
    from benchmarks.gpu import packed

    @functools.cache
    def right(entry: Entry) -> bool:
        made.compiled(compile_triton, calls_of[entry])
        return run.correct("triton", str(entry), packed.check, seed, entry)

    print(HEADER, flush=True)
    rows = (each for each in table(quick) if right(each[-1]))
    run.rows("triton", rows, timed(made, bandwidth, False))


def prefill_rows(
    run: Run, made: Preparation, plans: list[tuple[Layer, int, Entry]], seed: int
) -> None:
    """Check and measure products of many rows."""
    from benchmarks.gpu import prefill

    @functools.cache
    def right(entry: Entry) -> bool:
        return run.correct("prefill", str(entry), prefill.check, seed, (entry,))

    print("many rows: the weight unpacked and multiplied densely, against dense and packed")
    print(PREFILL_HEADER, flush=True)
    run.rows(
        "prefill",
        (each for each in plans if right(each[-1])),
        lambda layer, n, entry: (prefill.measure, (layer, n, entry, made.packed(layer, entry))),
        show=prefill_line,
    )


def whole_model(run: Run, until: float) -> None:
    """Compare a whole model, dense and packed in one format after the other, step by step."""
    from benchmarks.gpu import end_to_end

    print("a model of the shape of Llama-2-7B, dense and packed:", flush=True)
    result: dict[str, Any] = {"checks": {}, "rows": []}
    run.result["end_to_end"] = result
    for variant in end_to_end.VARIANTS:
        name = end_to_end.label(*variant)
        # A process that is lost takes its models along: each format has the dense one anew.
        dense = run.step(
            f"end to end: dense, for {name}", end_to_end.begin, end_to_end.FULL, until=until
        )
        if dense is None:
            continue
        result["checks"]["dense"] = dense
        found = run.step(
            f"end to end: {name}", end_to_end.step, "add", *variant, until=until, seconds=120.0
        )
        if found is None:
            continue
        result["checks"][name] = found
        for batch in [] if "skipped" in found else end_to_end.FULL.batches:
            step = f"end to end: {name}, batch {batch}"
            result["rows"] += run.step(step, end_to_end.step, "rows", batch, until=until) or []
            run.save()
    run.step("end to end: end", end_to_end.end)
    result["wrong"] = end_to_end.failed(result)
    print(end_to_end.table(result), flush=True)
    run.save()


def triton_calls(entry: Entry, quick: bool, arch: str) -> list[tuple[Any, ...]]:
    """Return what the check of an entry and its rows launch, as ``prepare.compile_triton`` takes it."""
    from benchmarks.gpu.packed import CHECKED
    from sparsec.backends.cuda.variants import variants_for

    wanted = [(k, {"bias": True}) for _, k in CHECKED]
    wanted += [(layer.k, {}) for layer, _, each in table(quick) if each == entry]
    calls = {}
    for k, options in wanted:
        for variant in variants_for(
            k, "float16", arch, form=entry.format, values=entry.values, **options
        ):
            call = (entry.format, entry.values, variant.bucket, k, tuple(options.items()))
            calls.setdefault(variant, call)
    return list(calls.values())


if __name__ == "__main__":
    sys.exit(main())
