"""Taylor: what the loss changes by, to first order, when a slice is zeroed."""

from __future__ import annotations

import numpy as np

from sparsec.passes.channel.criteria import Scores, UnitCriterion, of_gradients
from sparsec.passes.channel.slices import Rows


def first_order(weights: Rows, gradients: Rows) -> Scores:
    """Return ``sum w * g`` of each slice: terms of opposite sign cancel, as they do in the loss.

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    arXiv:1611.06440, equations 7 and 8; with weights in place of activations, as in arXiv:1906.10771.
    The mean over samples is one of magnitudes: the mean gradient of a trained model vanishes.

    Examples
    --------
    >>> first_order(np.array([[1.0, 2.0]]), np.array([[2.0, -0.5]])).tolist()
    [1.0]
    """
    return np.asarray((weights * gradients).sum(axis=1, dtype=np.float64))


def magnitude_of_change(weights: Rows, gradients: Rows) -> Scores:
    """Return ``|sum w * g|`` of each slice."""
    return np.abs(first_order(weights, gradients))


taylor = UnitCriterion(of_gradients(magnitude_of_change), is_loss=True)
# The slices of a unit in all its tensors, zeroed together.
taylor_group = UnitCriterion(of_gradients(first_order, joint=np.abs), is_loss=True)
