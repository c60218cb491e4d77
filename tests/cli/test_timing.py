"""Contestants take turns, and none meets the workers of the one before it."""

import itertools
from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from sparsec import timing
from sparsec.backends.cpu import measure
from sparsec.ir import run
from sparsec.timing import race


@pytest.mark.parametrize("how", ["rounds", "contest"])
def test_each_waits_for_the_workers_of_the_others(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    module = timing if how == "rounds" else measure
    monkeypatch.setattr(module, "wait_for_idle_workers", lambda: events.append("rest"))
    contestants = {name: (lambda name=name: events.append(name)) for name in "ab"}
    if how == "rounds":
        race(contestants, 4, warm_up=0)
    else:
        measure.race(contestants, rounds=(4, 4), threads=2)
    timed = events[events.index("rest") :]
    turns = [name for name, _ in itertools.groupby(timed)]
    assert turns == ["rest", "a", "rest", "b", "rest", "b", "rest", "a"] * 2


@pytest.mark.parametrize(
    ("used", "looks"),
    [
        ([0, 0, 0], 3),
        ([1, 1, 0, 0, 0], 5),
        ([1, 0, 0, 1, 0, 0, 0], 7),  # kept from the processor for a moment, it does not rest
        (itertools.repeat(1), 100),  # and nobody waits for longer than half a second
    ],
    ids=["idle", "spins", "starved", "never rests"],
)
def test_workers_rest_when_the_process_uses_no_processor(
    used: Iterable[float], looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    share, wall, processor, slept = iter(used), 0.0, 0.0, 0

    def sleep(seconds: float) -> None:
        nonlocal wall, processor, slept
        wall, processor, slept = wall + seconds, processor + seconds * next(share), slept + 1

    clocks = SimpleNamespace(perf_counter=lambda: wall, process_time=lambda: processor, sleep=sleep)
    monkeypatch.setattr(run, "time", clocks)
    run.wait_for_idle_workers()
    assert slept == looks


def test_each_round_has_a_time_of_every_contestant() -> None:
    order: list[str] = []
    times = race(
        {name: (lambda name=name: order.append(name)) for name in "ab"}, rounds=3, warm_up=0
    )
    assert len(times.seconds["a"]) == len(times.seconds["b"]) == 3
    turns = [name for i, name in enumerate(order) if not i or order[i - 1] != name]
    assert turns == list("ababab")  # to see how long a call takes, then ab, ba, ab
