"""Evaluators: what a model is worth on data, before and after.

``--eval`` takes ``FILE.npz`` with the inputs and ``labels``, ``module:function`` (a zero-argument
callable that returns a function ``(run) -> {metric: value}``, or that function itself), or
``NAME:FILE`` for a registered evaluator.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.errors import CalibrationError, SparsecError
from sparsec.ir.registry import Registry
from sparsec.ir.sources import import_function

Run: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


class Evaluator(Protocol):
    """What measures a model.

    Attributes
    ----------
    data : str
        What it is measured on, for reports.
    """

    @property
    def data(self) -> str: ...  # noqa: D102

    def __call__(self, run: Run) -> dict[str, float]:
        """Return the metrics of a model, given what runs it."""
        ...


evaluators: Registry[Callable[[Path, ir.Model], Evaluator]] = Registry(
    "evaluator",
    "sparsec.evaluators",
    {
        "labels": "sparsec.evaluators.labels:labels",
        "perplexity": "sparsec.evaluators.perplexity:perplexity",
        "agreement": "sparsec.evaluators.likeness:agreement",
        "cosine": "sparsec.evaluators.likeness:cosine",
    },
    error=CalibrationError,
)


def load_evaluator(source: str, model: ir.Model) -> Evaluator:
    """Return the evaluator that ``source`` names.

    Raises
    ------
    CalibrationError
        If the source is missing, unknown or not what an evaluator needs.
    """
    name, colon, rest = source.partition(":")
    if colon and name in evaluators:
        return evaluators.get(name)(Path(rest), model)
    if source.endswith(".npz") and (not colon or Path(source).exists()):
        return evaluators.get("labels")(Path(source), model)
    if not colon:
        raise CalibrationError(
            f"--eval {source}: needed FILE.npz, module:function or NAME:FILE", where=source
        )
    if rest.endswith(".npz"):
        evaluators.get(name)  # raises: there is none of that name
    return _Function(import_function(source, "--eval"), source)


@dataclasses.dataclass(frozen=True, slots=True)
class _Function:
    """A user's function as an evaluator: ``(run) -> metrics``, or a maker of one without arguments."""

    function: Callable[..., Any]
    data: str

    def __call__(self, run: Run) -> dict[str, float]:
        try:
            makes_one = not inspect.signature(self.function).parameters
            metrics = (self.function() if makes_one else self.function)(run)
        except SparsecError:
            raise
        except (Exception, SystemExit) as error:  # the user's code may fail in any way
            raise CalibrationError(
                f"--eval {self.data}: the function failed: {type(error).__name__}: {error}",
                where=self.data,
            ) from error
        if not isinstance(metrics, Mapping) or not metrics:
            raise self._refuse(f"a dictionary of metrics, got {type(metrics).__name__}")
        for key, value in metrics.items():
            if not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
                raise self._refuse(f"a finite number for {key!r}, got {value!r}")
        return {str(key): float(value) for key, value in metrics.items()}

    def _refuse(self, what: str) -> CalibrationError:
        return CalibrationError(f"--eval {self.data}: needed {what}", where=self.data)
