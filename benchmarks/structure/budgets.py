"""What a budget saves in time: ``python -m benchmarks.structure.budgets NAME... [--sparsity 0.3]``.

Each real model is compiled for this machine with the same fraction of MACs, parameters and measured
time as budget; printed is what was reached of each, and what the finished artifact saves of the time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import sparsec
from examples.zoo import calib, real
from sparsec.ir.errors import SparsecError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--sparsity", type=float, default=0.3)
    parser.add_argument("--budgets", nargs="+", default=["macs", "params", "latency"])
    parser.add_argument("--options", default="scope=global", help="further options of the pass")
    options = parser.parse_args()
    print(
        "| model | budget | MACs gone | parameters gone | time gone in the pass | time gone at the end |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.names:
            source = f"examples.zoo.calib:{name}" if hasattr(calib, name) else None
            for budget in options.budgets:
                spec = f"channel:budget={budget},sparsity={options.sparsity},{options.options}"
                try:
                    artifact = sparsec.compile(
                        real.path(name),
                        passes=[spec],
                        calib=source,
                        output=Path(scratch) / "out.sparsec",
                        force=True,
                    )
                except SparsecError as error:
                    print(f"| {name} | {budget} | {error} |", flush=True)
                    continue
                manifest = artifact.manifest
                before, after = manifest["before"], manifest["after"]
                gone = [f"{1 - after[key] / before[key]:.3f}" for key in ("macs", "params")]
                timed = manifest["passes"][0]["notes"].get("latency")
                latency = manifest["latency"]
                end = 1 - latency["sparse_ms"] / latency["dense_ms"]
                cells = [
                    name,
                    budget,
                    *gone,
                    "-" if timed is None else f"{timed:.3f}",
                    f"{end:.3f}",
                ]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
