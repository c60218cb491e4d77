"""``labels:FILE.npz``: how often the right class comes first, and among the first five."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.evaluate import Run
from sparsec.ir.errors import CalibrationError
from sparsec.ir.run import Feeds
from sparsec.ir.sources import LABELS, class_numbers, load_feeds, read_npz


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class LabelAccuracy:
    """Top-1 and top-5 accuracy of the first output.

    Parameters
    ----------
    path : Path
    feeds : sequence of mappings
    truth : int [items]
    output : str
        Scores float [batch, classes].
    """

    path: Path
    feeds: Sequence[Feeds]
    truth: NDArray[np.int64]
    output: str

    @property
    def data(self) -> str:
        """What it is measured on, for reports."""
        return f"{self.path.name}: {len(self.truth)} labels"

    def __call__(self, run: Run) -> dict[str, float]:
        """Return ``top1`` and ``top5``; of equal scores the class with the lower number is first."""
        done = first = among = 0
        for feed in self.feeds:
            scores: NDArray[Any] = np.atleast_2d(run(feed)[self.output])
            if scores.ndim != 2:
                raise CalibrationError(
                    f"{self.path}: the output {self.output!r} has the shape {list(scores.shape)}; "
                    "labels need [batch, classes]",
                    where=self.output,
                )
            truth = self.truth[done : done + len(scores)]
            done += len(scores)
            if (unknown := truth[(truth < 0) | (truth >= scores.shape[1])]).size:
                raise CalibrationError(
                    f"{self.path}: holds the label {unknown[0]}; the output {self.output!r} knows "
                    f"the classes 0 to {scores.shape[1] - 1}",
                    where=str(self.path),
                )
            if len(truth) == len(scores):
                hits = np.argsort(-scores, axis=-1, kind="stable")[:, :5] == truth[:, None]
                first += int(np.count_nonzero(hits[:, 0]))
                among += int(np.count_nonzero(hits))
        if done != len(self.truth):
            raise CalibrationError(
                f"{self.path}: {len(self.truth)} labels do not fit {done} results; one label is "
                f"needed for each row of {self.output!r}",
                where=str(self.path),
            )
        return {"top1": first / done, "top5": among / done}


def labels(path: Path, model: ir.Model) -> LabelAccuracy:
    """Build the evaluator from a file with the inputs as for calibration, and ``labels`` int [items].

    Raises
    ------
    CalibrationError
        If the file cannot be used.
    """
    arrays = read_npz(path)
    if LABELS not in arrays or not arrays[LABELS].size:
        raise CalibrationError(f"{path}: no array {LABELS!r} in it", where=str(path))
    truth = class_numbers(arrays[LABELS], str(path))
    output = model.graph.outputs[0].name or ""
    return LabelAccuracy(path, load_feeds(str(path), model), truth, output)
