"""How columns are cut into tiles: tried on this machine, where the library alone goes by a model.

The model (``csrc/plan_tiles.cc``) knows what a cut costs on the machine that it was made on, to some
percent, and the best cut depends on all that a network does to a size of image at once. So a few tiles
are tried for each size, and those that measure faster become hints of the plan. No result depends on
them.

Sizes are tried together, a tile of each at a time: the time of an operator counts for the size that it
makes. That is a fraction of the run, in which a difference shows that the noise of a whole run would hide.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cpu.assemble import Region
from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.library import LANES, LoadedPlan, features
from sparsec.backends.cpu.plan import Kind, OpCode, Plan, Tile
from sparsec.backends.cpu.times import Times
from sparsec.ir.run import wait_for_idle_workers

SHORTEST = 1e-4  # seconds of a region that is worth trying
_WIDEST = 1024  # columns of a tile
_NARROWEST = 32
_TRIES = 8  # tiles of a size, about
_GAIN = 1.02  # for a size; less is noise
_SECONDS = 0.4  # of a race, about
_ROUNDS = (5, 25)
_LONGEST = 20.0  # seconds for one number of threads: what was not tried then is left

Inputs = Sequence[NDArray[np.float32]]


class Tuner:
    """Finds tiles for one plan.

    Parameters
    ----------
    inputs : sequence of float32 arrays
        What the plan is run on.
    sizes : sequence of int
        Columns of what each operator makes.
    quanta : mapping of int to int
        Sizes to try, and what their tiles hold multiples of.
    times : Times
        Where what is timed is remembered.
    work : object
        Says by its repr what decides the time of the plan, but for tiles and threads.
    """

    def __init__(
        self,
        plan: Plan,
        inputs: Inputs,
        sizes: Sequence[int],
        quanta: Mapping[int, int],
        times: Times,
        work: object,
    ) -> None:
        self._plan, self._inputs = plan, inputs
        self._sizes, self._quanta = np.array(sizes), quanta
        self._times, self._work = times, work
        self._lanes = LANES[features()[0]]

    def tiles(self, threads: int) -> tuple[Tile, ...]:
        """Return the hints that make the plan faster with so many threads; empty if none do."""
        each = [
            [Tile(size, threads, self._lanes, held) for held in widths(size, quantum, self._lanes)]
            for size, quantum in self._quanta.items()
        ]
        best: dict[int, tuple[float, Tile]] = {}
        end = time.perf_counter() + _LONGEST
        for tried in itertools.zip_longest(*each):
            if time.perf_counter() > end:
                break
            tiles = tuple(tile for tile in tried if tile is not None)
            gains = self._race(tiles, threads)
            for tile in tiles:
                gain = gains[str(tile.columns)]
                if gain > best.get(tile.columns, (_GAIN, None))[0]:
                    best[tile.columns] = gain, tile
        # The luckiest of several was chosen: what counts is the race that follows.
        chosen = tuple(tile for _, tile in best.values())
        while chosen:
            gains = self._race(chosen, threads, again=True)
            kept = tuple(tile for tile in chosen if gains[str(tile.columns)] > _GAIN)
            if kept == chosen:
                return chosen if gains["all"] > 1 else ()
            chosen = kept
        return ()

    def _race(
        self, tiles: tuple[Tile, ...], threads: int, *, again: bool = False
    ) -> Mapping[str, float]:
        """Return how many times as fast the plan is with these hints: each size, and all of it."""
        what = "tiles", self._work, tiles, again
        gains = self._times.get(what)
        if gains is None:
            hinted = dataclasses.replace(self._plan, tiles=tiles)
            plain, other = profiles([self._plan, hinted], self._inputs, threads, 2 if again else 1)
            ratios = {"all": _ratio(plain, other)}
            for tile in tiles:
                mine = self._sizes == tile.columns
                ratios[str(tile.columns)] = _ratio(plain[:, mine], other[:, mine])
            gains = ratios
            self._times.add(what, gains)
        return gains


def profiles(
    plans: Sequence[Plan], inputs: Inputs, threads: int, longer: int = 1
) -> list[NDArray[np.float64]]:
    """Run plans in turn and return the seconds of each operator, [rounds, operators] for each plan."""
    runs = []
    for plan in plans:
        loaded = LoadedPlan(plan.to_bytes(), threads=threads)
        runs.append((loaded.ops, loaded.prepare(*inputs)))
    if threads > 1:
        wait_for_idle_workers()
    for _, run in runs:
        run()
    start = time.perf_counter()
    for _, run in runs:
        run()
    once = 2 * (time.perf_counter() - start)
    rounds = longer * int(np.clip(_SECONDS / once, *_ROUNDS))
    seconds = [np.zeros((rounds, ops + 2)) for ops, _ in runs]
    for number in range(rounds):
        turns = list(zip(runs, seconds, strict=True))
        for (_, run), row in turns if number % 2 == 0 else turns[::-1]:
            run()  # the caches are the other plan's
            run(row[number])
    return [each[:, :-2] for each in seconds]


def _ratio(plain: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return how many times as long ``plain`` takes, round by round: the processor changes its speed."""
    return float(np.median(plain.sum(axis=1) / other.sum(axis=1)))


def widths(columns: int, quantum: int, lanes: int) -> Iterator[int]:
    """Yield how many columns a tile may hold, the widest first.

    Examples
    --------
    >>> list(widths(196, 14, 8))  # an image of 14 x 14
    [200, 98, 70, 42]
    >>> list(widths(128, 8, 8))
    [128, 64, 48, 32]
    """
    last = min(-(-columns // lanes) * lanes, _WIDEST)
    step = min(0.8, (_NARROWEST / last) ** (1 / _TRIES))
    if columns <= _WIDEST:
        yield last
    units = -(-columns // quantum)
    for parts in range(1, units + 1):
        held = -(-units // parts) * quantum
        if _NARROWEST <= held <= step * last:
            last = held
            yield held


def columns_of(scene: Scene, item: Item) -> int:
    """Return how many columns of an image, or of all rows, an item makes."""
    shape = scene.shape(item.output) or (0,)
    if item.kind is Kind.IMAGE:
        return 1 if item.flat else int(np.prod(shape[2:]))
    return int(np.prod(shape[:-1]))


def quanta_of(scene: Scene, region: Region) -> Mapping[int, int]:
    """Return the sizes that products of a region make, each with what its tiles hold multiples of.

    That are whole rows of an image where depthwise windows read or make it, else vectors.
    """
    lanes = LANES[features()[0]]
    rows: dict[int, int] = {}
    for item in region.items:
        for value in (item.output, item.inputs[0]) if item.code is OpCode.DEPTHWISE else ():
            height, width = (scene.shape(value) or (0, 0))[-2:]
            rows[height * width] = width
    products = (item for item in region.items if item.code in (OpCode.LINEAR, OpCode.CONV))
    sizes = dict.fromkeys(columns_of(scene, item) for item in products)
    return {size: rows.get(size, lanes) for size in sizes if size >= _NARROWEST}
