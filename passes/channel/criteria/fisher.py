"""Fisher: what the loss changes by, to second order, when a whole unit is zeroed at once."""

from __future__ import annotations

import numpy as np

from sparsec.passes.channel.criteria import Scores, UnitCriterion, of_gradients
from sparsec.passes.channel.criteria.taylor import first_order


def second_order(changes: Scores) -> Scores:
    """Return half the square of each unit's ``sum w * g``, over all its tensors.

    Its mean over samples is ``1/2 w^T F w`` with ``F = E[g g^T]``: unlike ``hessian`` it has the terms
    between weights. Source: Liu et al., "Group Fisher Pruning", arXiv:2108.00708, equation 5.

    Examples
    --------
    >>> second_order(np.array([-2.0, 1.0])).tolist()
    [2.0, 0.5]
    """
    return 0.5 * np.square(changes)


fisher = UnitCriterion(of_gradients(first_order, joint=second_order), is_loss=True)
