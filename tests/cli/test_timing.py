"""Contestants take turns, and none meets the workers of the one before it."""

import threading
import time

import pytest

from sparsec.backends.cpu import measure
from sparsec.timing import race


class Spinner:
    """Leaves a thread behind that keeps a processor busy for a while, as workers of a session do."""

    def __init__(self) -> None:
        self.workers: list[threading.Thread] = []
        self.met: list[bool] = []

    def run(self) -> None:
        self.workers.append(threading.Thread(target=self._spin))
        self.workers[-1].start()

    def next_one(self) -> None:
        self.met.append(any(worker.is_alive() for worker in self.workers))

    @staticmethod
    def _spin() -> None:
        end = time.thread_time() + 0.05  # of a processor, however busy the machine is
        while time.thread_time() < end:
            pass


@pytest.mark.parametrize("how", ["rounds", "contest"])
def test_each_waits_for_the_workers_of_the_others(how: str) -> None:
    spinner = Spinner()
    contestants = {"spinner": spinner.run, "next": spinner.next_one}
    if how == "rounds":
        race(contestants, 4, warm_up=0)
    else:
        measure.race(contestants, rounds=(4, 4), threads=2)
    warm_up = 1 if how == "rounds" else 3  # before the first round nobody waits
    assert any(spinner.met[:warm_up])
    assert not any(spinner.met[warm_up:])


def test_each_round_has_a_time_of_every_contestant() -> None:
    order: list[str] = []
    times = race(
        {name: (lambda name=name: order.append(name)) for name in "ab"}, rounds=3, warm_up=0
    )
    assert len(times.seconds["a"]) == len(times.seconds["b"]) == 3
    turns = [name for i, name in enumerate(order) if not i or order[i - 1] != name]
    assert turns == list("ababab")  # to see how long a call takes, then ab, ba, ab
