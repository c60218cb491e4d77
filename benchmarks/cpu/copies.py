"""Copies of a model at once, one on each thread: what the processors gain where nothing is shared."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

_EACH = 8  # inferences of a thread in a call, about: whoever is faster takes more


class Copies:
    """Independent runs, each on a thread of its own, that take the inferences of a call as they get done.

    Parameters
    ----------
    runs : sequence of callables
        One inference each, on one thread, without the interpreter's lock.
    """

    def __init__(self, runs: Sequence[Callable[[], object]]) -> None:
        self._runs = runs
        self._pool = ThreadPoolExecutor(len(runs))
        self.inferences = _EACH * len(runs)

    def run(self) -> None:
        """Run ``inferences`` of them, in all."""
        left = itertools.count(self.inferences, -1)

        def work(run: Callable[[], object]) -> None:
            while next(left) > 0:
                run()

        list(self._pool.map(work, self._runs))
