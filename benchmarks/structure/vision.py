"""All of torchvision at half its channels and heads: groups, savings, time and memory.

::

    python -m benchmarks.structure.vision [--again] [NAME ...]   measure what is missing, or NAMEs
    python -m benchmarks.structure.vision --table                write docs/structural-torchvision.md

Every network runs in a process of its own, one thread. Results are kept in
benchmarks/results/torchvision.json after each network, so a run may be interrupted.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.structure.measure import prune_and_time
from benchmarks.structure.tables import vision_page
from examples.zoo.vision import NETWORKS, load
from sparsec.ir.cleanup import clean_up, fold_batch_norm
from sparsec.ir.feeds import random_feeds
from sparsec.machine import fingerprint

RESULTS = Path(__file__).parents[1] / "results" / "torchvision.json"
PAGE = Path(__file__).parents[2] / "docs" / "structural-torchvision.md"
SPECS = ("heads:sparsity=0.5", "channel:sparsity=0.5")


def measure(name: str, rounds: int) -> dict[str, Any]:
    dense = load(name)
    clean_up(dense)
    fold_batch_norm(dense)
    return prune_and_time(dense, random_feeds(dense).feeds[0], SPECS, rounds)


def known() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": {}}


def record(name: str, row: dict[str, Any]) -> None:
    with Path(__file__).open() as file:  # several networks may be measured at once
        fcntl.flock(file, fcntl.LOCK_EX)
        results = known()
        results |= {"machine": fingerprint(), "passes": SPECS}
        results["rows"][name] = row
        results["rows"] = dict(sorted(results["rows"].items()))
        partial = RESULTS.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1) + "\n")
        partial.rename(RESULTS)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--again", action="store_true", help="measure networks that are known, too")
    parser.add_argument("--here", action="store_true", help="measure one network in this process")
    parser.add_argument("--table", action="store_true", help="write the page from the results")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    if given.here:
        (name,) = given.names
        row = measure(name, given.rounds)
        record(name, row)
        (m0, m1), (t0, t1) = row["macs"], row["ms"]
        print(
            f"{name}: macs {m1 / m0:.0%}, time {t1 / t0:.0%}, groups {row['groups']}, "
            f"frozen {row['frozen']}, {row['seconds']:.1f} s, {row['megabytes']:.0f} MB"
        )
        return 0
    failed = 0
    for name in () if given.table else given.names or NETWORKS:
        if name in known()["rows"] and not (given.again or given.names):
            continue
        here = [sys.executable, "-m", __spec__.name, "--here", name, f"--rounds={given.rounds}"]
        done = subprocess.run(here, check=False)
        if done.returncode:
            failed += 1
            print(f"{name}: failed", file=sys.stderr)
    PAGE.write_text(vision_page(known()))
    return int(failed > 0)


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
