"""Criteria of structure: what each unit of a pruning group is worth. Higher means keep.

A unit lies in several tensors: the filters that make it, the slices of the next layers that read it.
A criterion scores the slices in every tensor; how these become one score of the unit is the matter
of :mod:`sparsec.passes.channel.scores`.

Most criteria are a function of slices and are made by :func:`of_weights` or :func:`of_gradients`; one
that looks at anything else is a function of all :class:`~sparsec.passes.channel.slices.Slices`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import PassConfigError
from sparsec.ir.registry import Registry
from sparsec.passes.base import PassContext
from sparsec.passes.channel.slices import Rows, Slices

Scores: TypeAlias = NDArray[np.float64]

Score: TypeAlias = "Callable[[Slices, PassContext], list[list[Scores]]]"
"""For every group, in order: the scores [units] in each tensor that has any, weights' makers first."""


@dataclasses.dataclass(frozen=True, slots=True)
class UnitCriterion:
    """How units are scored.

    Parameters
    ----------
    score : callable
    is_loss : bool
        Whether a score says what the loss will be worse by, so that scores of different groups
        compare as they are.
    needs_batch_norm : bool
        Whether BatchNormalization must not be folded before.
    by_refit : bool
        Whether the scores only say how many units each group loses, and which ones is chosen by the
        layer that reads them when it is refitted, where it is a single one.
    """

    score: Score
    is_loss: bool = False
    needs_batch_norm: bool = False
    by_refit: bool = False


def of_weights(score: Callable[[Rows], Scores]) -> Score:
    """Return the criterion that scores the weights [units, n] of every tensor by a function."""

    def every(slices: Slices, context: PassContext) -> list[list[Scores]]:
        found: list[list[Scores]] = [[] for _ in slices.chosen]
        for tensor, places in slices.tensors():
            for place in places:
                found[place.group].append(score(place.of(tensor)))
        return found

    return every


def of_gradients(
    score: Callable[[Rows, Rows], Scores], joint: Callable[[Scores], Scores] | None = None
) -> Score:
    """Return the criterion that is the mean over samples of a function of weights and gradients.

    Parameters
    ----------
    score : callable
        Given the weights [units, n] of a tensor and the gradient of one sample's loss by them.
    joint : callable, optional
        Given the sum of the scores [units] in all tensors, biases too, of one sample: a unit then has
        one score, not one in each tensor.
    """

    def every(slices: Slices, context: PassContext) -> list[list[Scores]]:
        from sparsec.passes.channel.criteria.gradients import mean_over_samples

        return mean_over_samples(slices, context, score, joint)

    return every


_HERE = "sparsec.passes.channel.criteria"

unit_criteria: Registry[UnitCriterion] = Registry(
    "criterion of channels",
    "sparsec.unit_criteria",
    {
        "l1": f"{_HERE}.norms:l1",
        "l2": f"{_HERE}.norms:l2",
        "bn": f"{_HERE}.batch_norm:batch_norm",
        "fpgm": f"{_HERE}.fpgm:fpgm",
        "lamp": f"{_HERE}.lamp:lamp",
        "taylor": f"{_HERE}.taylor:taylor",
        "taylor-group": f"{_HERE}.taylor:taylor_group",
        "saliency": f"{_HERE}.saliency:saliency",
        "fisher": f"{_HERE}.fisher:fisher",
        "hessian": f"{_HERE}.hessian:hessian",
        "energy": f"{_HERE}.energy:energy",
        "obs": f"{_HERE}.energy:obs",
        "random": f"{_HERE}.chance:chance",
    },
    error=PassConfigError,
)
