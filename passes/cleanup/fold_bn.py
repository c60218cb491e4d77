"""The pass that folds BatchNormalization into the layer before it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from sparsec.ir.cleanup import fold_batch_norm
from sparsec.passes.base import Pass, PassContext, PassResult


@dataclasses.dataclass(frozen=True)
class FoldBatchNormPass(Pass):
    """Fold BatchNormalization into the convolution or Gemm before it.

    It runs by itself before the first pass that need not see BatchNormalization; ask for it to
    choose an earlier moment.
    """

    name: ClassVar[str] = "fold-bn"
    exact: ClassVar[bool] = True
    needs_batch_norm: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Fold in place; the result names the normalisations that are gone."""
        return PassResult(changed=fold_batch_norm(model))
