"""``agreement:FILE.npz`` and ``cosine:FILE.npz``: how much a model does what the original does.

They need inputs but no truth. The original itself scores 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from sparsec.compare import Fidelity
from sparsec.evaluate import Run
from sparsec.ir.errors import CalibrationError
from sparsec.ir.run import Feeds, OrtRunner
from sparsec.ir.sources import load_feeds


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Likeness:
    """One number of :class:`sparsec.compare.Fidelity` over a file of inputs.

    Parameters
    ----------
    metric : str
        ``agreement`` (fraction of positions whose largest entry along the last axis is the same)
        or ``cosine`` (mean cosine between outputs).
    path : Path
    feeds : sequence of mappings
    model : onnx_ir.Model
        The original.
    """

    metric: str
    path: Path
    feeds: Sequence[Feeds]
    model: ir.Model

    @property
    def data(self) -> str:
        """What it is measured on, for reports."""
        return f"{self.path.name}: {len(self.feeds)} samples"

    def __call__(self, run: Run) -> dict[str, float]:
        """Run both models sample by sample, so that no more than one pair of outputs is held."""
        original = OrtRunner(self.model, optimise=False, low_memory=True)
        fidelity = Fidelity()
        for feed in self.feeds:
            fidelity.add(run(feed), original.run(feed))
        value = fidelity.to_json()[self.metric]
        if value is None:
            raise CalibrationError(
                f"{self.metric}: the model has no floating-point output to compare",
                where=str(self.path),
            )
        return {self.metric: value}


def agreement(path: Path, model: ir.Model) -> Likeness:
    """Build the evaluator of the fraction of equal decisions."""
    return Likeness("agreement", path, load_feeds(str(path), model), model)


def cosine(path: Path, model: ir.Model) -> Likeness:
    """Build the evaluator of the cosine between outputs."""
    return Likeness("cosine", path, load_feeds(str(path), model), model)
