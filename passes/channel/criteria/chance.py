"""Chance: what every other criterion has to beat."""

from __future__ import annotations

import numpy as np

from sparsec.passes.base import PassContext
from sparsec.passes.channel.criteria import Scores, UnitCriterion
from sparsec.passes.channel.slices import Slices


def _uniform(slices: Slices, context: PassContext) -> list[list[Scores]]:
    """Return numbers from 0 to 1, equal for equal seeds."""
    rng = np.random.default_rng(context.seed)
    return [[rng.random(group.size)] for group in slices.chosen]


chance = UnitCriterion(_uniform)
