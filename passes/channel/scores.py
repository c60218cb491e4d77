"""What each unit of a pruning group is worth, from the weights that it holds.

A unit lies in several tensors: the filters that make it, the slices of the next layers that read it.
A criterion scores each slice; the scores of one tensor are divided by their mean, so that tensors of
different scale count alike, and a group's score is their mean over tensors. Source of the scheme:
Fang et al., "DepGraph", arXiv:2301.12900, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import PassConfigError, did_you_mean
from sparsec.ir.groups import Group, Groups
from sparsec.ir.memory import release

Rows: TypeAlias = NDArray[np.floating]
SliceCriterion: TypeAlias = "Callable[[Rows], NDArray[np.float64]]"


def l1(rows: Rows) -> NDArray[np.float64]:
    """Return the sum of magnitudes of each slice. Source: Li et al., arXiv:1608.08710.

    Examples
    --------
    >>> l1(np.array([[1.0, -2.0], [0.0, 0.5]])).tolist()
    [3.0, 0.5]
    """
    return np.asarray(np.abs(rows).sum(axis=1, dtype=np.float64))


def l2(rows: Rows) -> NDArray[np.float64]:
    """Return the Euclidean norm of each slice."""
    return np.asarray(np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1)))


def fpgm(rows: Rows) -> NDArray[np.float64]:
    """Return the summed distance of each slice to all others: what is in the middle is replaceable.

    Source: He et al., "Filter Pruning via Geometric Median", arXiv:1811.00250.

    Examples
    --------
    >>> fpgm(np.array([[0.0], [1.0], [5.0]])).tolist()
    [6.0, 5.0, 9.0]
    """
    wide = rows.astype(np.float64)
    norms = np.square(wide).sum(axis=1)
    squared = norms[:, None] + norms[None, :] - 2 * wide @ wide.T
    return np.asarray(np.sqrt(np.maximum(squared, 0)).sum(axis=1))


def lamp(rows: Rows) -> NDArray[np.float64]:
    """Return each slice's squared norm over that of all slices at least as large.

    Source: Lee et al., "Layer-adaptive sparsity for magnitude-based pruning", arXiv:2010.07611; here
    of slices instead of weights. The largest scores 1, so no layer is emptied.

    Examples
    --------
    >>> lamp(np.array([[1.0], [2.0], [1.0]])).tolist()
    [0.16666666666666666, 1.0, 0.2]
    """
    squared = np.square(rows, dtype=np.float64).sum(axis=1)
    order = np.argsort(squared, kind="stable")
    above = np.cumsum(squared[order][::-1])[::-1]
    scores = np.empty(squared.shape, np.float64)
    scores[order] = squared[order] / np.maximum(above, np.finfo(np.float64).tiny)
    return scores


SLICE_CRITERIA: dict[str, SliceCriterion] = {"l1": l1, "l2": l2, "fpgm": fpgm, "lamp": lamp}
RANDOM = "random"
BATCH_NORM = "bn"


def check_criterion(who: str, name: str) -> None:
    """Refuse an unknown criterion.

    Raises
    ------
    PassConfigError
    """
    known = (*SLICE_CRITERIA, RANDOM, BATCH_NORM)
    if name not in known:
        hint = did_you_mean(name, known)
        raise PassConfigError(f"{who}: unknown criterion {name!r}; {hint}", where=who)


def unit_scores(
    groups: Groups, chosen: list[Group], criterion: str, seed: int
) -> list[NDArray[np.float64]]:
    """Score every unit of every group; higher = keep.

    Parameters
    ----------
    groups : Groups
    chosen : list of Group
        Those to score.
    criterion : str
    seed : int
        Of ``random``.

    Returns
    -------
    list of float [units]
        One array a group, of mean 1 unless all its weights are zero.
    """
    if criterion == RANDOM:
        rng = np.random.default_rng(seed)
        return [rng.random(group.size) for group in chosen]
    if criterion == BATCH_NORM:
        scales = _slice_scores(groups, chosen, l1, scales_only=True)
        bare = [group for group, found in zip(chosen, scales, strict=True) if found is None]
        weights = iter(unit_scores(groups, bare, "l2", seed)) if bare else iter(())
        return [next(weights) if found is None else found for found in scales]
    found = _slice_scores(groups, chosen, SLICE_CRITERIA[criterion])
    return [np.zeros(g.size) if s is None else s for g, s in zip(chosen, found, strict=True)]


def _slice_scores(
    groups: Groups, chosen: list[Group], score: SliceCriterion, scales_only: bool = False
) -> list[NDArray[np.float64] | None]:
    """Return the mean score of every unit over its tensors; None for a group that has none.

    Parameters
    ----------
    groups : Groups
    chosen : list of Group
    score : callable
    scales_only : bool
        Look at the scales of BatchNormalization, not at the weights.
    """
    lattice = groups.lattice
    number, place = _places(groups, chosen)
    sums = [np.zeros(group.size) for group in chosen]
    counts = [0] * len(chosen)
    for value in lattice.model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        if (value not in lattice.scales) if scales_only else len(tensor.shape) < 2:
            continue
        for index, axis in enumerate(lattice.axes.get(value) or ()):
            if axis is None:
                continue
            leaves = lattice.atoms.leaves(axis.atoms)
            owners = np.where(leaves >= 0, number[np.maximum(leaves, 0)], -1)
            for owner in np.unique(owners[owners >= 0]):
                column = int(np.argmax((owners == owner).any(axis=0)))
                rows = np.flatnonzero(owners[:, column] == owner)
                units = place[leaves[rows, column]]
                slices = _slices(tensor.numpy(), index, rows, units, chosen[owner].size)
                found = score(slices)
                mean = found.mean()
                sums[owner] += found / mean if mean > 0 else found
                counts[owner] += 1
        release(tensor)
    return [total / count if count else None for total, count in zip(sums, counts, strict=True)]


def _places(groups: Groups, chosen: list[Group]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for every atom class the number of its group (-1: none), and its place in it."""
    number = np.full(len(groups.lattice.atoms), -1)
    place = np.zeros(len(groups.lattice.atoms), np.int64)
    for index, group in enumerate(chosen):
        number[group.units] = index
        place[group.units] = np.arange(group.size)
    return number, place


def _slices(
    array: NDArray[Any], axis: int, rows: NDArray[np.int64], units: NDArray[np.int64], size: int
) -> NDArray[np.floating]:
    """Return one row for each unit: all weights at its positions along ``axis``."""
    moved = np.moveaxis(array, axis, 0)
    order = np.argsort(units, kind="stable")
    picked = moved[rows[order]].astype(np.promote_types(array.dtype, np.float32))
    picked = picked.reshape(len(rows), -1)
    counts = np.bincount(units, minlength=size)
    if (counts == counts[0]).all():
        return np.asarray(picked.reshape(size, -1))
    # Units with fewer positions than others are filled up with zeros.
    wide = np.zeros((size, int(counts.max()), picked.shape[1]), picked.dtype)
    sorted_units = units[order]
    rank = np.arange(len(rows)) - np.concatenate([[0], np.cumsum(counts)])[sorted_units]
    wide[sorted_units, rank] = picked
    return wide.reshape(size, -1)
