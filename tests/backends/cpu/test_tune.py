"""Tiles as measured: hints of a plan, and how they are found."""

import dataclasses

import numpy as np
import pytest

from sparsec.backends.base import LowerContext
from sparsec.backends.cpu import measurer, tune
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cpu.library import LANES, LoadedPlan, features
from sparsec.backends.cpu.pack import pack_blocks
from sparsec.backends.cpu.plan import MOST_HELD, Kind, Op, OpCode, Plan, Tile, Value
from sparsec.backends.cpu.times import Times
from sparsec.backends.cpu.tune import Tuner, widths
from sparsec.backends.targets import CPU
from sparsec.ir.errors import ArtifactError
from tests.backends.cpu.layers import NEEDS_LIBRARY, sparse_matrix
from tests.backends.cpu.test_backend import two_layers
from tests.backends.cpu.test_depth_first import inverted_residuals

pytestmark = NEEDS_LIBRARY
X = np.random.default_rng(0).standard_normal((1, 3, 32, 48)).astype(np.float32)
COLUMNS = 16 * 24  # of all but X


def residuals(*tiles: Tile) -> Plan:
    plan = inverted_residuals(np.random.default_rng(0), 24, [(3, 1), (5, 1)])
    return dataclasses.replace(plan, tiles=tiles)


def three_products() -> Plan:
    rng = np.random.default_rng(1)
    weight = pack_blocks(sparse_matrix(rng, 64, 64, 0.8), 1)
    values = tuple(Value(Kind.ROWS, 64, 2) for _ in range(4))
    ops = tuple(Op(OpCode.LINEAR, (i,), i + 1, weight=0) for i in range(3))
    return Plan((0,), (3,), values, ops, (weight,))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_result_depends_on_a_hint(isa: str, threads: int) -> None:
    lanes = LANES[isa]
    (want,) = LoadedPlan(residuals().to_bytes(), isa=isa).run(X)
    for held in (1, 8, 16, 24, 40, 48, 72, 96, 120, 192, 384, 400, 2000, MOST_HELD):
        plan = residuals(Tile(COLUMNS, threads, lanes, held))
        (got,) = LoadedPlan(plan.to_bytes(), isa=isa, threads=threads).run(X)
        np.testing.assert_array_equal(got, want, err_msg=f"tiles of {held}")


def test_a_hint_holds_for_its_columns_threads_and_vectors() -> None:
    x = np.zeros((256, 64), np.float32)
    lanes = LANES[features()[0]]

    def memory(*tiles: Tile) -> int:
        loaded = LoadedPlan(dataclasses.replace(three_products(), tiles=tiles).to_bytes())
        loaded.run(x)
        return loaded.memory()

    plain = memory()
    hint = Tile(256, 1, lanes, 4 * lanes)
    assert memory(hint) < plain, "what lies between the products is a tile"
    assert memory(dataclasses.replace(hint, columns=255), hint) == memory(hint)
    for field in ("columns", "threads", "lanes"):
        other = dataclasses.replace(hint, **{field: getattr(hint, field) + 1})
        assert memory(other) == plain, f"of other {field}"


def test_hints_are_part_of_the_bytes() -> None:
    tiles = (Tile(49, 1, 8, 56), Tile(196, 2, 16, 98))
    plan = Plan.from_bytes(residuals(*tiles).to_bytes())
    assert plan.tiles == tiles


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Tile)])
@pytest.mark.parametrize("value", [0, 1 << 31])
def test_hints_that_say_nothing_are_refused(field: str, value: int) -> None:
    data = residuals(dataclasses.replace(Tile(96, 1, 8, 48), **{field: value})).to_bytes()
    if value and field != "held":  # of no shape that this machine meets
        (want,) = LoadedPlan(residuals().to_bytes()).run(X)
        np.testing.assert_array_equal(LoadedPlan(data).run(X)[0], want)
        return
    with pytest.raises(ArtifactError, match="hint"):
        LoadedPlan(data)
    with pytest.raises(ArtifactError, match="hint"):
        Plan.from_bytes(data)


@pytest.mark.parametrize(
    ("columns", "quantum"),
    [(49, 7), (196, 14), (784, 28), (12544, 112), (128, 8), (3136, 8), (33, 8)],
)
def test_widths_span_what_a_tile_may_hold(columns: int, quantum: int) -> None:
    found = list(widths(columns, quantum, 8))
    assert found == sorted(set(found), reverse=True)
    assert 1 <= len(found) <= tune._TRIES + 1
    assert all(32 <= held <= 1024 for held in found)
    one_tile = [columns + -columns % 8] if columns <= 1024 else []
    assert found[: len(one_tile)] == one_tile
    assert all(held % quantum == 0 for held in found[len(one_tile) :])


def made_up(fast: dict[int, float], again: float = 1.0):
    """Stand in for measuring: these tiles are so many times as fast, in the second race less so."""

    def profiles(plans, inputs, threads, longer=1):
        plain, other = (np.ones((3, len(plan.ops))) for plan in plans)
        for tile in plans[1].tiles:
            gain = fast.get(tile.held, 0.9)
            other /= 1 + (gain - 1) * (again if longer > 1 else 1.0)
        return [plain, other]

    return profiles


@pytest.mark.parametrize(
    ("fast", "again", "want"),
    [
        ({64: 1.1, 48: 1.3}, 1.0, 48),
        ({64: 1.1, 48: 1.3}, 0.01, None),  # luck
        ({64: 1.01}, 1.0, None),  # noise
        ({}, 1.0, None),
    ],
)
def test_the_fastest_tile_is_chosen_if_it_is_so_twice(
    monkeypatch: pytest.MonkeyPatch, fast: dict[int, float], again: float, want: int | None
) -> None:
    monkeypatch.setattr(tune, "profiles", made_up(fast, again))
    x = np.zeros((128, 64), np.float32)
    times = Times()
    tuner = Tuner(three_products(), [x], [128] * 3, {128: 8}, times, "work")
    lanes = LANES[features()[0]]
    assert tuner.tiles(2) == (() if want is None else (Tile(128, 2, lanes, want),))
    taken = times.taken
    assert taken >= 4
    tuner.tiles(2)
    assert times.taken == taken, "nothing is timed again"


def test_a_profile_has_the_time_of_every_operator() -> None:
    plans = [three_products(), dataclasses.replace(three_products(), tiles=(Tile(128, 2, 8, 64),))]
    for threads in (1, 2):
        found = tune.profiles(plans, [np.ones((128, 64), np.float32)], threads)
        assert [each.shape for each in found] == [(25, 3), (25, 3)]
        assert all((each > 0).all() for each in found)


@pytest.mark.parametrize("gain", [1.5, 0.9])
def test_tiles_that_make_the_whole_model_faster_are_kept(
    monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    """The hint is made up, and so is what the whole model gains by it."""

    class Raced(measurer.Contest):
        def run(self, seconds: float = 0.25, *arguments: object, **more: object):
            slow = {"dense": 2.0, "modelled": 1.0}
            return {name: slow.get(name, 1 / gain) for name in self.sessions}

    tile = Tile(128, 1, 8, 64)
    monkeypatch.setattr(measurer, "Contest", Raced)
    monkeypatch.setattr(measurer.Tuner, "tiles", lambda self, threads: (tile,) * (threads == 1))
    feeds = {"x": np.random.default_rng(1).standard_normal((128, 192)).astype(np.float32)}
    lowered = CpuBackend().lower(two_layers(0.95), CPU, LowerContext([feeds]))
    plans = [data for name, data in lowered.files.items() if name.startswith("plans/")]
    assert plans
    for plan in plans:
        assert isinstance(plan, bytes)
        assert Plan.from_bytes(plan).tiles == ((tile,) if gain > 1 else ())
    (note,) = (note for note in lowered.notes if "columns" in note)
    assert note.endswith(f"{gain:.2f}")
