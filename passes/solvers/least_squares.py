"""Least squares on a support that is the same for all rows: whole columns are gone.

A layer ``y = W x + b`` loses the columns R of its input and keeps S. The weights ``V`` [out, S] and
bias that keep its output nearest to what it was are those of::

    min  sum |W x - V x_S - c|^2 + mu |V - W_S|^2

over the rows x. The bias ``c = W_R m_R + (W_S - V) m_S`` (with ``m`` the mean of x) takes the means
out, so that the rest is about centred rows with Gram matrix ``C``::

    V = W_S + W_R C_RS (C_SS + mu I)^-1

``mu`` is a fraction, the damping, of the mean of the diagonal of ``C_SS``: without it the solution
follows noise wherever rows are few. It pulls towards the weights as they were, not towards zero.

Sources: Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 25 (damping towards a
prior); He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks",
arXiv:1707.06168, section 3.1 (reconstruction of a layer that lost channels).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

DAMPING = 0.01


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Inputs:
    """Moments of the rows that a layer reads.

    Parameters
    ----------
    mean : float64 [reduction]
    gram : float64 [reduction, reduction], optional
        Centred products, summed over the rows; not needed for the bias alone.
    """

    mean: Array
    gram: Array | None = None


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Refit:
    """A layer without some of its columns.

    Parameters
    ----------
    weight : float64 [out, kept]
    shift : float64 [out]
        To be added to the bias.
    """

    weight: Array
    shift: Array


def bias_only(weight: NDArray[Any], kept: Mask, inputs: Inputs) -> Refit:
    """Keep the weights, and let the bias stand for the mean of what is gone.

    Exact where the removed inputs are constant; otherwise right on average.

    Parameters
    ----------
    weight : float [out, reduction]
    kept : bool [reduction]
    inputs : Inputs

    Examples
    --------
    >>> kept = np.array([True, False])
    >>> bias_only(np.array([[1.0, 2.0]]), kept, Inputs(np.array([5.0, 3.0]))).shift
    array([6.])
    """
    wide = weight.astype(np.float64)
    return Refit(wide[:, kept], wide[:, ~kept] @ inputs.mean[~kept])


def refit(weight: NDArray[Any], kept: Mask, inputs: Inputs, damping: float = DAMPING) -> Refit:
    """Solve for the kept weights and the bias; see the formulas above.

    Parameters
    ----------
    weight : float [out, reduction]
    kept : bool [reduction]
    inputs : Inputs
        With a Gram matrix. Columns that never vary leave their weights as they are.
    damping : float
        Fraction of the mean of the Gram's diagonal over the kept columns.

    Examples
    --------
    The removed input is twice the first one, so the first one can stand for it.

    >>> x = np.array([[1.0, 3.0, 2.0], [2.0, 1.0, 4.0], [4.0, 2.0, 8.0]])
    >>> mean = x.mean(axis=0)
    >>> inputs = Inputs(mean, (x - mean).T @ (x - mean))
    >>> kept = np.array([True, True, False])
    >>> refit(np.array([[1.0, 1.0, 1.0]]), kept, inputs, damping=0.0).weight.round(6)
    array([[3., 1.]])
    """
    assert inputs.gram is not None
    wide = weight.astype(np.float64)
    cross = inputs.gram[np.ix_(kept, ~kept)] @ wide[:, ~kept].T
    solved = wide[:, kept] + solve_damped(inputs.gram[np.ix_(kept, kept)], cross, damping).T
    shift = wide @ inputs.mean - solved @ inputs.mean[kept]
    return Refit(solved, shift)


def solve_damped(gram: Array, right: Array, damping: float) -> Array:
    """Return ``(gram + mu I)^-1 right``, with ``mu`` the damping times the mean of the diagonal.

    Columns whose diagonal is zero get zeros. A singular matrix without damping gets the solution of
    least norm.

    Parameters
    ----------
    gram : float64 [n, n]
        Symmetric, positive semi-definite.
    right : float64 [n, m]
    damping : float
    """
    alive = np.diagonal(gram) > 0
    result = np.zeros_like(right)
    if not alive.any():
        return result
    inner = gram[np.ix_(alive, alive)]
    mu = damping * float(np.diagonal(inner).mean())
    if mu > 0:
        inner[np.diag_indices_from(inner)] += mu
        result[alive] = np.linalg.solve(inner, right[alive])
    else:
        result[alive] = np.linalg.lstsq(inner, right[alive], rcond=None)[0]
    return result


def lost(weight: NDArray[Any], kept: Mask, found: Refit, inputs: Inputs, count: int) -> float:
    """Return the sum of squares, over all rows, by which the outputs of the layer differ.

    Parameters
    ----------
    weight : float [out, reduction]
        The layer before.
    kept : bool [reduction]
    found : Refit
        The layer after.
    inputs : Inputs
        With a Gram matrix.
    count : int
        Rows behind ``inputs``.
    """
    assert inputs.gram is not None
    change = weight.astype(np.float64).copy()
    change[:, kept] -= found.weight
    constant = change @ inputs.mean - found.shift
    varying = np.einsum("or,rs,os->", change, inputs.gram, change, optimize=True)
    return float(max(varying, 0.0) + count * constant @ constant)
