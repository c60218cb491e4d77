"""The verdict: what was gained, whether the goals were met, and the exit code that follows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsec.artifact.writer import payload_bytes
from sparsec.backends.base import Feeds, Runner
from sparsec.backends.targets import backends
from sparsec.compare import CONSTANT, fidelity_warning
from sparsec.goals import check_goals
from sparsec.ir.codes import Code
from sparsec.ir.cost import GraphCost
from sparsec.ir.patterns import NM, parse_pattern
from sparsec.ir.run import OrtRunner
from sparsec.ir.target import Status, Target
from sparsec.machine import fingerprint
from sparsec.passes.pipeline import Step
from sparsec.prove import Trial
from sparsec.recipe import Recipe
from sparsec.timing import race

# Below these a change is noise to a user: 3 % of latency, of bytes, of multiply-accumulates.
MIN_SPEEDUP = 1.03
MIN_SHRINK = 0.03

ROUNDS = 11


def judge(
    trial: Trial,
    stage: Path,
    manifest: Mapping[str, Any],
    recipe: Recipe,
    target: Target,
    cost: tuple[GraphCost, GraphCost],
    steps: Sequence[Step],
) -> dict[str, Any]:
    """Measure where that is possible, check the goals and decide the exit code.

    Returns
    -------
    dict
        ``before``, ``after``, ``latency``, ``goals``, ``notes`` and ``exit_code`` of the manifest.
    """
    before, after = (
        totals(cost[0], source_bytes(trial, manifest)),
        totals(cost[1], payload_bytes(stage)),
    )
    latency = None
    backend = backends.get(target.backend)()
    if backend.status(target) is Status.MEASURED:
        runner = backend.runner(stage, manifest, 1)
        latency = measure(runner, (trial.original, trial.dense), trial.feeds[0])
    goals = check_goals(recipe.goals, before, after, latency, manifest["accuracy"])
    changed = any(step.result.changed for step in steps)
    notes = [*manifest["lowering_notes"]]
    if not manifest["verify"]["varied"]:
        notes.append(CONSTANT)
    if warning := fidelity_warning(manifest):
        notes.append(warning)
    if not changed:
        notes.append(
            "nothing was changed: no pass was given, or none found a layer that it could prune"
        )
        exit_code = 5
    elif goals:
        exit_code = 5 if any(goal["met"] is False for goal in goals) else 0
    elif latency is not None and not gained(manifest, before, after, latency):
        notes.append(no_gain(manifest, before, after, latency))
        exit_code = 5
    else:
        exit_code = 0
    if exit_code == 0 and latency is not None and (warning := slower(latency)):
        notes.append(warning)
    return {
        "before": before,
        "after": after,
        "latency": latency,
        "goals": goals,
        "notes": notes,
        "exit_code": exit_code,
    }


def totals(cost: GraphCost, size: int) -> dict[str, int]:
    """Return ``{"params", "nonzero", "bytes", "macs"}``."""
    return {"params": cost.params, "nonzero": cost.nonzero, "bytes": size, "macs": cost.macs}


def source_bytes(trial: Trial, manifest: Mapping[str, Any]) -> int:
    """Return the size of the original; a model that was no file counts as if it were saved."""
    if (size := manifest["source"]["bytes"]) is not None:
        return int(size)
    return sum(file.stat().st_size for file in trial.dense.parent.iterdir())


def measure(
    artifact: Runner,
    baselines: Sequence[Path],
    feeds: Feeds,
    threads: int = 1,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """Time the artifact against the fastest of the dense baselines, interleaved.

    With one thread the seconds are that thread's own, so that other processes do not count.

    Returns
    -------
    dict
        ``dense_ms``, ``sparse_ms``, ``speedup`` (ratio of medians), its 10th and 90th percentile
        over the rounds, ``rounds``, ``threads`` and the machine.
    """
    import numpy as np

    contestants = {"sparse": lambda: artifact.run(feeds)}
    for path in dict.fromkeys(baselines):
        dense = OrtRunner(path, threads=threads)
        contestants[str(path)] = lambda dense=dense: dense.run(feeds)  # type: ignore[misc]
    times = race(contestants, rounds, clock=time.thread_time if threads == 1 else time.perf_counter)
    best = min((name for name in contestants if name != "sparse"), key=times.median)
    ratios = times.ratios(best, "sparse")
    return {
        "dense_ms": 1e3 * times.median(best),
        "sparse_ms": 1e3 * times.median("sparse"),
        "speedup": times.median(best) / times.median("sparse"),
        "speedup_p10": float(np.percentile(ratios, 10)),
        "speedup_p90": float(np.percentile(ratios, 90)),
        "rounds": rounds,
        "threads": threads,
        "machine": fingerprint(),
    }


def gained(
    manifest: Mapping[str, Any],
    before: Mapping[str, int],
    after: Mapping[str, int],
    latency: Mapping[str, Any],
) -> bool:
    """Whether latency, bytes or multiply-accumulates improved by more than noise.

    A speed-up counts only where a layer runs another kernel than before: without one, artifact and
    baseline are the same graph, and what the clock saw is the machine's mood.
    """
    lowered = any(
        layer["code"] in (Code.MEASURED_FASTER, Code.MODELLED) for layer in manifest["layers"]
    )
    if lowered and latency["speedup"] >= MIN_SPEEDUP:
        return True
    return any(before[key] - after[key] > MIN_SHRINK * before[key] for key in ("bytes", "macs"))


def slower(latency: Mapping[str, Any]) -> str | None:
    """Return the sentence for an artifact that lost time in nine rounds of ten, else None."""
    if latency["speedup_p90"] * MIN_SPEEDUP >= 1:
        return None
    return f"slower than the dense model on this machine (x{latency['speedup']:.2f}), in nine rounds of ten"


def no_gain(
    manifest: Mapping[str, Any],
    before: Mapping[str, int],
    after: Mapping[str, int],
    latency: Mapping[str, Any],
) -> str:
    """Return the sentence that says why nothing was gained, and what would pay."""
    start = f"no gain on this machine (x{latency['speedup']:.2f}): "
    pruned = [layer for layer in manifest["layers"] if layer["pattern"] != "dense"]
    if not pruned:
        if (removed := before["params"] - after["params"]) > 0:
            return (
                f"{start}{removed} parameters were removed, too few to count, and layers of odd "
                "widths can take longer than before; channel:sparsity=0.3 keeps multiples that suit "
                "the machine"
            )
        return f"{start}no layer has zeros that a kernel could skip"
    codes = Counter(layer["code"] for layer in pruned).most_common()
    reason = next(layer["reason"] for layer in pruned if layer["code"] == codes[0][0])
    why = ", ".join(f"{count} x {code}" for code, count in codes)
    way_out = "`sparsec inspect --why` of the artifact has the reason of each"
    if any(isinstance(parse_pattern(layer["pattern"]), NM) for layer in pruned):
        way_out = (
            "on a CPU unstructured:sparsity=0.9 or block:rows=4,cols=1,sparsity=0.8 pays where "
            "N:M does not"
        )
    return f"{start}pruned layers are {why} (the first: {reason}); {way_out}"
