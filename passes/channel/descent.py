"""Global scope: units of all groups compete, and go until a budget is met.

Blocks of units go one after the other, the worst first, in steps that keep every width a multiple of
what the target works in. What the worst is depends on what scores mean:

- Scores that were normalised within a tensor say nothing of how layers compare. They are ranked as
  they are, so a layer that is alike in all its units is spared.
- Scores that are losses add up, and what is wanted is the least loss for the cost that is saved: blocks
  are ranked by loss per cost, as in a knapsack. What a block saves shrinks as its neighbours do,
  so a block's rank only falls, and it suffices to look at it again when its turn comes.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.atoms import Labels
from sparsec.ir.groups import Group
from sparsec.ir.remaining import Remaining
from sparsec.passes.channel.widths import next_width


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One block that goes.

    Parameters
    ----------
    group : int
    keep : int
        Units that the group keeps after it.
    left : int
        What the graph costs after it.
    """

    group: int
    keep: int
    left: int


def descend(
    groups: Sequence[Group],
    scores: Sequence[NDArray[np.float64]],
    remaining: Remaining,
    *,
    step: int,
    least: int,
    per_cost: bool,
    until: float,
) -> list[Step]:
    """Return the blocks that go, in order, until the cost is ``until`` or nothing more can go.

    Parameters
    ----------
    groups : sequence of Group
    scores : sequence of float [units]
        Higher = keep. Of equal ones the unit of the lower number goes first.
    remaining : Remaining
        Of the graph as it is; brought back to it in the end.
    step, least : int
        See :mod:`sparsec.passes.channel.widths`.
    per_cost : bool
        Rank by score per cost saved.
    until : float
        In the unit of ``remaining``.
    """
    orders = [np.argsort(score, kind="stable") for score in scores]
    keeps = [group.size for group in groups]
    steps: list[Step] = []
    heap: list[tuple[float, int]] = []

    def block(index: int) -> Labels:
        """Return the positions of the next units of a group to go; none if it is at its end."""
        keep = next_width(keeps[index], step, least)
        size = groups[index].size
        return orders[index][size - keeps[index] : size - keep] if keep else orders[index][:0]

    def rank(index: int) -> float | None:
        """Return what the next block of a group is worth; None if it cannot go."""
        worst = block(index)
        if not worst.size:
            return None
        left = remaining.without(groups[index].units[worst])
        if left is None:
            return None
        lost = scores[index][worst]
        if not per_cost:
            return float(lost.mean())
        saved = remaining.total() - left
        return float(lost.sum()) / saved if saved > 0 else np.inf

    for index in range(len(groups)):
        if (worth := rank(index)) is not None:
            heapq.heappush(heap, (worth, index))
    while heap and remaining.total() > until:
        _, index = heapq.heappop(heap)
        worth = rank(index)
        if worth is None:
            continue
        if heap and (worth, index) > heap[0]:
            heapq.heappush(heap, (worth, index))
            continue
        worst = block(index)
        remaining.remove(groups[index].units[worst])
        keeps[index] -= worst.size
        steps.append(Step(index, keeps[index], remaining.total()))
        if (worth := rank(index)) is not None:
            heapq.heappush(heap, (worth, index))
    remaining.restart()
    return steps


def kept_after(groups: Sequence[Group], steps: Sequence[Step]) -> list[int]:
    """Return how many units each group keeps after these steps."""
    keeps = [group.size for group in groups]
    for each in steps:
        keeps[each.group] = each.keep
    return keeps
