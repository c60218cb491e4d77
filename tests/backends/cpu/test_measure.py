"""Timing with empty caches."""

import pytest

from sparsec.backends.cpu import caches, measure


def test_a_cold_call_is_one_call_after_emptying(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(measure, "empty_caches", lambda: events.append("empty"))
    runs = {name: (lambda name=name: events.append(name)) for name in ("a", "b")}
    times = measure.race(runs, rounds=(4, 4), cold=True)
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4}
    timed = events[events.index("empty") :]
    assert timed == ["empty", "a", "empty", "b", "empty", "b", "empty", "a"] * 2


def test_the_last_cache_is_the_largest(tmp_path) -> None:
    for index, size in enumerate(("32K", "1024K", "6M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert caches.last_cache_bytes(tmp_path) == 6 << 20
