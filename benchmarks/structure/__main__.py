"""What removing heads and channels saves of the real models: multiply-accumulates and time, side by side.

::

    python -m benchmarks.structure [--sparsity 0.3] [--rounds 15] [NAME ...]

One thread, interleaved rounds, medians. The baseline is the dense model after our exact clean-ups, with
all of the runtime's optimisations. Results go to benchmarks/results/structure.json, model by model, and
the page docs/structural-real.md is written from them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from benchmarks.structure.measure import prune_and_time
from benchmarks.structure.tables import real_page
from examples.zoo import real
from sparsec.ir.cleanup import clean_up, fold_batch_norm
from sparsec.ir.load import load_model
from sparsec.machine import fingerprint

RESULTS = Path(__file__).parents[1] / "results" / "structure.json"
PAGE = Path(__file__).parents[2] / "docs" / "structural-real.md"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(real.REAL))
    parser.add_argument("--sparsity", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    specs = [f"{name}:sparsity={given.sparsity}" for name in ("heads", "channel")]
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else {}
    for name in given.names:
        dense = load_model(real.path(name))
        clean_up(dense)
        fold_batch_norm(dense)
        row = prune_and_time(dense, real.feeds(name)[0], specs, given.rounds, profile=True)
        rows[name] = row
        (m0, m1), (t0, t1) = row["macs"], row["ms"]
        saved = 1 - m1 / m0 if m0 else 0.0
        print(
            f"{name:18} macs -{saved:.0%}  time {t0:.3f} -> {t1:.3f} ms ({1 - t1 / t0:+.0%} saved)",
            flush=True,
        )
        ordered = {key: rows[key] for key in real.REAL if key in rows}
        record = {
            "machine": fingerprint(),
            "load": os.getloadavg(),
            "passes": specs,
            "rows": ordered,
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(real_page(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
