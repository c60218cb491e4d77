"""Pages of the documentation, written from measured results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_VISION = """# Structural pruning of torchvision

Written by `python -m benchmarks.structure.vision` from `benchmarks/results/torchvision.json`.

The {count} networks of torchvision 0.28.0, with random weights, pruned by {passes}: all classifiers, all
segmentation networks, both RAFT, and the backbones with feature pyramids of the detectors. Classifiers and
segmentation networks read [1, 3, 224, 224] (inception_v3 299), flow two pictures of 128, detectors 320.
Every certificate was replayed in the run: {certificates} of {certificates}.

* **groups**: those that can be pruned, and of how many the units are frozen. Why is in the second table.
* **MACs**, **params**, **ms**: what is left, in percent, and the milliseconds of the dense graph in ONNX
  Runtime {runtime} on one thread of {cpu}; medians of interleaved rounds, by the thread's own clock.
* **s**, **MB**: processor seconds of both passes with their replays, and the most memory that they took
  beyond what was held before (the weights). At
  most {seconds:.0f} s ({slowest}) and {megabytes:.0f} MB ({largest}).

{rows}

## What is frozen, and why

{reasons}
"""


def vision_page(results: Mapping[str, Any]) -> str:
    """Return the page about torchvision."""
    rows = results["rows"]
    frozen: dict[str, list[str]] = {}
    total: Counter[str] = Counter()
    for name, row in rows.items():
        for reason, count in row["reasons"].items():
            frozen.setdefault(reason, []).append(name)
            total[reason] += count
    table = [("network", "groups", "frozen", "MACs", "params", "ms dense", "ms", "s", "MB")]
    for name, row in rows.items():
        (m0, m1), (p0, p1), (t0, t1) = row["macs"], row["params"], row["ms"]
        table.append(
            (
                name,
                str(row["groups"]),
                str(row["frozen"]),
                f"{m0 / 1e6:.0f} M → {m1 / m0:.0%}",
                f"{p0 / 1e6:.1f} M → {p1 / p0:.0%}",
                f"{t0:.1f}",
                f"{t1:.1f} = {t1 / t0:.0%}",
                f"{row['seconds']:.1f}",
                f"{row['megabytes']:.0f}",
            )
        )
    why = [("reason", "groups", "networks")]
    for reason, count in total.most_common():
        names = frozen[reason]
        why.append((reason, str(count), ", ".join(names) if len(names) < 9 else f"{len(names)}"))
    slowest = max(rows, key=lambda name: rows[name]["seconds"])
    largest = max(rows, key=lambda name: rows[name]["megabytes"])
    return _VISION.format(
        count=len(rows),
        passes=" and ".join(f"`{spec}`" for spec in results["passes"]),
        certificates=sum(row["certificates"] for row in rows.values()),
        runtime=results["machine"]["onnxruntime"],
        cpu=results["machine"]["cpu"],
        seconds=rows[slowest]["seconds"],
        slowest=slowest,
        megabytes=rows[largest]["megabytes"],
        largest=largest,
        rows=markdown(table),
        reasons=markdown(why),
    )


_REAL = """# Structural pruning of the real models

Written by `python -m benchmarks.structure` from `benchmarks/results/structure.json`: {passes}; every
certificate was replayed in the run. Milliseconds in ONNX Runtime {runtime} on one thread of {cpu}: medians of
interleaved rounds, by the thread's own clock. One-shot, without refit and without fine-tuning: this page
is about cost, not about accuracy.

{rows}

Where time saves less than four fifths of what the multiply-accumulates do, the last column says where the
time of the pruned model goes, by the runtime's own profile, and what each operator took before: what
reads and writes memory, what steps through a sequence and what was frozen does not get faster in
proportion. Operators are those that the runtime fuses; it may fuse the two graphs differently.

## What is frozen, and why

{reasons}
"""


def real_page(results: Mapping[str, Any]) -> str:
    """Return the page about the real models."""
    table = [
        ("model", "groups pruned", "MACs saved", "time saved", "ms", "s", "MB", "where time lags")
    ]
    why = [("model", "frozen", "reasons")]
    for name, row in results["rows"].items():
        (m0, m1), (t0, t1) = row["macs"], row["ms"]
        macs, time = (1 - m1 / m0 if m0 else 0.0), 1 - t1 / t0
        table.append(
            (
                name,
                f"{row['pruned']} of {row['groups']}",
                f"{macs:.0%}",
                f"{time:.0%}",
                f"{t0:.2f} → {t1:.2f}",
                f"{row['seconds']:.1f}",
                f"{row['megabytes']:.0f}",
                _lag(row) if macs > 0.01 and time < 0.8 * macs else "",
            )
        )
        reasons = [f"{reason} ({count})" for reason, count in row["reasons"].items()]
        why.append((name, str(row["frozen"]), "; ".join(reasons)))
    return _REAL.format(
        passes=" and ".join(f"`{spec}`" for spec in results["passes"]),
        runtime=results["machine"]["onnxruntime"],
        cpu=results["machine"]["cpu"],
        rows=markdown(table),
        reasons=markdown(why),
    )


def _lag(row: Mapping[str, Any]) -> str:
    """Say which operators take most of what is left, and what each took before."""
    before, after = row["operators"]
    total = sum(after.values())
    parts = []
    for name, spent in list(after.items())[:3]:
        parts.append(f"{name} {spent / total:.0%} ({before.get(name, 0):.2f} → {spent:.2f} ms)")
    return ", ".join(parts)


def markdown(rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table; the first row is its head."""
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
