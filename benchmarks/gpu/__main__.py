"""Check and measure the GPU kernels: ``python -m benchmarks.gpu`` from a checkout.

Needs numpy, torch with CUDA, triton, and this checkout. Prints a table and writes
``benchmarks/results/gpu-<device>.json``. Without a device it says so and exits with 4.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.shapes import LAYERS, QUICK, ROWS

NO_DEVICE = 4
WRONG_RESULT = 3
RESULTS = Path(__file__).parents[1] / "results"


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


def line(row: dict[str, Any]) -> str:
    """Return one row of the printed table."""
    return (
        f"{row['model']:12s} {row['layer']:8s} {row['m']:6d} {row['k']:6d} {row['n']:3d} "
        f"{row['dense_us']:9.1f} {row['nm24_us']:9.1f} {row['speedup']:6.2f} {row['limit']:6.2f} "
        f"{100 * row['share_of_limit']:5.0f} {row['gbytes_per_second']:7.0f}"
    )


HEADER = (
    "model        layer         M      K   N  dense us   nm24 us  ratio  limit %limit    GB/s\n"
    + "-" * 84
)


def native_line(row: dict[str, Any]) -> str:
    """Return one row of the table of CUDA C++ kernels."""
    return (
        f"{row['format']:8s} {100 * row['sparsity']:3.0f}% {row['layer']:8s} {row['m']:6d} "
        f"{row['k']:6d} {row['n']:3d} {row['dense_us']:9.1f} {row['packed_us']:9.1f} "
        f"{row['speedup']:6.2f} {row['limit']:6.2f} {100 * row['share_of_limit']:5.0f} "
        f"{row['gbytes_per_second']:7.0f}"
    )


NATIVE = (("nm24_sp", 0.5), *(("lps", sparsity) for sparsity in (0.5, 0.6, 0.7, 0.8, 0.9)))
NATIVE_HEADER = (
    "format  zeros layer         M      K   N  dense us packed us  ratio  limit %limit    GB/s\n"
    + "-" * 84
)


def main(arguments: list[str] | None = None) -> int:
    """Run everything; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two layers instead of all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="result file (default: benchmarks/results/)")
    options = parser.parse_args(arguments)

    if reason := missing():
        print(f"Nothing was measured: {reason}. Run this on a machine with an NVIDIA GPU.")
        return NO_DEVICE

    from benchmarks.gpu import ceilings, native, nm24

    result: dict[str, Any] = {"machine": machine()}
    print(json.dumps(result["machine"]))
    result["copy_bytes_per_second"] = bandwidth = ceilings.copy_bytes_per_second()
    result["matmul_flops"] = ceilings.matmul_flops()
    print(f"copy {bandwidth / 1e12:.2f} TB/s, matmul {result['matmul_flops'] / 1e12:.0f} TFLOP/s")

    result["correctness"] = nm24.check(options.seed)
    print(f"correctness: {result['correctness']}")
    if not result["correctness"]["passed"]:
        print("The kernel computes wrong results; its times mean nothing.")
        return WRONG_RESULT

    print(HEADER)
    result["rows"] = []
    for layer in QUICK if options.quick else LAYERS:
        for rows in ROWS:
            result["rows"].append(nm24.measure(layer, rows, bandwidth))
            print(line(result["rows"][-1]), flush=True)

    if reason := native.missing():
        result["native"] = {"skipped": reason}
        print(f"CUDA C++ kernels were not measured: {reason}")
    else:
        result["native"] = {"correctness": native.check(options.seed), "rows": []}
        print(f"CUDA C++ kernels, correctness: {result['native']['correctness']}")
        if not result["native"]["correctness"]["passed"]:
            print("A kernel computes wrong results; its times mean nothing.")
            return WRONG_RESULT
        print(NATIVE_HEADER)
        for layer in QUICK:  # packing all of them would take longer than measuring
            for name, sparsity in NATIVE:
                for rows in (1, 16, 64):
                    row = native.measure(layer, rows, bandwidth, name, sparsity)
                    result["native"]["rows"].append(row)
                    print(native_line(row), flush=True)

    device = re.sub(r"\W+", "-", result["machine"]["device"]).strip("-").lower()
    path = options.out or RESULTS / f"gpu-{device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
