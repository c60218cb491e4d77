"""Scores from gradients: one backward pass for each sample, through the FX bridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import CalibrationError, PassError
from sparsec.ir.memory import release
from sparsec.passes.base import PassContext
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.channel.criteria import Scores
from sparsec.passes.channel.slices import Place, Rows, Slices

LEAST_DRAWS = 32  # backward passes in all, where targets are drawn: few samples give several each


def mean_over_samples(
    slices: Slices,
    context: PassContext,
    score: Callable[[Rows, Rows], Scores],
    joint: Callable[[Scores], Scores] | None,
) -> list[list[Scores]]:
    """Return the scores of every group's units; see :func:`~sparsec.passes.channel.criteria.of_gradients`.

    The loss is the cross-entropy of the labels that the calibration data has, or else that of
    targets drawn from what the model itself predicts: see :mod:`sparsec.passes.calibration.loss`.

    Raises
    ------
    PassConfigError
        If there is no calibration data.
    PassError
        If torch is not installed.
    UnsupportedOpError
        If the way back leads through an operator that has no form in torch.
    """
    calibration = context.calibrated("a criterion that looks at gradients")
    executor = _executor(slices)
    trained = executor.parameters()
    kind = "weights" if joint is None else "all"
    held = [(v, places) for v, places in slices.places(kind) if (v.name or "") in trained]
    names = [value.name or "" for value, _ in held]
    sums: list[list[Scores]] = [[] for _ in slices.chosen]
    slots = [[np.zeros(place.size) for place in places] for _, places in held]
    if joint is not None:
        sums = [[np.zeros(group.size)] for group in slices.chosen]
    else:
        for (_, places), slot in zip(held, slots, strict=True):
            for place, scores in zip(places, slot, strict=True):
                sums[place.group].append(scores)
    count = 0
    for gradients in _per_sample(executor, calibration, names, context):
        for (value, places), slot in zip(held, slots, strict=True):
            found = _scores(value.const_value, gradients[value.name or ""], places, score)
            for total, each in zip(slot, found, strict=True):
                total += each
        if joint is not None:
            _join(held, slots, sums, joint)
        count += 1
    return [[each / count for each in tensors] for tensors in sums]


def _scores(
    tensor: Any,
    gradient: NDArray[Any],
    places: list[Place],
    score: Callable[[Rows, Rows], Scores],
) -> list[Scores]:
    weights = tensor.numpy()
    found = [score(place.of(weights), place.of(gradient)) for place in places]
    release(tensor)
    return found


def _join(
    held: list[Any],
    slots: list[list[Scores]],
    sums: list[list[Scores]],
    joint: Callable[[Scores], Scores],
) -> None:
    """Add what one sample says of whole units, and clear what its tensors said."""
    totals = [np.zeros_like(scores[0]) for scores in sums]
    for (_, places), slot in zip(held, slots, strict=True):
        for place, part in zip(places, slot, strict=True):
            totals[place.group] += part
            part[:] = 0
    for unit, total in zip(sums, totals, strict=True):
        unit[0] += joint(total)


def _executor(slices: Slices) -> Any:
    try:
        import torch

        from sparsec.ir.fx import FxExecutor
    except ImportError as error:
        raise PassError(
            "criteria that look at gradients need torch; pip install 'sparsec[torch]', or take one of "
            "l1, l2, fpgm, lamp, bn",
            where="criterion",
        ) from error
    narrow = any(
        value.dtype is not None and value.dtype.is_floating_point() and value.dtype.itemsize < 4
        for value in slices.model.graph.initializers.values()
    )
    return FxExecutor(slices.model, dtype=torch.float32 if narrow else None, ort_leaves=True)


def _per_sample(
    executor: Any, calibration: Calibration, names: list[str], context: PassContext
) -> Any:
    """Yield the gradients of one sample's loss after the other."""
    from sparsec.passes.calibration.loss import drawn_loss, label_loss

    feeds, labels = calibration.feeds, calibration.labels_by_feed()
    draws = 1 if labels is not None else -(-LEAST_DRAWS // len(feeds))
    for number, feed in enumerate(feeds):
        for draw in range(draws):
            if labels is not None:
                loss = label_loss(executor.outputs[0], labels[number])
            else:
                loss = drawn_loss(executor.outputs, (context.seed, number, draw))
            found = executor.gradients(feed, loss, parameters=names)
            if not np.isfinite(found.loss):
                raise CalibrationError(
                    f"the loss of sample {number} is {found.loss}: the model returns no finite number "
                    "for it, or none that its label can be compared with",
                    where=f"sample {number}",
                )
            yield found.parameters
        context.progress(
            f"gradients of sample {number + 1} of {len(feeds)}", (number + 1) / len(feeds)
        )
