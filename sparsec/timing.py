"""Timing models against each other: interleaved rounds in one process, medians, never a single run.

Two runs one after the other compare the machine's moods as much as the models. Here the models take
turns within each round, the order turns around every other round, and the ratio is formed per
round.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.run import Feeds, OrtRunner, wait_for_idle_workers

Run = Callable[[], object]

# A contestant's turn is a few batches of calls, each far above the clock's resolution and shorter
# than a time slice of the system. The fastest counts: another process can only make one slower.
_BATCH_SECONDS = 0.01
_BATCHES = 4
_MAX_CALLS = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Times:
    """Seconds per call of every contestant, one entry per round."""

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Return the median seconds per call of ``name``."""
        return float(np.median(self.seconds[name]))

    def ratios(self, numerator: str, denominator: str) -> NDArray[np.float64]:
        """Return the ratio of two contestants, round by round."""
        pairs = zip(self.seconds[numerator], self.seconds[denominator], strict=True)
        return np.array([above / below for above, below in pairs], np.float64)


def race(
    contestants: Mapping[str, Run],
    rounds: int,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Run every contestant in turn, ``rounds`` times, and return the time of a call in each round.

    Parameters
    ----------
    contestants : mapping of name to callable
    rounds : int
    clock : callable
        ``time.thread_time`` for what works in the calling thread alone: its own seconds, whatever
        else the machine is busy with. With any other each waits for the others' workers to rest.
    warm_up : int
        Calls of each before the clock starts.
    """
    batches: dict[str, tuple[int, int]] = {}
    for name, run in contestants.items():
        for _ in range(warm_up):
            run()
        once = max(_time(run, 1, clock), 1e-7)
        count = int(min(max(_BATCHES * _BATCH_SECONDS / once, 1), _BATCHES))
        batches[name] = count, int(min(max(_BATCH_SECONDS / once, 1), _MAX_CALLS))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order: Sequence[str] = list(contestants)
    for index in range(rounds):
        for name in order if index % 2 == 0 else order[::-1]:
            run, (count, calls) = contestants[name], batches[name]
            if clock is not time.thread_time:
                wait_for_idle_workers()
            run()  # the caches are the other contestant's
            seconds[name].append(min(_time(run, calls, clock) for _ in range(count)))
    return Times({name: tuple(values) for name, values in seconds.items()})


def relative_time(before: ir.Model, after: ir.Model, feeds: Feeds, rounds: int = 7) -> float:
    """Return the time of a run of ``after`` over that of ``before``: stock ONNX Runtime, one thread."""
    contestants = {}
    for name, model in (("before", before), ("after", after)):
        runner = OrtRunner(model)
        contestants[name] = lambda runner=runner: runner.run(feeds)
    times = race(contestants, rounds, clock=time.thread_time)
    return float(np.median(times.ratios("after", "before")))


def _time(run: Run, calls: int, clock: Callable[[], float]) -> float:
    """Return the mean seconds of a call."""
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls
