"""Timing candidates against each other on this machine.

Contestants take turns in one process, the order turning around every round. On one thread CPU time is
counted: it survives a busy machine where wall time does not. On more it is wall time, and each waits
until the other's idle workers have stopped spinning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from sparsec.backends.cpu.caches import empty_caches
from sparsec.backends.cpu.library import library_path
from sparsec.ir.run import new_session, session_options, wait_for_idle_workers

_WARM_UP = 2
_BATCH = 2e-3  # seconds of calls in a row that make one time, after a call that is not counted
_REST = 0.06  # seconds that workers of ONNX Runtime spin after a run, about


def race(
    contestants: Mapping[str, Callable[[], object]],
    seconds: float = 0.25,
    rounds: tuple[int, int] = (5, 25),
    threads: int = 1,
    cold: bool = False,
) -> dict[str, list[float]]:
    """Run every contestant in turn and return the seconds of a call, round by round.

    Parameters
    ----------
    seconds : float
        Aim for this much time in all, waiting included.
    rounds : tuple of int
        At least and at most so many, whatever the time.
    cold : bool
        Let every call find the caches empty, as a layer does in a model that exceeds them.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    calls: dict[str, int] = {}
    batch, total = _BATCH, 0.0
    if threads > 1:  # fewer rounds and longer ones: most of their time goes by waiting
        batch, total = _REST / 4, _REST * len(contestants)
    for name, run in contestants.items():
        for _ in range(_WARM_UP):
            run()
        start = clock()
        run()
        once = max(clock() - start, 1e-6)
        calls[name] = max(1, min(300, int(batch / once)))
        total += once * (calls[name] + 1)
    count = int(min(max(seconds / total, rounds[0]), rounds[1]))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for index in range(count):
        for name in order if index % 2 == 0 else order[::-1]:
            run, repeat = contestants[name], calls[name]
            if threads > 1:
                wait_for_idle_workers()
            if cold:
                repeat = 1
                empty_caches()
            else:
                run()  # the caches are the other contestant's
            start = clock()
            for _ in range(repeat):
                run()
            times[name].append((clock() - start) / repeat)
    return times


def seconds_of(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median seconds of the first contestant, and those of the others as they compare to it.

    They are compared round by round: a processor that changes its speed between rounds changes no ratio.

    Examples
    --------
    >>> seconds_of({"dense": [1.0, 1.0, 2.0, 2.0], "sparse": [0.5, 0.5, 1.0, 1.0]})
    {'dense': 1.5, 'sparse': 0.75}
    """
    first = np.array(next(iter(times.values())))
    return {
        name: float(np.median(first) * np.median(values / first)) for name, values in times.items()
    }


def bound_run(
    model: ir.Model,
    feeds: Mapping[str, NDArray[Any]],
    threads: int,
    library: Path | None = None,
) -> tuple[ort.InferenceSession, Callable[[], object]]:
    """Return a session of a model and a run of it on inputs that are bound once. ``feeds`` may hold more."""
    library = library or library_path()
    libraries = [] if library is None else [library]
    session = new_session(model, session_options(threads=threads, libraries=libraries))
    binding = session.io_binding()
    for given in session.get_inputs():
        binding.bind_cpu_input(given.name, np.ascontiguousarray(feeds[given.name]))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    try:
        for _ in range(2):  # the second run meets the output of the first
            session.run_with_iobinding(binding)
    except RuntimeError:  # an output of another rank than declared, which a plain run forgives
        own = {given.name: feeds[given.name] for given in session.get_inputs()}
        return session, lambda: session.run(None, own)
    return session, lambda: session.run_with_iobinding(binding)


class Contest:
    """Models that compete on the same feeds, each in a session of its own."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._runs: dict[str, Callable[[], object]] = {}
        self._inferences: dict[str, int] = {}
        self.sessions: dict[str, ort.InferenceSession] = {}
        self.times: dict[str, list[float]] = {}

    def enter(
        self,
        name: str,
        model: ir.Model,
        feeds: Mapping[str, NDArray[Any]],
        threads: int | None = None,
        library: Path | None = None,
    ) -> None:
        """Add a model. ``feeds`` may hold more than its inputs.

        Parameters
        ----------
        threads : int, optional
            Other than the contest's.
        library : Path, optional
            Other than the installed one.
        """
        self.sessions[name], self._runs[name] = bound_run(
            model, feeds, threads or self._threads, library
        )

    def add(self, name: str, run: Callable[[], object], inferences: int = 1) -> None:
        """Add a contestant of another kind, which runs its model so many times in a call."""
        self._runs[name] = run
        self._inferences[name] = inferences

    def run(
        self,
        seconds: float = 0.25,
        rounds: tuple[int, int] = (5, 25),
        *,
        cold: bool = False,
    ) -> dict[str, float]:
        """Race all models and return their seconds; ``times`` has those of every round."""
        times = race(self._runs, seconds, rounds, self._threads, cold)
        self.times = {
            name: [t / self._inferences.get(name, 1) for t in turns]
            for name, turns in times.items()
        }
        return seconds_of(self.times)
