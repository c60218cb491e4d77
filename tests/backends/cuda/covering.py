"""A few of many: a selection in which everything that can meet, does."""

import heapq
import itertools
from collections.abc import Sequence

import numpy as np


def cover(candidates: Sequence[tuple], strength: int = 2) -> list[tuple]:
    """Return some of ``candidates`` that hold every combination of ``strength`` choices found in any.

    A candidate is a tuple of one choice for each question. Each time the one that adds most is taken,
    the first of several: the same candidates give the same selection.

    Examples
    --------
    >>> every = [(a, b, c) for a in "xy" for b in (0, 1) for c in (0, 1) if (a, b) != ("x", 1)]
    >>> cover(every)
    [('x', 0, 0), ('y', 0, 1), ('y', 1, 0), ('x', 0, 1), ('y', 1, 1)]
    """
    questions = []
    for choices in zip(*candidates, strict=True):
        number = {each: at for at, each in enumerate(dict.fromkeys(choices))}
        questions.append((np.array([number[each] for each in choices]), len(number)))
    columns, count = [], 0
    for together in itertools.combinations(questions, strength):
        sizes = [size for _, size in together]
        columns.append(np.ravel_multi_index([each for each, _ in together], sizes) + count)
        count += int(np.prod(sizes))
    holds = np.stack(columns, axis=1)  # of each candidate, the numbers of its combinations
    missing = np.zeros(count, bool)
    missing[holds] = True
    # What a candidate adds only shrinks, so whatever was counted before is a bound.
    bounds = [(-len(columns), at) for at in range(len(candidates))]
    found = []
    while missing.any():
        bound, at = bounds[0]
        adds = (-int(missing[holds[at]].sum()), at)
        if adds[0] == bound:
            found.append(candidates[at])
            missing[holds[at]] = False
        else:
            heapq.heapreplace(bounds, adds)
    return found
