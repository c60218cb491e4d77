"""The pipeline: passes in the order given, with the graph verified after each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from sparsec.ir.cleanup import fold_batch_norm
from sparsec.ir.errors import PassError, SparsecError
from sparsec.ir.verify import verify
from sparsec.passes.base import Pass, PassContext, PassResult
from sparsec.passes.spec import parse_spec


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One pass that ran, and what it did."""

    applied: Pass
    result: PassResult

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``compile --json``."""
        entry = {
            "name": self.applied.name,
            "options": self.applied.options(),
            "changed": self.result.changed,
            "skipped": [item.to_json() for item in self.result.skipped],
            "notes": self.result.notes,
        }
        if self.result.groups:
            entry["groups"] = [row.to_json() for row in self.result.groups]
        return entry


@dataclasses.dataclass(frozen=True, slots=True)
class Pipeline:
    """Passes in the order in which they run.

    Examples
    --------
    >>> [p.name for p in Pipeline.parse(["nm24", "unstructured:sparsity=0.9"]).passes]
    ['nm', 'unstructured']
    """

    passes: tuple[Pass, ...]

    @classmethod
    def parse(cls, specs: Iterable[str | Pass]) -> Pipeline:
        """Build a pipeline from SPECs.

        Raises
        ------
        PassConfigError
            If one cannot be read.
        """
        return cls(tuple(s if isinstance(s, Pass) else parse_spec(s) for s in specs))

    def run(
        self, model: ir.Model, context: PassContext, *, keep_batch_norm: bool = False
    ) -> list[Step]:
        """Run every pass on ``model``, in place.

        The caller hands over a model that it owns. BatchNormalization is folded before the first
        pass that does not need to see it, so that scores are those of the weights that will run;
        unless it is kept, for training.

        Raises
        ------
        PassError
            If a pass fails; the message names it and the passes that ran before it.
        VerifyError
            If a pass leaves a broken graph.
        """
        steps: list[Step] = []
        folded = keep_batch_norm
        for item in self.passes:
            if not folded and not item.needs_batch_norm:
                fold_batch_norm(model)
                folded = True
            before = ", ".join(step.applied.name for step in steps)
            after = f" (after {before})" if before else ""
            try:
                result = item.run(model, context)
            except SparsecError:
                raise
            except Exception as error:
                raise PassError(
                    f"the pass {item.name}{after} failed: {type(error).__name__}: {error}",
                    where=item.name,
                ) from error
            verify(model, where=f"the graph that the pass {item.name}{after} left")
            steps.append(Step(item, result))
        return steps
