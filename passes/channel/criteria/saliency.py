"""Saliency: how much the loss depends on the weights of a slice, whatever their signs."""

from __future__ import annotations

import numpy as np

from sparsec.passes.channel.criteria import Scores, UnitCriterion, of_gradients
from sparsec.passes.channel.slices import Rows


def dependence(weights: Rows, gradients: Rows) -> Scores:
    """Return ``sum |w * g|`` of each slice. Source: Lee et al., SNIP, arXiv:1810.02340, section 4.1.

    Examples
    --------
    >>> dependence(np.array([[1.0, 2.0]]), np.array([[2.0, -0.5]])).tolist()
    [3.0]
    """
    return np.asarray(np.abs(weights * gradients).sum(axis=1, dtype=np.float64))


saliency = UnitCriterion(of_gradients(dependence), is_loss=True)
