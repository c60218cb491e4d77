"""Bytes a dense element of every packed format: ``python -m benchmarks.gpu.sizes``. Needs numpy only."""

from __future__ import annotations

import numpy as np

from sparsec.backends.cuda import formats

SHAPE = (1024, 4096)
SPARSITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9)


def main() -> None:
    """Print a table in Markdown."""
    from benchmarks.gpu.packed import random_weight

    print("| format | values | " + " | ".join(f"{100 * s:.0f} %" for s in SPARSITIES) + " |")
    print("|---" * (2 + len(SPARSITIES)) + "|")
    for name in formats.names():
        form = formats.get(name)
        for values in form.values:
            if values in ("bfloat16", "int8"):
                continue  # as large as the other type of their width
            sizes = []
            for sparsity in SPARSITIES:
                if ":" in form.pattern and not form.pattern.startswith("block"):
                    kept, group = (int(each) for each in form.pattern.split(":"))
                    if abs(1 - kept / group - sparsity) > 1e-9:
                        sizes.append("-")
                        continue
                rng = np.random.default_rng(0)
                dense = random_weight(form.pattern, *SHAPE, sparsity, rng)
                arrays = form.pack(dense, values)
                sizes.append(f"{form.nbytes(arrays) / dense.size:.3f}")
            print(f"| `{name}` | {values} | " + " | ".join(sizes) + " |")


if __name__ == "__main__":
    main()
