"""Timing candidates on this machine, against the nodes that they replace and in the whole model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.base import Feeds
from sparsec.backends.cpu.assemble import Region, build_plan
from sparsec.backends.cpu.candidate import CLOSE, Candidate, boundary, part_model, region_model
from sparsec.backends.cpu.insert import apply, moved
from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.kernels import site_kernels
from sparsec.backends.cpu.measure import Contest
from sparsec.backends.cpu.observe import observe
from sparsec.backends.cpu.plan import Plan
from sparsec.backends.cpu.times import Times
from sparsec.backends.cpu.tune import SHORTEST, Tuner, columns_of, quanta_of
from sparsec.ir.machine import available_cpus

_WHOLE_SECONDS = 2.0


class Measurer:
    """Times candidates; equal work is timed once.

    Parameters
    ----------
    times : Times
        Where what is timed is remembered.
    cold : bool
        Whether the weights of the model exceed the caches, so that each layer meets its own in memory.
    """

    def __init__(
        self, scene: Scene, feed: Feeds, threads: int, times: Times, cold: bool = False
    ) -> None:
        self._scene = scene
        self._feed = feed
        self._threads = threads
        self._cold = cold
        self._times = times

    def measure(self, regions: Sequence[Region]) -> list[Candidate]:
        """Return every region with its plan and times, in the given order."""
        made = [build_plan(self._scene, region) for region in regions]
        kernels = [
            site_kernels(self._scene, region, plan)
            for region, plan in zip(regions, made, strict=True)
        ]
        plans = [plan.to_bytes() for plan in made]
        works = [self.work(*pair) for pair in zip(regions, kernels, strict=True)]
        new = [i for i, work in enumerate(works) if self._times.get(work) is None]
        data = self._data([regions[i] for i in new])
        for i in new:
            if self._times.get(works[i]) is None:  # an equal one may just have been timed
                self._times.add(works[i], self._race(regions[i], plans[i], data))
        found = [self._times.get(work) or {} for work in works]
        return [
            Candidate(region, plan, names, seconds["dense"], seconds["sparse"])
            for region, plan, names, seconds in zip(regions, plans, kernels, found, strict=True)
        ]

    def tuned(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return candidates with plans that say how to cut columns, where that measures faster.

        With as many threads as all else is timed with, and with all that there are.
        """
        long = [c for c in candidates if c.sparse_seconds > SHORTEST]
        data = self._data([c.region for c in long])
        return [self._tuned(c, data) if c in long else c for c in candidates]

    def _tuned(self, candidate: Candidate, data: Mapping[str, NDArray[Any]]) -> Candidate:
        region, plan = candidate.region, Plan.from_bytes(candidate.plan)
        inputs = [np.ascontiguousarray(self._operand(v, data)) for v in region.inputs]
        sizes = [columns_of(self._scene, item) for item in region.items]
        quanta, work = quanta_of(self._scene, region), self.work(region, candidate.kernels)
        tuner = Tuner(plan, inputs, sizes, quanta, self._times, work)
        counts = sorted({self._threads, available_cpus()})
        tiles = tuple(itertools.chain.from_iterable(tuner.tiles(threads) for threads in counts))
        if not tiles:
            return candidate
        plan = dataclasses.replace(plan, tiles=tiles)
        return dataclasses.replace(candidate, plan=plan.to_bytes(), tiles=tiles)

    def _operand(self, value: ir.Value, data: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        constant = self._scene.constant(value)
        return data[value.name or ""] if constant is None else constant

    def _data(self, regions: Sequence[Region]) -> Mapping[str, NDArray[Any]]:
        """Return everything that the regions read, as it is on the first feed."""
        if not regions:
            return {}
        wanted = dict.fromkeys(name for region in regions for name in boundary(region))
        missing = [name for name in wanted if name not in self._feed]
        return {**self._feed, **dict(observe(self._scene.model, self._feed, missing))}

    def _race(
        self, region: Region, plan: bytes, data: Mapping[str, NDArray[Any]]
    ) -> Mapping[str, float]:
        contest = Contest(self._threads)
        contest.enter("dense", part_model(self._scene.model, region), data)
        contest.enter("sparse", region_model(self._scene.model, region, plan), data)
        return contest.run(cold=self._cold)

    def work(self, region: Region, kernels: Mapping[str, str]) -> tuple[Any, ...]:
        """Return what decides the time of a region: shapes, wiring, patterns, sparsities, kernels."""
        number = {value: i for i, value in enumerate(region.inputs)}
        shapes = tuple(self._scene.shape(v) for v in region.inputs)
        parts = []
        for item in region.items:
            operands = tuple(-1 if v is None else number[v] for v in item.inputs)
            number[item.output] = len(number)
            parts.append((operands, *_kind_of_work(item)))
        outputs = tuple(number[value] for value in region.outputs)
        how = tuple(kernels.values()), self._threads, self._cold
        return "region", shapes, tuple(parts), outputs, how

    def whole(
        self, sets: Mapping[str, Sequence[Candidate]], *, again: bool = False
    ) -> Mapping[str, float]:
        """Race sets of candidates as whole models and return their seconds.

        A race that is close between the first and the best of the others is held again in new sessions,
        because where their memory lies is luck, and the mean of both counts. ``again`` tells a race from
        an earlier one of the same sets.
        """
        works = {name: self._works(each) for name, each in sets.items()}
        what = "whole", self._graph(), works, again
        times = self._times.get(what)
        if times is None:
            first, *others = sets
            times = self._race_whole(sets)
            best = times[first] / min(times[name] for name in others)
            if 1 / CLOSE < best < CLOSE:
                second = self._race_whole(sets)
                scale = times[first] / second[first]
                times = {name: (times[name] + scale * second[name]) / 2 for name in sets}
            self._times.add(what, times)
        return times

    def _race_whole(self, sets: Mapping[str, Sequence[Candidate]]) -> Mapping[str, float]:
        contest = Contest(self._threads)
        for name, candidates in sets.items():
            variant = self._scene.model.clone()
            apply(variant, moved(candidates, self._scene.model, variant))
            contest.enter(name, variant, self._feed)
        return contest.run(_WHOLE_SECONDS, (7, 25))

    def _works(self, candidates: Sequence[Candidate]) -> list[tuple[Any, ...]]:
        return [(self.work(c.region, c.kernels), c.tiles) for c in candidates]

    def _graph(self) -> list[tuple[Any, ...]]:
        """Return what decides the time of the model's own nodes: operators and shapes."""
        return [
            (node.domain, node.op_type, [self._scene.shape(value) for value in node.outputs])
            for node in self._scene.graph
        ]


def _kind_of_work(item: Item) -> tuple[Any, ...]:
    weight = item.tensors.get("weight")
    kept = None if weight is None else round(np.count_nonzero(weight) / weight.size, 2)
    pattern = str(item.site.pattern) if item.site is not None else ""
    fields = tuple(sorted(item.fields.items()))
    code, kind = item.code.name, item.kind.name
    return code, kind, item.channels, kept, pattern, fields, len(item.nodes)
