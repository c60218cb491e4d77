"""Energy: how much of what the next layers return comes from a unit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsec.ir.sites import WeightSite, weight_sites
from sparsec.passes.base import PassContext
from sparsec.passes.calibration.statistics import Needs, Statistics
from sparsec.passes.channel.criteria import Scores, UnitCriterion
from sparsec.passes.channel.criteria.norms import l2
from sparsec.passes.channel.slices import Place, Slices


def score(slices: Slices, context: PassContext) -> list[list[Scores]]:
    """Return, for each layer that reads a unit, ``|W[:, c]|^2 var(x_c)`` summed over its columns.

    That is the variance of what the unit adds to the output of the layer, if its columns were
    independent, and it is given as a share of that of all columns. What is constant is worth nothing:
    a bias can stand for it. Units that no layer reads directly (coordinates of queries and keys) are
    scored by the squared norm of their weights.
    """
    calibration = context.calibrated("criterion=energy")
    sites = {site.weight: site for site in weight_sites(slices.model)}
    read: list[tuple[WeightSite, list[Place]]] = []
    for value, places in slices.places():
        site = sites.get(value)
        columns = [place for place in places if site and place.axis in site.reduction_axes]
        if site is not None and columns and not site.is_depthwise:
            read.append((site, columns))
    hidden = calibration.hidden(slices.model, [site for site, _ in read])
    read = [(site, places) for site, places in read if site.name not in hidden]
    found: list[list[Scores]] = [[] for _ in slices.chosen]
    with calibration.parallel(
        slices.model, [site for site, _ in read], Needs(), progress=context.progress
    ) as statistics:
        for site, places in read:
            energy = weight_energy(site, statistics[site.name])
            total = float(energy.sum())
            stored = site.to_stored(energy / total if total > 0 else energy)
            for place in places:
                found[place.group].append(place.of(stored).sum(axis=1, dtype=np.float64))
    bare = [number for number, tensors in enumerate(found) if not tensors]
    for number, tensors in zip(bare, _by_weights(slices, bare, context), strict=True):
        found[number] = tensors
    return found


def weight_energy(site: WeightSite, statistics: Statistics) -> Scores:
    """Return ``W^2 var(x)`` of every weight, float64 [out, reduction]."""
    matrix = site.matrix().astype(np.float64)
    variance = np.repeat(
        statistics.moments.variance, len(matrix) // len(statistics.moments.variance), axis=0
    )
    return np.asarray(matrix**2 * variance)


def _by_weights(slices: Slices, numbers: list[int], context: PassContext) -> Iterator[list[Scores]]:
    """Yield the ``l2`` scores of some groups, brought to the scale of shares."""
    if numbers:
        for tensors in l2.score(slices.subset(numbers), context):
            yield [each**2 / max(float((each**2).sum()), 1e-300) for each in tensors]


energy = UnitCriterion(score, is_loss=True)
obs = UnitCriterion(score, is_loss=True, by_refit=True)
