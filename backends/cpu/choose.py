"""Which regions to keep: only what measures faster than ONNX Runtime stays.

Candidates are, for every maximal region, the region itself, the region without the dense items at its
front, at its back and at both, and each of its sparse layers alone. Sets of them are then tried in the
whole model, because a node also changes what surrounds it: ONNX Runtime keeps images in a layout of its
own, and a node in the middle makes it convert.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from sparsec.backends.base import LowerContext
from sparsec.backends.cpu.assemble import Region, region_of
from sparsec.backends.cpu.caches import last_cache_bytes
from sparsec.backends.cpu.candidate import MIN_GAIN, Candidate
from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.measurer import Measurer
from sparsec.backends.cpu.observe import observe_shapes
from sparsec.backends.cpu.recognise import recognise
from sparsec.backends.cpu.regions import grow_regions, trimmed
from sparsec.backends.cpu.times import Times
from sparsec.ir.sites import Sites, WeightSite

_SURE = 1.25  # what gains less over the dense model races it once more
# Which borders of a region are left to ONNX Runtime: front, back.
_FORMS = {
    "whole regions": (False, False),
    "without fronts": (True, False),
    "without backs": (False, True),
    "without both": (True, True),
}


@dataclasses.dataclass(slots=True)
class Outcome:
    """What was decided, and on what grounds.

    Parameters
    ----------
    kept : list of Candidate
        Disjoint regions that go into the graph.
    layers : mapping of site name to Candidate
        Each sparse layer alone, timed.
    regions : mapping of site name to Candidate
        The region of several items that was tried with the site inside.
    expressible : set of str
        Names of the sites that a plan could hold.
    machine : mapping
        Where the times were taken.
    """

    kept: list[Candidate] = dataclasses.field(default_factory=list)
    layers: dict[str, Candidate] = dataclasses.field(default_factory=dict)
    regions: dict[str, Candidate] = dataclasses.field(default_factory=dict)
    expressible: set[str] = dataclasses.field(default_factory=set)
    notes: list[str] = dataclasses.field(default_factory=list)
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)


def is_sparse(item: Item) -> bool:
    """Whether an item holds a pruned weight."""
    return item.site is not None and item.site.pattern is not None


def choose(model: ir.Model, sites: Sites, context: LowerContext) -> Outcome:
    """Time the candidates of a graph and return the set that is fastest in the whole model."""
    context.progress("look for regions", 0.0)
    scene = Scene(model, observe_shapes(model, context.feeds))
    items = recognise(scene, sites)
    outcome = Outcome(expressible={item.site.name for item in items if item.site is not None})
    weights = 4 * sum(math.prod(site.shape) for site in sites)
    cold = weights > last_cache_bytes()
    times = Times(context.cache)
    measurer = Measurer(scene, context.feeds[0], context.threads, times, cold)

    layers = [region_of([item]) for item in items if is_sparse(item)]
    alone = _timed(measurer, layers, context, "time layers", (0.1, 0.5))
    outcome.layers = {site.name: c for c in alone for site in sites_of(c.region)}

    forms = [_forms(region) for region in grow_regions(scene, items, is_sparse)]
    distinct = list(dict.fromkeys(form for four in forms for form in four if len(form.items) > 1))
    wide = dict(
        zip(distinct, _timed(measurer, distinct, context, "time regions", (0.5, 0.8)), strict=True)
    )
    best = [_fastest([wide[form] for form in four if form in wide]) for four in forms]
    outcome.regions = {site.name: c for c in best if c is not None for site in sites_of(c.region)}

    context.progress("time the whole model", 0.8)
    sets = {
        "regions": [c for c in best if c is not None and c.gains],
        "close ones too": [c for c in best if c is not None],
    }
    for index, name in enumerate(_FORMS):
        sets[name] = [
            chosen if (chosen := wide.get(four[index])) is not None and chosen.gains else fastest
            for four, fastest in zip(forms, best, strict=True)
            if fastest is not None and fastest.gains
        ]
    outcome.kept = _whole(measurer, outcome, alone, sets)
    context.progress("tune", 0.9)
    outcome.kept = _tuned(measurer, outcome)
    times.save()
    outcome.machine = times.machine
    if times.recalled and not times.taken:
        outcome.notes.append("all times are those of an earlier compilation (--cache)")
    return outcome


def _tuned(measurer: Measurer, outcome: Outcome) -> list[Candidate]:
    """Return what is kept with columns cut as measured, if the whole model is faster with it."""
    kept = outcome.kept
    tuned = measurer.tuned(kept)
    if all(c.tiles == k.tiles for c, k in zip(tuned, kept, strict=True)):
        return kept
    times = measurer.whole({"modelled": kept, "measured": tuned})
    ratio = times["modelled"] / times["measured"]
    outcome.notes.append(f"columns cut as measured, against as modelled: {ratio:.2f}")
    return tuned if ratio >= 1 else kept


def sites_of(region: Region) -> Iterable[WeightSite]:
    """Return the pruned sites of a region."""
    return (item.site for item in region.items if item.site is not None and is_sparse(item))


def _forms(region: Region) -> list[Region]:
    """Return a region in the order of ``_FORMS``; equal forms are one object."""
    found: dict[tuple[Item, ...], Region] = {tuple(region.items): region}
    forms = []
    for front, back in _FORMS.values():
        form = trimmed(region, is_sparse, front=front, back=back)
        forms.append(found.setdefault(tuple(form.items), form))
    return forms


def _timed(
    measurer: Measurer,
    regions: Sequence[Region],
    context: LowerContext,
    what: str,
    span: tuple[float, float],
) -> list[Candidate]:
    found: list[Candidate] = []
    for start in range(0, len(regions), 16):
        context.progress(what, span[0] + (span[1] - span[0]) * start / len(regions))
        found += measurer.measure(regions[start : start + 16])
    return found


def _fastest(forms: Sequence[Candidate]) -> Candidate | None:
    """Return the form of a region that saves most time, if one may gain: the whole model decides then."""
    return max(
        (c for c in forms if c.may_gain),
        key=lambda c: c.dense_seconds - c.sparse_seconds,
        default=None,
    )


def _whole(
    measurer: Measurer,
    outcome: Outcome,
    alone: Sequence[Candidate],
    wide: Mapping[str, Sequence[Candidate]],
) -> list[Candidate]:
    """Race the sets of candidates as whole models; the dense model is one of them."""
    singles = [c for c in alone if c.gains]
    sets: dict[str, list[Candidate]] = {"dense": []}
    if singles:
        sets["layers"] = singles
    for name, regions in wide.items():
        covered = {item for c in regions for item in c.region.items}
        chosen = [*regions, *(c for c in singles if c.region.items[0] not in covered)]
        if regions and chosen not in sets.values():
            sets[name] = chosen
    if len(sets) == 1:
        return []
    times = measurer.whole(sets)
    best = min(times, key=lambda name: times[name])
    ratios = ", ".join(f"{n} {times['dense'] / t:.2f}" for n, t in times.items() if n != "dense")
    outcome.notes.append(f"whole model against dense ONNX Runtime: {ratios}")
    gain = times["dense"] / times[best]
    # The luckiest of several was chosen: what counts is the race that follows.
    if MIN_GAIN < gain < _SURE:
        times = measurer.whole({"dense": [], best: sets[best]}, again=True)
        gain = times["dense"] / times[best]
        outcome.notes.append(f"whole model once more: {best} {gain:.2f}")
    return sets[best] if gain > MIN_GAIN else []
