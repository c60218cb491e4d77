"""Solving for a sparsity that was left open: the least that reaches the goals, or keeps them.

A pass such as ``unstructured`` without ``sparsity=`` has one number left open. With a goal of cost
(latency, bytes, ...) the least sparsity that reaches it is searched; with goals of quality alone,
the largest that loses no more than allowed. Each trial is a whole compilation, proved and measured.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsec.artifact import Artifact
from sparsec.artifact.writer import publish
from sparsec.goals import Goal
from sparsec.ir.errors import UnsupportedTargetError
from sparsec.passes.base import Pass
from sparsec.passes.channel.budget import BudgetError
from sparsec.recipe import Recipe

LOWEST, HIGHEST = 0.3, 0.98
RESOLUTION = 0.02
# Both ends, and as many bisections as the resolution takes: the most there can be, for the progress.
MOST_TRIALS = 2 + math.ceil(math.log2((HIGHEST - LOWEST) / RESOLUTION))

Attempt = Callable[[Recipe, Path, Callable[[str, float], None]], Artifact]


def is_open(item: Pass) -> bool:
    """Whether the pass has a sparsity that was left open."""
    return getattr(item, "sparsity", 0) is None


def has_open(recipe: Recipe) -> bool:
    """Whether the recipe has a sparsity to solve for, and a goal to solve it by."""
    return bool(recipe.goals) and any(is_open(item) for item in recipe.passes)


def settle(recipe: Recipe, sparsity: float) -> Recipe:
    """Return the recipe with every open sparsity set."""
    passes = tuple(
        dataclasses.replace(item, sparsity=sparsity) if is_open(item) else item  # type: ignore[type-var]
        for item in recipe.passes
    )
    return dataclasses.replace(recipe, passes=passes)


def solve(
    recipe: Recipe,
    output: Path,
    attempt: Attempt,
    progress: Callable[[str, float], None],
    force: bool = False,
) -> Artifact:
    """Search the sparsity by bisection and leave the best artifact at ``output``.

    Parameters
    ----------
    recipe : Recipe
        With at least one goal and one open sparsity.
    output : Path
    attempt : callable
        Compiles a settled recipe to a path.
    progress : callable
    force : bool
        Replace an artifact that is already there.

    Returns
    -------
    Artifact
        The one that meets every goal; where none does, the one nearest to them: the sparsest if a
        cost is too high, the least sparse if a quality is lost. Its exit code then is 5.

    Raises
    ------
    UnsupportedTargetError
        If none of the goals can be measured for the target.
    """
    costs = [goal for goal in recipe.goals if goal.is_cost]
    trials: dict[float, Artifact] = {}
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.search.", dir=output.parent) as folder:

        def met(sparsity: float) -> bool:
            sparsity = round(sparsity, 4)
            if sparsity not in trials:
                path = Path(folder) / f"{sparsity:g}.sparsec"
                before = len(trials) / MOST_TRIALS

                def report(text: str, done: float) -> None:
                    progress(f"sparsity {sparsity:g}: {text}", before + done / MOST_TRIALS)

                try:
                    trials[sparsity] = attempt(settle(recipe, sparsity), path, report)
                except BudgetError as error:  # the most there is stands for what there is not
                    most = math.floor(error.most * 0.99e4) / 1e4
                    if most <= 0:
                        raise
                    trials[sparsity] = attempt(settle(recipe, most), path, report)
            results: list[dict[str, Any]] = trials[sparsity].manifest["goals"]
            by_text = {result["goal"]: result["met"] for result in results}
            watched: list[Goal] = costs or list(recipe.goals)
            verdicts = [by_text[goal.text] for goal in watched]
            if all(verdict is None for verdict in verdicts):
                goals = ", ".join(goal.text for goal in watched)
                raise UnsupportedTargetError(
                    f"the sparsity cannot be solved for {goals}: target {recipe.target!r} cannot be "
                    "timed here; give sparsity=, or a goal of bytes or of quality",
                    where=recipe.target,
                )
            return False not in verdicts

        best = least(met, stated(recipe)) if costs else most(met)
        publish(trials[best].path, output, force)
    return Artifact.read(output)


def stated(recipe: Recipe) -> float:
    """Return where to start: the sparsity that a goal states outright, if the pass counts in its metric.

    ``macs=-40%`` with ``channel:budget=macs`` is a sparsity of 0.4.
    """
    (item, *others) = [item for item in recipe.passes if is_open(item)]
    budget = getattr(item, "budget", None)
    wanted = [-g.change for g in recipe.goals if g.is_cost and g.relative and g.metric == budget]
    return max(wanted) if wanted and not others and max(wanted) < HIGHEST else LOWEST


def least(met: Callable[[float], bool], low: float = LOWEST) -> float:
    """Return the least sparsity from ``low`` up that meets the goals; the highest if none does."""
    high = HIGHEST
    if met(low):
        return low
    if not met(high):
        return high
    while high - low > RESOLUTION:
        middle = round((low + high) / 2, 4)
        low, high = (low, middle) if met(middle) else (middle, high)
    return high


def most(met: Callable[[float], bool]) -> float:
    """Return the highest sparsity that meets the goals; the lowest if none does."""
    low, high = LOWEST, HIGHEST
    if met(high):
        return high
    if not met(low):
        return low
    while high - low > RESOLUTION:
        middle = round((low + high) / 2, 4)
        low, high = (middle, high) if met(middle) else (low, middle)
    return low
