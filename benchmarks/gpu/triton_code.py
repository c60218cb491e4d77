"""Print registers and instructions for each weight of the Triton kernels.

``python -m benchmarks.gpu.triton_code [ARCH]...`` compiles them for 1 and 16 rows of x; it needs no GPU.
Wide loads are those of 16 bytes. The last column is loop instructions of a thread for each weight, a stored
one for blocks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sparsec.backends.cuda import aot, formats
from sparsec.backends.cuda.variants import FORMATS, variants_for

ARCHS = ("sm80", "sm90")
VALUES = ("float16", "float8_e4m3fn", "int8")
COLUMNS = 4096
HEADER = """| kernel | for | tensor op | registers | shared bytes | wide loads | loop | per weight |
|---|---|---|---|---|---|---|---|"""


def main(arguments: Sequence[str]) -> None:
    """Print a table in Markdown."""
    print(HEADER)
    for arch in arguments or ARCHS:
        for form in FORMATS:
            for values in VALUES:
                if values in formats.get(form).values and (arch, form) != ("gfx942", "block8x1"):
                    for bucket in (1, 16):
                        _row(arch, form, values, bucket)


def _row(arch: str, form: str, values: str, bucket: int) -> None:
    found = variants_for(COLUMNS, "float16", arch, form=form, values=values, bias=True)
    for variant in (each for each in found if each.bucket == bucket):
        kernel = aot.compile_variant(variant)
        code, elements = kernel.code, variant.rows * variant.step
        wide = sum(n for op, n in code.opcodes.items() if op.startswith("LDG") and ".128" in op)
        each = code.loop_per_element(elements, kernel.launch["threads"])
        print(
            f"| `{variant.kernel}` {form} {values} | {arch} | {code.tensor_op or '-'} | "
            f"{code.registers} | {kernel.launch['shared_bytes']} | {wide} | {code.loop} | {each:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
