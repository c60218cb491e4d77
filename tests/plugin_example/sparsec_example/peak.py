"""A criterion of channels: one is worth its largest weight."""

from __future__ import annotations

import numpy as np

from sparsec.passes.channel.criteria import Scores, UnitCriterion, of_weights
from sparsec.passes.channel.slices import Rows


def largest(rows: Rows) -> Scores:
    """Return the largest magnitude of each slice."""
    return np.abs(rows).max(axis=1).astype(np.float64)


peak = UnitCriterion(of_weights(largest))
