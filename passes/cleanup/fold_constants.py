"""The pass that folds constants."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from sparsec.ir.cleanup import fix_reshapes, fold_constants, fold_views
from sparsec.passes.base import Pass, PassContext, PassResult


@dataclasses.dataclass(frozen=True)
class FoldConstantsPass(Pass):
    """Compute what depends on no input; store weights transposed or reshaped as they are read."""

    name: ClassVar[str] = "fold-constants"
    exact: ClassVar[bool] = True
    needs_batch_norm: ClassVar[bool] = True  # it touches none, so nothing need be folded first

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Fold in place; the result names the nodes that are gone."""
        steps = (fold_constants, fix_reshapes, fold_views)
        return PassResult(changed=[name for step in steps for name in step(model)])
