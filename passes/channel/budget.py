"""Budgets: how much of what has to go, and which units that takes.

``sparsity`` is the fraction of a quantity that goes: of the units, of the multiply-accumulates, of the
parameters, or of the time of a run. Units go in an order, and the shortest prefix of it that meets
the budget is taken; every width on the way is one that the pass may leave.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.atoms import Labels
from sparsec.ir.edits import emptied
from sparsec.ir.errors import PassError
from sparsec.ir.groups import Group, Groups
from sparsec.ir.remaining import Remaining
from sparsec.ir.run import Feeds
from sparsec.passes.channel.descent import descend, kept_after
from sparsec.passes.channel.widths import floor_of, rounded

BUDGETS = ("units", "macs", "params", "latency")

Scores = NDArray[np.float64]
Time = Callable[[Labels], float]
"""Given the units that go, the time of a run over that of the graph as it is."""

_UNIFORM_STEPS = 64  # fractions that are looked at where all groups lose the same


class BudgetError(PassError):
    """A budget that cannot be met.

    Parameters
    ----------
    message : str
    most : float
        The fraction that can go at most.
    where : str
    """

    def __init__(self, message: str, *, most: float, where: str = "") -> None:
        super().__init__(message, where=where)
        self.most = most


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Budget:
    """What is to go, and in which steps.

    Parameters
    ----------
    what : str
        One of :data:`BUDGETS`.
    sparsity : float
        The fraction of it that goes at least.
    scope : str
        ``layer``: every group loses the same fraction of its units; ``global``: units compete.
    step, least : int
        See :mod:`sparsec.passes.channel.widths`.
    per_cost : bool
        Whether scores are losses, to be weighed against what is saved.
    """

    what: str
    sparsity: float
    scope: str
    step: int
    least: int
    per_cost: bool


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Choice:
    """Which units go.

    Parameters
    ----------
    removed : list of int [n]
        For each group the places of its units that go, in increasing order.
    reached : float
        The fraction of the budget's quantity that went.
    """

    removed: list[NDArray[np.int64]]
    reached: float

    def units(self, chosen: Sequence[Group]) -> Labels:
        """Return one atom of each unit that goes."""
        parts = [group.units[gone] for group, gone in zip(chosen, self.removed, strict=True)]
        return np.concatenate([np.empty(0, np.int64), *parts])


def choose_units(
    budget: Budget,
    groups: Groups,
    chosen: Sequence[Group],
    scores: Sequence[Scores],
    feeds: Feeds | None,
    time: Time | None,
) -> Choice:
    """Return the units that go.

    Parameters
    ----------
    budget : Budget
    groups : Groups
    chosen : sequence of Group
        Those of them that lose units.
    scores : sequence of float [units]
    feeds : mapping of str to array, optional
        One valid input, for shapes.
    time : callable, optional
        What times a choice; for the budget ``latency``.

    Raises
    ------
    BudgetError
        If what may go is not enough. A fraction of the units is never an error: it is rounded.
    """
    search = _Search(budget, groups, chosen, scores, _counter(budget, groups, chosen, feeds))
    if budget.scope == "layer" and budget.what == "units":
        return search.choice(search.uniform(budget.sparsity))
    return search.first(time if budget.what == "latency" else None)


def _counter(
    budget: Budget, groups: Groups, chosen: Sequence[Group], feeds: Feeds | None
) -> Remaining:
    if budget.what == "units":
        return Remaining.units(groups.lattice, chosen)
    if budget.what == "params":
        return Remaining.params(groups.lattice)
    return Remaining.macs(groups.lattice, feeds)  # the order in which a time is approached, too


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class _Search:
    budget: Budget
    groups: Groups
    chosen: Sequence[Group]
    scores: Sequence[Scores]
    remaining: Remaining

    def uniform(self, sparsity: float) -> list[int]:
        """Return how many units each group keeps if all lose the same fraction."""
        step, least = self.budget.step, self.budget.least
        return [rounded(g.size, g.size * (1 - sparsity), step, least) for g in self.chosen]

    def choice(self, kept: Sequence[int]) -> Choice:
        """Return the units that go, and what that saves; of a whole axis the best unit stays."""
        removed = settled_units(self.groups, self.chosen, self.scores, kept)
        found = Choice(removed, 0.0)
        self.remaining.restart()
        before = self.remaining.total()
        self.remaining.remove(found.units(self.chosen))
        left = self.remaining.total()
        self.remaining.restart()
        return dataclasses.replace(found, reached=1 - left / before if before else 0.0)

    def path(self, until: float) -> Iterator[list[int]]:
        """Yield how many units each group keeps, ever fewer, up to where nothing more may go."""
        if self.budget.scope == "layer":
            for number in range(1, _UNIFORM_STEPS + 1):
                yield self.uniform(number / _UNIFORM_STEPS)
            return
        steps = descend(
            self.chosen,
            self.scores,
            self.remaining,
            step=self.budget.step,
            least=self.budget.least,
            per_cost=self.budget.per_cost,
            until=until,
        )
        for end in range(1, len(steps) + 1):
            yield kept_after(self.chosen, steps[:end])

    def first(self, time: Time | None) -> Choice:
        """Return the first choice on the path that meets the budget, by bisection."""
        wanted = self.budget.sparsity - 1e-9
        limit = 0.0 if time else (1 - wanted) * self.remaining.total()
        path = list(self.path(limit))

        @functools.cache
        def at(index: int) -> Choice:
            found = self.choice(path[index])
            if time is None:
                return found
            return dataclasses.replace(found, reached=1 - time(found.units(self.chosen)))

        last = len(path) - 1
        if last < 0 or at(last).reached < wanted:
            nearest = at(last) if path else self.choice([group.size for group in self.chosen])
            if self.budget.what == "units":
                return nearest
            raise self._too_much(nearest.reached)
        return at(bisect.bisect_left(range(last), True, key=lambda i: at(i).reached >= wanted))

    def _too_much(self, most: float) -> BudgetError:
        budget = self.budget
        held = sum(floor_of(g.size, budget.step, budget.least) for g in self.chosen)
        return BudgetError(
            f"budget={budget.what}: {budget.sparsity:g} of it cannot go, at most {max(most, 0):.3f} can: "
            f"{len(self.chosen)} groups with {sum(g.size for g in self.chosen)} units may be pruned, of "
            f"which round={budget.step} and least={budget.least} keep {held}, and {len(self.groups.frozen)} "
            "groups are frozen (inspect --groups says why); ask for less, or for a smaller round",
            most=max(most, 0.0),
            where=budget.what,
        )


def settled_units(
    groups: Groups, chosen: Sequence[Group], scores: Sequence[Scores], kept: Sequence[int]
) -> list[NDArray[np.int64]]:
    """Return which units of each group go; where an axis would be left empty, its best one stays.

    Parameters
    ----------
    groups : Groups
    chosen : sequence of Group
    scores : sequence of float [units]
    kept : sequence of int
        How many units each group is to keep.
    """
    removed = [
        np.sort(np.argsort(score, kind="stable")[: group.size - keep])
        for group, score, keep in zip(chosen, scores, kept, strict=True)
    ]
    atoms = groups.lattice.atoms
    while True:
        units = Choice(removed, 0.0).units(chosen)
        empty = emptied(groups.lattice, atoms.gone(units))
        if not empty:
            return removed
        here = np.unique(atoms.leaves(next(iter(empty.values()))))
        best = max(
            (float(scores[i][unit]), i, int(unit))
            for i, group in enumerate(chosen)
            for unit in removed[i]
            if group.units[unit] in here
        )
        removed[best[1]] = removed[best[1]][removed[best[1]] != best[2]]
