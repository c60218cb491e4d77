"""Times are taken once: a second compilation on the same machine reads them."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from sparsec.backends.base import LowerContext
from sparsec.backends.cpu import measurer, times
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cpu.times import Times
from sparsec.backends.targets import CPU
from sparsec.ir.codes import Code
from sparsec.ir.patterns import Unstructured
from tests.backends.cpu.layers import NEEDS_LIBRARY
from tests.backends.cpu.test_backend import two_layers
from tests.graphs import matmul, only_site

pytestmark = NEEDS_LIBRARY


def lower(cache: Path | None, threads: int = 1, sparsity: float = 0.95):
    feeds = {"x": np.random.default_rng(1).standard_normal((128, 192)).astype(np.float32)}
    context = LowerContext([feeds], threads=threads, cache=cache)
    return CpuBackend().lower(two_layers(sparsity), CPU, context)


def test_a_second_compilation_times_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lower(tmp_path)
    (file,) = tmp_path.iterdir()
    held = json.loads(file.read_text())
    assert held["machine"]["library"]
    assert len(held["times"]) >= 4, "two layers, one region, the whole model"

    def refused(*arguments: object) -> None:
        raise AssertionError("nothing is left to time")

    monkeypatch.setattr(measurer, "Contest", refused)
    second = lower(tmp_path)
    assert [row.to_json() for row in second.layers] == [row.to_json() for row in first.layers]
    assert second.files.keys() == first.files.keys()
    assert second.record is not None
    assert first.record is not None
    assert second.record.entries == first.record.entries
    assert any("earlier compilation" in note for note in second.notes)
    with pytest.raises(AssertionError, match="nothing is left"):
        lower(tmp_path, sparsity=0.9)
    with pytest.raises(AssertionError, match="nothing is left"):
        lower(tmp_path, threads=2)
    with pytest.raises(AssertionError, match="nothing is left"):
        lower(None)


@pytest.mark.parametrize(
    ("races", "kept"),
    [
        ([1.5], True),
        ([0.5], False),
        ([1.2, 0.85], False),  # the luckiest of several, once more
        ([1.2, 1.15], True),
        ([1.2, 1.05, 0.98], False),
        ([1.08, 0.97, 1.15], True),  # 1.022 times as fast, so once more
        ([1.08, 0.96], False),
        ([0.97, 1.09, 1.08, 0.97], True),
    ],
)
def test_a_close_race_of_whole_models_is_held_again(
    monkeypatch: pytest.MonkeyPatch, races: list[float], kept: bool
) -> None:
    """One layer that gains alone; how much the model gains, and how fast the machine is, is made up."""
    left = iter(enumerate(races, start=1))

    class Raced(measurer.Contest):
        def run(self, seconds: float = 0.25, *arguments: object, **more: object):
            if seconds < 1:  # a layer or a region
                return {"dense": 2.0, "sparse": 1.0}
            pace, gain = next(left)
            return {name: pace if name == "dense" else pace / gain for name in self.sessions}

    monkeypatch.setattr(measurer, "Contest", Raced)
    monkeypatch.setattr(measurer.Tuner, "tiles", lambda self, threads: ())
    codes = {row.code for row in lower(None).layers}
    assert (Code.MEASURED_FASTER in codes) is kept
    assert not list(left)


@pytest.mark.parametrize(("alone", "kept"), [(1.0, True), (0.95, True), (0.8, False)])
def test_a_region_that_loses_narrowly_is_tried_in_the_whole_model(
    monkeypatch: pytest.MonkeyPatch, alone: float, kept: bool
) -> None:
    """Whatever holds a region gains 1.5 in the whole model; alone neither region nor layers gain."""

    class Raced(measurer.Contest):
        def run(self, seconds: float = 0.25, *arguments: object, **more: object):
            if seconds < 1:
                return {"dense": alone, "sparse": 1.0}
            return {name: 1.5 if name == "dense" else 1.0 for name in self.sessions}

    monkeypatch.setattr(measurer, "Contest", Raced)
    monkeypatch.setattr(measurer.Tuner, "tiles", lambda self, threads: ())
    codes = {row.code for row in lower(None).layers}
    assert (Code.MEASURED_FASTER in codes) is kept


def test_a_graph_without_anything_to_time_recalls_nothing(tmp_path: Path) -> None:
    graph = matmul(np.eye(8, dtype=np.float16), dtype=TensorProto.FLOAT16)
    only_site(graph).mark(Unstructured())
    context = LowerContext([{"x": np.zeros((4, 8), np.float16)}], cache=tmp_path)
    assert CpuBackend().lower(graph, CPU, context).notes == []


@pytest.mark.parametrize("key", ["cpu", "isa", "library", "onnxruntime"])
def test_times_of_another_machine_or_library_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    mine = Times(tmp_path)
    mine.add("work", {"dense": 2.0, "sparse": 1.0})
    mine.save()
    assert Times(tmp_path).get("work") == {"dense": 2.0, "sparse": 1.0}
    other = {**mine.machine, key: "another"}
    monkeypatch.setattr(times, "machine", lambda: other)
    assert Times(tmp_path).get("work") is None


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}',
        b'{"format": 9, "machine": {}, "times": {}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: bytes) -> None:
    mine = Times(tmp_path)
    mine.add("work", {"dense": 2.0})
    mine.save()
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    again = Times(tmp_path)
    assert again.get("work") is None
    again.add("other", {"dense": 1.0})
    again.save()
    assert Times(tmp_path).get("other") == {"dense": 1.0}


@pytest.mark.parametrize("value", [-1.0, 0.0, "fast", None, 1])
def test_a_time_must_be_a_positive_number(tmp_path: Path, value: object) -> None:
    mine = Times(tmp_path)
    mine.add("work", {"dense": value})  # type: ignore[dict-item]
    mine.save()
    assert Times(tmp_path).get("work") is None


def test_two_compilations_at_once_keep_both(tmp_path: Path) -> None:
    one, two = Times(tmp_path), Times(tmp_path)
    one.add("a", {"dense": 1.0})
    two.add("b", {"dense": 2.0})
    one.save()
    two.save()
    assert Times(tmp_path).get("a") == {"dense": 1.0}
    assert Times(tmp_path).get("b") == {"dense": 2.0}
