"""The executor that goes segment by segment: all samples through one, then through the next.

Between two stops lies a segment: the nodes that the next stop needs and that have not run yet. It
is cut with the weights as they are by then, every sample goes through it, and what
later segments need is kept (:mod:`sparsec.ir.execute.live`). Each node runs once for each sample,
but for two kinds: a piece with bodies that a stop looks into, and what makes sequences of tensors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.execute.checkpoint import Checkpoint, Position, locked, value_file
from sparsec.ir.execute.dependencies import Dependencies, members
from sparsec.ir.execute.engine import Engine, OrtEngine
from sparsec.ir.execute.executor import Point, Progress, Stop, Visitor
from sparsec.ir.execute.live import LiveValues
from sparsec.ir.execute.segment import cut_segment, reads_of
from sparsec.ir.run import Feeds

Array = NDArray[Any]

LIVE_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentedExecutor:
    """Walks a graph segment by segment.

    Parameters
    ----------
    engine : Engine
        What runs the segments.
    live_bytes : int
        Values between segments that may be held in memory; the rest is spilled to disk.
    cache : Path, optional
        Folder in which unfinished walks are kept; without it a walk that is killed is lost.
    """

    engine: Engine = OrtEngine()  # noqa: RUF009  (frozen)
    live_bytes: int = LIVE_BYTES
    cache: Path | None = None

    def walk(
        self,
        model: ir.Model,
        stops: Sequence[Stop],
        feeds: Sequence[Feeds],
        visitor: Visitor,
        *,
        key: str = "",
        progress: Progress = lambda text, done: None,
    ) -> None:
        """Show every stop to ``visitor``; see :class:`sparsec.ir.execute.executor.Executor`.

        Raises
        ------
        CalibrationError
            If a sample cannot be run through the graph.
        UnsupportedOpError
            If the runtime has no kernel for an operator; it is named.
        """
        dependencies = Dependencies(model)
        with self._folder(key) as (folder, resumable):
            live = LiveValues(folder, self.live_bytes, keep=resumable)
            checkpoint = Checkpoint(folder, dependencies) if resumable else None
            position = checkpoint.load(live) if checkpoint else Position()
            walk = _Walk(self, dependencies, stops, feeds, visitor, live, position, progress)
            while position.stop < len(stops):
                obsolete = walk.advance()
                if checkpoint:
                    checkpoint.save(position, live, obsolete)
                else:
                    for path in obsolete:
                        path.unlink(missing_ok=True)
            if checkpoint:
                checkpoint.remove()

    @contextlib.contextmanager
    def _folder(self, key: str) -> Iterator[tuple[Path, bool]]:
        """Yield a folder for live values, and whether the walk can be resumed from it."""
        if self.cache is not None and key:
            folder = self.cache / "walks" / hashlib.sha256(key.encode()).hexdigest()[:32]
            with locked(folder) as mine:
                if mine:
                    yield folder, True
                    return
        with tempfile.TemporaryDirectory(prefix="sparsec-walk-") as scratch:
            yield Path(scratch), False


class _Walk:
    """One walk in progress."""

    def __init__(
        self,
        executor: SegmentedExecutor,
        dependencies: Dependencies,
        stops: Sequence[Stop],
        feeds: Sequence[Feeds],
        visitor: Visitor,
        live: LiveValues,
        position: Position,
        progress: Progress,
    ) -> None:
        self.executor, self.dependencies = executor, dependencies
        self.stops, self.feeds, self.visitor = stops, feeds, visitor
        self.live, self.position = live, position
        ahead = (point for stop in stops[position.stop :] for point in stop.points)
        total = dependencies.missing(ahead, position.done)
        self.clock = _Clock(dependencies, total, len(feeds), progress)

    def advance(self) -> list[Path]:
        """Go to the next stop and behind it; return the files that are now of no use."""
        stop = self.stops[self.position.stop]
        if points := self.visitor.wants(stop):
            self._run(points)
        self.visitor.leave(stop)
        self.position.stop += 1
        return self.live.drop_all_but(self._needed_from(self.position.stop))

    def _needed_from(self, first: int) -> set[ir.Value]:
        """Return the values that the stops from ``first`` on show, or that they need to run."""
        later = [point for stop in self.stops[first:] for point in stop.points]
        missing = self.dependencies.missing(later, self.position.done)
        shown = {point.value for point in later if not self.dependencies.is_inner(point)}
        return {*reads_of(self.dependencies, missing), *shown}

    def _run(self, points: Sequence[Point]) -> None:
        """Run what ``points`` need for every sample, and show them."""
        dependencies, done = self.dependencies, self.position.done
        outer = [point for point in points if not dependencies.is_inner(point)]
        inner = [point for point in points if dependencies.is_inner(point)]
        running = dependencies.missing(points, done)
        # A piece that is only looked into is not done: it runs again for its results.
        self.position.done = done | dependencies.storable(self._ahead(points) & running)
        later = self._needed_from(self.position.stop + 1)
        kept = {value for value in later if self._made_by(value, running)}
        fresh = {p.value for p in outer if self._made_by(p.value, running)}
        outputs = sorted(kept | fresh, key=lambda v: (dependencies.source(v), v.index()))
        if not running:  # everything is known: inputs of the graph, or kept from before
            for sample in range(len(self.feeds)):
                self._show(sample, outer, {}, {})
            return
        segment = cut_segment(
            dependencies, running, outputs, inner, lambda value: self._value(value, 0)
        )
        run = self.executor.engine.open(segment)
        for sample in range(len(self.feeds)):
            found = run({v.name or "": self._value(v, sample) for v in segment.reads})
            results = dict(zip(outputs, found, strict=False))
            for value in kept:
                name = value_file(dependencies, value)
                self.live.put(value, name, sample, results[value])
            self._show(sample, outer, results, dict(zip(inner, found[len(outputs) :], strict=True)))
            self.clock.tick(running)

    def _ahead(self, points: Sequence[Point]) -> int:
        """Return what must have run before ``points``, the pieces that are looked into left out."""
        result = 0
        for point in points:
            result |= self.dependencies.before(point)
        return result

    def _made_by(self, value: ir.Value, running: int) -> bool:
        source = self.dependencies.source(value)
        return source is not None and bool(running >> source & 1)

    def _show(
        self,
        sample: int,
        outer: Sequence[Point],
        results: dict[ir.Value, Array],
        logs: dict[Point, list[Array]],
    ) -> None:
        shown: dict[Point, Sequence[Array]] = {**logs}
        for point in outer:
            known = results.get(point.value)
            shown[point] = [self._value(point.value, sample) if known is None else known]
        self.visitor.observe(sample, shown)

    def _value(self, value: ir.Value, sample: int) -> Array:
        """Return a value that was computed before, an input of the graph, or a constant."""
        if value in self.live:
            return self.live.get(value, sample)
        if value.const_value is not None:
            return value.const_value.numpy()
        return self.feeds[sample][value.name or ""]


class _Clock:
    """Tells how much of a walk is done and how long the rest will take.

    A node counts as one, and as much more as it has weights: what it costs is not known beforehand.
    """

    def __init__(
        self, dependencies: Dependencies, total: int, samples: int, progress: Progress
    ) -> None:
        self._weigh: Callable[[int], float] = lambda mask: sum(
            1 + sum(v.const_value.nbytes for v in dependencies.reads[p] if v.const_value) / 4096
            for p in members(mask)
        )
        self._total = self._weigh(total) * samples or 1.0
        self._done = 0.0
        self._weights: dict[int, float] = {}
        self._start = time.monotonic()
        self._progress = progress

    def tick(self, running: int) -> None:
        """Count one sample through the nodes ``running``."""
        if running not in self._weights:
            self._weights = {running: self._weigh(running)}
        self._done += self._weights[running]
        part = min(self._done / self._total, 1.0)
        left = (time.monotonic() - self._start) * (1 - part) / part
        self._progress(f"calibrate, {_duration(left)} left", part)


def _duration(seconds: float) -> str:
    """Return a duration as people say it.

    Examples
    --------
    >>> _duration(7), _duration(200), _duration(9000)
    ('7 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
