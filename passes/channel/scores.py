"""One score for every unit, from those of its slices in the tensors that hold it.

The scores of each tensor are normalised, so that tensors of different scale count alike, and reduced
over the tensors. Source of the scheme: Fang et al., "DepGraph", arXiv:2301.12900, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import PassConfigError, did_you_mean
from sparsec.ir.groups import Group, Groups
from sparsec.passes.base import PassContext
from sparsec.passes.channel.criteria import unit_criteria
from sparsec.passes.channel.slices import Slices

Scores = NDArray[np.float64]

REDUCTIONS: dict[str, Callable[[Scores], Scores]] = {
    "mean": lambda stack: stack.mean(axis=0),
    "sum": lambda stack: stack.sum(axis=0),
    "max": lambda stack: stack.max(axis=0),
    "prod": lambda stack: stack.prod(axis=0),
    "first": lambda stack: stack[0],
}
NORMALISATIONS: dict[str, Callable[[Scores], float]] = {
    "mean": lambda scores: float(scores.mean()),
    "max": lambda scores: float(scores.max()),
    "sum": lambda scores: float(scores.sum()),
    "none": lambda scores: 1.0,
}


def check_scoring(who: str, criterion: str, reduce: str, normalise: str | None) -> None:
    """Refuse an unknown criterion, reduction or normalisation.

    Raises
    ------
    PassConfigError
    """
    for what, given, known in (
        ("criterion", criterion, list(unit_criteria)),
        ("reduce", reduce, list(REDUCTIONS)),
        ("normalise", normalise or "none", list(NORMALISATIONS)),
    ):
        if given not in known:
            hint = did_you_mean(given, known)
            raise PassConfigError(f"{who}: unknown {what} {given!r}; {hint}", where=who)


def unit_scores(
    groups: Groups,
    chosen: list[Group],
    criterion: str,
    context: PassContext,
    *,
    reduce: str = "mean",
    normalise: str | None = None,
) -> list[Scores]:
    """Score every unit of every group; higher = keep.

    Parameters
    ----------
    groups : Groups
    chosen : list of Group
        Those to score.
    criterion : str
        Of :data:`~sparsec.passes.channel.criteria.unit_criteria`.
    context : PassContext
        With calibration data, if the criterion needs any.
    reduce : str
        How the scores in several tensors become one: ``mean``, ``sum``, ``max``, ``prod``, or
        ``first``, the tensor that makes the units.
    normalise : str, optional
        What the scores of one tensor are divided by: their ``mean``, ``max`` or ``sum``, or ``none``.
        By default the mean, and nothing where the criterion says what the loss is worse by.

    Returns
    -------
    list of float [units]
        One array a group.
    """
    chosen_criterion = unit_criteria.get(criterion)
    if not chosen:
        return []
    found = chosen_criterion.score(Slices(groups, chosen), context)
    scale = NORMALISATIONS[normalisation(criterion, normalise)]
    scores = []
    for group, tensors in zip(chosen, found, strict=True):
        scaled = [each / scale(each) if scale(each) > 0 else each for each in tensors]
        scores.append(REDUCTIONS[reduce](np.stack(scaled)) if scaled else np.zeros(group.size))
    return scores


def normalisation(criterion: str, given: str | None) -> str:
    """Return the normalisation that is used: the one that was given, or what suits the criterion."""
    return given or ("none" if unit_criteria.get(criterion).is_loss else "mean")
