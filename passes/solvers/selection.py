"""Which units a layer can do without best, if the weights that stay may be refitted.

Optimal Brain Surgeon for blocks of columns: with ``P`` the inverse of the damped Gram matrix of the
columns that are left, taking away the columns U of a unit and refitting the rest costs::

    L_U = tr(W_U (P_UU)^-1 W_U^T)

after which ``W -= W_U (P_UU)^-1 P_U*`` are the refitted weights and ``P -= P_*U (P_UU)^-1 P_U*`` is the
inverse without U. The unit of least cost goes, again and again.

Source: Hassibi and Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", NIPS
1992; Kuznedelev et al., "ZipLM", arXiv:2302.04089, section 3.1, for structures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.passes.solvers.least_squares import DAMPING

Array = NDArray[np.float64]


def least_needed(
    weight: NDArray[Any],
    gram: Array,
    unit_of: NDArray[np.int64],
    count: int,
    damping: float = DAMPING,
) -> NDArray[np.int64]:
    """Return the ``count`` units that go, in the order in which they do.

    Parameters
    ----------
    weight : float [out, reduction]
    gram : float64 [reduction, reduction]
        Centred products of what the layer reads.
    unit_of : int [reduction]
        The unit of every column, 0..n-1, each with equally many columns; -1 for columns that stay.
    count : int
        Less than the number of units.
    damping : float
        Fraction of the mean of the Gram's diagonal.

    Examples
    --------
    Units 0 and 1 say the same, so one of them is not needed; unit 2 is small but alone.

    >>> gram = np.array([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    >>> least_needed(np.ones((1, 3)), gram, np.arange(3), 1).tolist()
    [0]
    """
    units = int(unit_of.max()) + 1
    columns = np.stack([np.flatnonzero(unit_of == unit) for unit in range(units)])
    mu = damping * float(np.diagonal(gram).mean())
    damped = gram + (mu if mu > 0 else 1.0) * np.eye(len(gram))
    inverse: Array = np.asarray(np.linalg.inv(damped), np.float64)
    left: Array = weight.astype(np.float64)
    alive = np.ones(units, np.bool_)
    gone = []
    for _ in range(count):
        costs = np.full(units, np.inf)
        costs[alive] = _costs(left, inverse, columns[alive])
        unit = int(np.argmin(costs))
        own = columns[unit]
        rows = np.linalg.solve(inverse[np.ix_(own, own)], inverse[own])
        left = left - left[:, own] @ rows
        inverse -= inverse[:, own] @ rows
        # Exactly gone: what rounding leaves of it would be divided by.
        left[:, own] = inverse[own] = inverse[:, own] = 0
        inverse[own, own] = 1
        alive[unit] = False
        gone.append(unit)
    return np.array(gone, np.int64)


def _costs(weight: Array, inverse: Array, columns: NDArray[np.int64]) -> Array:
    """Return the cost of every unit, given the columns [units, k] of each."""
    if columns.shape[1] == 1:
        flat = columns[:, 0]
        return np.asarray((weight[:, flat] ** 2).sum(axis=0) / inverse[flat, flat])
    blocks = inverse[columns[:, :, None], columns[:, None, :]]
    read = weight[:, columns].transpose(1, 2, 0)  # [units, k, out]
    return np.asarray((read * np.linalg.solve(blocks, read)).sum(axis=(1, 2)))
