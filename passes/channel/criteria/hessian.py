"""Hessian: what the loss changes by, to second order, with its curvature taken as diagonal."""

from __future__ import annotations

import numpy as np

from sparsec.passes.channel.criteria import Scores, UnitCriterion, of_gradients
from sparsec.passes.channel.slices import Rows


def curvature(weights: Rows, gradients: Rows) -> Scores:
    """Return ``1/2 sum w^2 g^2`` of each slice, the mean of which uses E[g^2] for the curvature.

    Source: LeCun et al., "Optimal Brain Damage", 1989, equation 5; the squared gradients of single
    samples are the diagonal of the Fisher information, which is the Hessian of the expected loss
    where the model predicts its targets (Martens, arXiv:1412.1193, section 9).

    Examples
    --------
    >>> curvature(np.array([[1.0, 2.0]]), np.array([[2.0, -0.5]])).tolist()
    [2.5]
    """
    return np.asarray(0.5 * np.square(weights * gradients, dtype=np.float64).sum(axis=1))


hessian = UnitCriterion(of_gradients(curvature), is_loss=True)
