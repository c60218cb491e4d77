"""Check and measure the GPU kernels: ``python -m benchmarks.gpu`` from a checkout.

Needs numpy, torch with CUDA, triton, and this checkout. Prints a table and writes
``benchmarks/results/gpu-<device>.json``. What there is no time for within ``--minutes`` is listed as
unmeasured, in both. Without a device it says so and exits with 4; ``--dry-run`` prints what would be
measured, and needs none. ``benchmarks.gpu.end_to_end`` measures a whole model.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import (
    ENTRIES,
    EVERYWHERE,
    PREFILL,
    native_table,
    prefill_table,
    table,
)

NO_DEVICE = 4
WRONG_RESULT = 3
RESULTS = Path(__file__).parents[1] / "results"
# Of the time: when the tables of the Triton kernels, of the CUDA C++ kernels and of long prompts have to
# be done, and until when the whole model may start.
TRITON_SHARE, NATIVE_SHARE, PREFILL_SHARE, MODEL_SHARE = 0.4, 0.62, 0.78, 0.82


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
        "clock_mhz": torch.cuda.clock_rate() if _can_read_clock() else None,
    }


def _can_read_clock() -> bool:
    return importlib.util.find_spec("pynvml") is not None


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


def plan(quick: bool) -> str:
    """Return what a run measures, for people."""
    rows, native, long = table(quick), native_table(), prefill_table()
    lines = ["ceilings: copy, matmul", f"correctness: {', '.join(map(str, EVERYWHERE + ENTRIES))}"]
    lines += [f"time: {entry} {layer.model} {layer.name} N={n}" for layer, n, entry in rows]
    lines += [
        f"time: {name} {100 * s:.0f}% {layer.model} {layer.name} N={n} (CUDA C++)"
        for layer, n, name, s in native
    ]
    lines += [
        f"time: {entry} {layer.model} {layer.name} N={n} (unpacked, then dense)"
        for layer, n, entry in long
    ]
    lines.append("end to end: a model of the shape of Llama-2-7B, see benchmarks.gpu.end_to_end")
    return "\n".join([*lines, f"{len(rows) + len(native) + len(long)} rows"])


def in_time(
    plans: Iterable[tuple[Any, ...]],
    measure: Callable[..., dict[str, Any]],
    until: float,
    clock: Callable[[], float] = time.monotonic,
    show: Callable[[dict[str, Any]], str] = line,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure and print one row after the other; return the rows, and what came after ``until``."""
    rows, unmeasured = [], []
    for each in plans:
        if clock() >= until:
            unmeasured.append(" ".join(str(getattr(part, "name", part)) for part in each))
            continue
        rows.append(measure(*each))
        print(show(rows[-1]), flush=True)
    if unmeasured:
        print(
            f"unmeasured, time was up: {len(unmeasured)} rows, from {unmeasured[0]!r} on",
            flush=True,
        )
    return rows, unmeasured


def main(arguments: list[str] | None = None) -> int:
    """Run everything; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two layers instead of all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="time for everything (default: 9)"
    )
    parser.add_argument("--out", type=Path, help="result file (default: benchmarks/results/)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    options = parser.parse_args(arguments)

    if options.dry_run:
        print(plan(options.quick))
        return 0
    if reason := missing():
        print(f"Nothing was measured: {reason}. Run this on a machine with an NVIDIA GPU.")
        return NO_DEVICE

    from benchmarks.gpu import ceilings, end_to_end, native, packed, prefill

    start, seconds = time.monotonic(), 60 * options.minutes
    result: dict[str, Any] = {"machine": machine()}
    print(json.dumps(result["machine"]))
    result["copy_bytes_per_second"] = bandwidth = ceilings.copy_bytes_per_second()
    result["matmul_flops"] = ceilings.matmul_flops()
    print(f"copy {bandwidth / 1e12:.2f} TB/s, matmul {result['matmul_flops'] / 1e12:.0f} TFLOP/s")

    result["correctness"] = packed.check(options.seed, EVERYWHERE + ENTRIES)
    print(f"correctness: {json.dumps(result['correctness'], indent=1)}")
    if not result["correctness"]["passed"]:
        print("A kernel computes wrong results; its times mean nothing.")
        return WRONG_RESULT

    print(HEADER)
    result["rows"], result["unmeasured"] = in_time(
        table(options.quick),
        lambda layer, rows, entry: packed.measure(layer, rows, entry, bandwidth),
        start + TRITON_SHARE * seconds,
    )

    if reason := native.missing():
        result["native"] = {"skipped": reason}
        print(f"CUDA C++ kernels were not measured: {reason}")
    else:
        result["native"] = {"correctness": native.check(options.seed)}
        print(f"CUDA C++ kernels, correctness: {result['native']['correctness']}")
        if not result["native"]["correctness"]["passed"]:
            print("A kernel computes wrong results; its times mean nothing.")
            return WRONG_RESULT
        result["native"]["rows"], result["native"]["unmeasured"] = in_time(
            native_table(),
            lambda layer, rows, name, sparsity: native.measure(
                layer, rows, bandwidth, name, sparsity
            ),
            start + NATIVE_SHARE * seconds,
        )

    print("many rows: the weight unpacked and multiplied densely, against dense and packed")
    result["prefill"] = {"correctness": prefill.check(options.seed, PREFILL)}
    print(f"many rows, correctness: {result['prefill']['correctness']}")
    if not result["prefill"]["correctness"]["passed"]:
        print("A kernel computes wrong results; its times mean nothing.")
        return WRONG_RESULT
    print(PREFILL_HEADER)
    result["prefill"]["rows"], result["prefill"]["unmeasured"] = in_time(
        [each for each in prefill_table() if prefill.missing(each[-1]) is None],
        prefill.measure,
        start + PREFILL_SHARE * seconds,
        show=prefill_line,
    )

    if time.monotonic() - start > MODEL_SHARE * seconds:
        result["end_to_end"] = {"skipped": "time was up"}
        print("end to end: unmeasured, time was up; python -m benchmarks.gpu.end_to_end")
    else:
        print("a model of the shape of Llama-2-7B, dense and packed:", flush=True)
        result["end_to_end"] = whole = end_to_end.run(end_to_end.FULL)
        print(end_to_end.table(whole))
        if wrong := end_to_end.failed(whole):
            print(f"Wrong logits: {', '.join(wrong)}. Their times mean nothing.")
            return WRONG_RESULT

    device = re.sub(r"\W+", "-", result["machine"]["device"]).strip("-").lower()
    path = options.out or RESULTS / f"gpu-{device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
