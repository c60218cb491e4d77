"""Print registers and instructions for each weight of the CUDA C++ kernels, float16 x.

``python -m benchmarks.gpu.machine_code [SM]...`` needs nvcc or NVRTC, and triton for its disassembler;
no GPU. A format that is compiled in two forms for different sparsities has a row of each; a layer takes
the one named ``clear`` from the stored size on that ``native.clears`` knows, and the columns that a row is
not for are left empty.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

from sparsec.backends.cuda import nvcc
from sparsec.backends.cuda.issue import instructions_per_element, is_meant_for
from sparsec.backends.cuda.native import BUCKETS, NATIVE, VALUES, NativeVariant

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)


def line(variant: NativeVariant, cache: Path) -> str:
    """Return one row of the table."""
    code = nvcc.compile_native(variant, cache).code
    counts = (
        f"{instructions_per_element(code, variant, each):5.2f}"
        if is_meant_for(variant, each)
        else " " * 5
        for each in SPARSITIES
    )
    return f"{variant.name:44s} {code.registers:9d}  {' '.join(counts)}".rstrip()


def main(architectures: list[int]) -> int:
    """Print the table; return the exit code."""
    if reason := nvcc.why_not(min(architectures)):
        print(reason)
        return 4
    print(f"{'kernel':44s} registers  " + " ".join(f"{100 * each:4.0f}%" for each in SPARSITIES))
    with tempfile.TemporaryDirectory(prefix="sparsec-code-") as cache:
        for sm in architectures:
            for form, clear in (*((each, False) for each in NATIVE), ("lps", True)):
                for values, bucket in itertools.product(VALUES, BUCKETS):
                    variant = NativeVariant(form, "float16", sm, bucket, clear=clear, values=values)
                    print(line(variant, Path(cache)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main([int(each) for each in sys.argv[1:]] or [90]))
