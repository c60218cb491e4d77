"""Calibration: statistics of the inputs of weights, over all samples, for any graph.

In *sequential* order every weight is visited once, as soon as its inputs are known and before
anything uses it; the visitor may rewrite it, and the inputs of later weights are those that the
rewritten ones produce. In *parallel* order all statistics are those of the model as it is. Both
cost about one forward pass. Equal inputs of several weights are collected once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.errors import CalibrationError
from sparsec.ir.execute.dependencies import Dependencies
from sparsec.ir.execute.digest import Digests, feeds_digest
from sparsec.ir.execute.executor import Executor, Point, Progress, Stop
from sparsec.ir.execute.schedule import Demand, Visit, parallel, sequential
from sparsec.ir.execute.segmented import SegmentedExecutor
from sparsec.ir.run import Feeds
from sparsec.ir.sites import WeightSite
from sparsec.ir.sources import class_numbers
from sparsec.passes.calibration.rows import Tap, taps_of
from sparsec.passes.calibration.statistics import Needs, Statistics
from sparsec.passes.calibration.store import StatisticsStore

Rewrite: TypeAlias = Callable[[WeightSite, Statistics], None]
"""Given a site and the statistics of its inputs; may replace the site's weight, and nothing else."""

COLLECTED_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedSite:
    """What collecting the statistics of one site will take."""

    site: str
    groups: int
    columns: int
    nbytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration data, and how to run a model on it.

    Parameters
    ----------
    feeds : sequence of mappings
        One complete set of inputs a sample.
    executor : Executor, optional
        What runs the graph; ONNX Runtime, segment by segment, if none is given.
    cache : Path, optional
        Folder for statistics and unfinished walks. With one, a run that was killed goes on where it
        was, and statistics of what has not changed are found again.
    mask : str
        Name of the graph input [batch, length] that is zero where a token is padding.
    collected_bytes : int
        Statistics that may be collected at once, if several inputs are known at the same time. What
        one input needs is always collected: see :meth:`plan`.
    labels : array [items], optional
        The right classes of the samples, in their order: as many for each as it has rows. Looked at
        only by what needs them.
    """

    feeds: Sequence[Feeds]
    executor: Executor | None = None
    cache: Path | None = None
    mask: str = "attention_mask"
    collected_bytes: int = COLLECTED_BYTES
    labels: NDArray[Any] | None = None

    def labels_by_feed(self) -> list[NDArray[np.int64]] | None:
        """Return the labels of every sample, or None if there are none.

        Raises
        ------
        CalibrationError
            If they are no whole numbers, or cannot be dealt out evenly.
        """
        if self.labels is None or not self.labels.size:
            return None
        labels = class_numbers(self.labels, "--calib")
        each, left = divmod(len(labels), len(self.feeds))
        if left or not each or labels.min() < 0:
            raise CalibrationError(
                f"{len(labels)} labels do not fit {len(self.feeds)} samples; needed as many for "
                "every sample as it has rows, from 0 up",
                where="labels",
            )
        return np.split(labels, len(self.feeds))

    def plan(self, sites: Sequence[WeightSite], needs: Needs) -> list[PlannedSite]:
        """Return what collecting would take, before anything is run."""
        planned = []
        for site in sites:
            groups, columns = site.layout.groups, site.shape[1]
            planned.append(PlannedSite(site.name, groups, columns, needs.nbytes(groups, columns)))
        return planned

    def hidden(self, model: ir.Model, sites: Sequence[WeightSite]) -> dict[str, str]:
        """Return why the inputs of some sites cannot be looked at, as the end of a sentence."""
        dependencies = Dependencies(model)
        found = {}
        for site in sites:
            reasons = (dependencies.why_not(tap.point) for tap in taps_of(site))
            if reason := next((reason for reason in reasons if reason), None):
                found[site.name] = reason
        return found

    def sequential(
        self,
        model: ir.Model,
        sites: Sequence[WeightSite],
        needs: Needs,
        rewrite: Rewrite,
        *,
        method: str,
        progress: Progress = lambda text, done: None,
    ) -> None:
        """Visit every site once, in an order in which each sees the results of those before.

        Of a site with several uses the statistics are those of every input that does not depend on
        the site itself. After a walk that was resumed, ``rewrite`` has been called only for the
        sites that were left; the others have the weights that it gave them before.

        Parameters
        ----------
        model : onnx_ir.Model
        sites : sequence of WeightSite
            Of ``model``.
        needs : Needs
        rewrite : callable
        method : str
            Names what ``rewrite`` does, with all its options: only a walk of the same model, data
            and method is resumed.
        progress : callable

        Raises
        ------
        CalibrationError
            If a sample cannot be run, or an input holds NaN or infinite numbers.
        """
        dependencies = Dependencies(model)
        taps = [taps_of(site) for site in sites]
        demands = [
            Demand(tuple(tap.point for tap in own), site.nodes, _cost(own, needs))
            for site, own in zip(sites, taps, strict=True)
        ]
        visits = sequential(dependencies, demands, self.collected_bytes)
        by_stop = {visit.stop: visit for visit in visits}
        shown = {index: points for visit in visits for index, points in visit.demands}
        wanted = [
            tuple(tap for tap in own if tap.point in shown[index]) for index, own in enumerate(taps)
        ]

        def leave(stop: Stop, statistics: Mapping[Tap, Statistics]) -> None:
            visit: Visit = by_stop[stop]
            for index, _ in visit.demands:
                rewrite(sites[index], _merged(statistics[tap] for tap in wanted[index]))

        collector = self._collector(dependencies, (t for own in wanted for t in own), needs, leave)
        key = self._walk_key(dependencies, sites, needs, f"sequential {method}")
        self._walk(model, [visit.stop for visit in visits], collector, key, progress)

    @contextlib.contextmanager
    def parallel(
        self,
        model: ir.Model,
        sites: Sequence[WeightSite],
        needs: Needs,
        *,
        progress: Progress = lambda text, done: None,
    ) -> Iterator[Mapping[str, Statistics]]:
        """Yield the statistics of every site, by name, of the model as it is.

        They lie on disk and are read when they are asked for. Of a site with several uses they
        cover all its inputs.

        Raises
        ------
        CalibrationError
            If a sample cannot be run, or an input holds NaN or infinite numbers.
        """
        dependencies = Dependencies(model)
        taps = {site.name: taps_of(site) for site in sites}
        costs: dict[Point, int] = {}
        for tap in dict.fromkeys(tap for own in taps.values() for tap in own):
            costs[tap.point] = costs.get(tap.point, 0) + needs.nbytes(tap.groups, tap.columns)
        stops = parallel(dependencies, costs.items(), self.collected_bytes)
        with tempfile.TemporaryDirectory(prefix="sparsec-statistics-") as scratch:
            store = StatisticsStore(self._folder() or Path(scratch))
            every = (tap for own in taps.values() for tap in own)
            collector = self._collector(dependencies, every, needs, None, store)
            key = self._walk_key(dependencies, sites, needs, "parallel")
            self._walk(model, stops, collector, key, progress)
            keys = {name: tuple(map(collector.key, own)) for name, own in taps.items()}
            yield _OnDisk(store, keys)

    def _walk(
        self,
        model: ir.Model,
        stops: Sequence[Stop],
        collector: _Collector,
        key: str,
        progress: Progress,
    ) -> None:
        executor = self.executor or SegmentedExecutor(cache=self.cache)
        executor.walk(model, stops, self.feeds, collector, key=key, progress=progress)

    def _folder(self) -> Path | None:
        return None if self.cache is None else self.cache / "statistics"

    def _collector(
        self,
        dependencies: Dependencies,
        taps: Iterator[Tap],
        needs: Needs,
        leave: Callable[[Stop, Mapping[Tap, Statistics]], None] | None,
        store: StatisticsStore | None = None,
    ) -> _Collector:
        if store is None and (folder := self._folder()) is not None:
            store = StatisticsStore(folder)
        return _Collector(self, dependencies, dict.fromkeys(taps), needs, leave, store)

    def _walk_key(
        self, dependencies: Dependencies, sites: Sequence[WeightSite], needs: Needs, method: str
    ) -> str:
        """Return a name for everything that decides a walk; empty where nothing is cached."""
        if self.cache is None:
            return ""
        digests = Digests(dependencies)
        graph = [digests.value(value).hex() for value in dependencies.graph.outputs]
        names = [site.name for site in sites]
        data = feeds_digest(self.feeds).hex()
        return repr((graph, data, names, needs, method, self.mask, self.collected_bytes))


class _Collector:
    """The visitor that collects: one set of statistics for each tap of the current stop."""

    def __init__(
        self,
        calibration: Calibration,
        dependencies: Dependencies,
        taps: Mapping[Tap, None],
        needs: Needs,
        leave: Callable[[Stop, Mapping[Tap, Statistics]], None] | None,
        store: StatisticsStore | None,
    ) -> None:
        self._feeds, self._mask = calibration.feeds, calibration.mask
        self._needs, self._leave, self._store = needs, leave, store
        self._taps: dict[Point, list[Tap]] = {}
        for tap in taps:
            self._taps.setdefault(tap.point, []).append(tap)
        self._digests = Digests(dependencies)
        self._data = b"" if store is None else feeds_digest(calibration.feeds)
        self._keys: dict[Tap, bytes] = {}
        self._known: dict[Tap, Statistics] = {}
        self._collecting: dict[Tap, Statistics] = {}

    def key(self, tap: Tap) -> bytes:
        """Return the hash of what the statistics of ``tap`` depend on."""
        if tap not in self._keys:
            how = repr((tap.rows, tap.groups, tap.columns, self._needs, self._mask)).encode()
            parts = (self._digests.point(tap.point), hashlib.sha256(how).digest(), self._data)
            self._keys[tap] = b"".join(parts)
        return self._keys[tap]

    def wants(self, stop: Stop) -> Sequence[Point]:
        """Return the points of which some statistics are not in the store."""
        self._known, self._collecting = {}, {}
        missing = []
        for point in stop.points:
            for tap in self._taps[point]:
                found = None if self._store is None else self._store.get(self.key(tap))
                if found is not None and self._leave is not None:
                    self._known[tap] = found
                elif found is None:
                    self._collecting[tap] = Statistics.empty(tap.groups, tap.columns, self._needs)
            if any(tap in self._collecting for tap in self._taps[point]):
                missing.append(point)
        return missing

    def observe(self, sample: int, shown: Mapping[Point, Sequence[NDArray[Any]]]) -> None:
        """Add the rows of one sample."""
        mask = self._feeds[sample].get(self._mask)
        keep = None if mask is None or np.ndim(mask) != 2 else np.asarray(mask) != 0
        for point, arrays in shown.items():
            for tap in self._taps[point]:
                if (statistics := self._collecting.get(tap)) is None:
                    continue
                for array in arrays:
                    for block in tap.rows.blocks(array, keep):
                        statistics.add(block)
                if not statistics.is_finite():
                    raise CalibrationError(
                        f"{point.value.name}: the input of a layer holds NaN or infinite numbers in "
                        f"calibration sample {sample}; check the data, or leave the sample out",
                        where=point.value.name or "",
                    )

    def leave(self, stop: Stop) -> None:
        """Hand on what was collected."""
        if self._store is not None:
            for tap, statistics in self._collecting.items():
                self._store.put(self.key(tap), statistics)
        if self._leave is not None:
            self._leave(stop, self._known | self._collecting)
        self._known, self._collecting = {}, {}


class _OnDisk(Mapping[str, Statistics]):
    """Statistics by site name, read from a store when they are asked for."""

    def __init__(self, store: StatisticsStore, keys: Mapping[str, tuple[bytes, ...]]) -> None:
        self._store, self._keys = store, keys

    def __getitem__(self, name: str) -> Statistics:
        found = [self._store.get(key) for key in self._keys[name]]
        if any(statistics is None for statistics in found):
            raise CalibrationError(
                f"{self._store.folder}: the statistics of {name} were removed or damaged while they "
                "were in use; run again",
                where=name,
            )
        return _merged(statistics for statistics in found if statistics is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _merged(parts: Iterator[Statistics]) -> Statistics:
    """Return the statistics of all parts together; a single part is handed on as it is."""
    first = next(parts)
    rest = list(parts)
    if not rest:
        return first
    total = Statistics.from_arrays({k: a.copy() for k, a in first.to_arrays().items()})
    for part in rest:
        total.merge(part)
    return total


def _cost(taps: Sequence[Tap], needs: Needs) -> int:
    return sum(needs.nbytes(tap.groups, tap.columns) for tap in dict.fromkeys(taps))
