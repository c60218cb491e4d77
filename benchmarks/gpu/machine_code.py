"""Print registers and instructions for each weight of the CUDA C++ kernels.

``python -m benchmarks.gpu.machine_code [SM]...`` needs nvcc or NVRTC, and triton for its disassembler;
no GPU.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from sparsec.backends.cuda import nvcc
from sparsec.backends.cuda.issue import instructions_per_element
from sparsec.backends.cuda.native import BUCKETS, NativeVariant

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)


def line(variant: NativeVariant, cache: Path) -> str:
    """Return one row of the table."""
    code = nvcc.compile_native(variant, cache).code
    counts = (instructions_per_element(code, variant, each) for each in SPARSITIES)
    return f"{variant.name:44s} {code.registers:9d}  " + " ".join(f"{each:5.2f}" for each in counts)


def main(architectures: list[int]) -> int:
    """Print the table; return the exit code."""
    if reason := nvcc.why_not(min(architectures)):
        print(reason)
        return 4
    print(f"{'kernel':44s} registers  " + " ".join(f"{100 * each:4.0f}%" for each in SPARSITIES))
    with tempfile.TemporaryDirectory(prefix="sparsec-code-") as cache:
        for sm in architectures:
            for form, clear in (("nm24_sp", False), ("lps", False), ("lps", True)):
                for bucket in BUCKETS:
                    variant = NativeVariant(form, "float16", sm, bucket, clear=clear)
                    print(line(variant, Path(cache)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main([int(each) for each in sys.argv[1:]] or [90]))
