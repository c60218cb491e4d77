"""Evaluators: what a model is worth on data, before and after.

``--eval`` takes ``FILE.npz`` with the inputs and ``labels``, ``module:function`` (a zero-argument
callable that returns a function ``(run) -> {metric: value}``, or that function itself), or
``NAME:FILE`` for a registered evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.errors import CalibrationError
from sparsec.ir.registry import Registry
from sparsec.ir.sources import import_function, load_feeds, read_npz

Run: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
Evaluator: TypeAlias = Callable[[Run], dict[str, float]]

evaluators: Registry[Callable[[Path, ir.Model], Evaluator]] = Registry(
    "evaluator",
    "sparsec.evaluators",
    {"labels": "sparsec.evaluate:labels"},
    error=CalibrationError,
)


def load_evaluator(source: str, model: ir.Model) -> Evaluator:
    """Return the evaluator that ``source`` names.

    Raises
    ------
    CalibrationError
        If the source is missing, unknown or not what an evaluator needs.
    """
    if source.endswith(".npz") and ":" not in Path(source).name:
        return labels(Path(source), model)
    name, colon, rest = source.partition(":")
    if not colon:
        raise CalibrationError(
            f"--eval {source}: needed FILE.npz, module:function or NAME:FILE", where=source
        )
    if name in evaluators:
        return evaluators.get(name)(Path(rest), model)
    function = import_function(source, "--eval")
    return _checked(function, source)


def _checked(function: Callable[..., Any], source: str) -> Evaluator:
    def evaluate(run: Run) -> dict[str, float]:
        metrics = function(run)
        if not isinstance(metrics, Mapping) or not metrics:
            raise CalibrationError(
                f"--eval {source}: needed a dictionary of metrics, got {type(metrics).__name__}",
                where=source,
            )
        return {str(key): float(value) for key, value in metrics.items()}

    return evaluate


def labels(path: Path, model: ir.Model) -> Evaluator:
    """Top-1 and top-5 accuracy of the first output against ``labels`` in an ``.npz`` file.

    Parameters
    ----------
    path : Path
        Holds the inputs as for calibration, and ``labels`` int [items].
    """
    arrays = read_npz(path)
    if "labels" not in arrays:
        raise CalibrationError(f"{path}: no array 'labels' in it", where=str(path))
    truth = arrays["labels"].astype(np.int64).ravel()
    feeds = list(load_feeds(str(path), model))
    output = model.graph.outputs[0].name or ""

    def evaluate(run: Run) -> dict[str, float]:
        scores = np.concatenate([np.atleast_2d(run(feed)[output]) for feed in feeds])
        if len(scores) != len(truth):
            raise CalibrationError(
                f"{path}: {len(truth)} labels for {len(scores)} results", where=str(path)
            )
        ranked = np.argsort(-scores, axis=-1, kind="stable")
        hits = ranked == truth[:, None]
        return {
            "top1": float(hits[:, 0].mean()),
            "top5": float(hits[:, :5].any(axis=1).mean()),
        }

    return evaluate
