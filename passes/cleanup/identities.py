"""The pass that removes operators without effect."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from sparsec.ir.cleanup import (
    eliminate_identities,
    fold_padding,
    merge_duplicates,
    replace_sequences,
)
from sparsec.passes.base import Pass, PassContext, PassResult


@dataclasses.dataclass(frozen=True)
class IdentitiesPass(Pass):
    """Remove operators that return what they are given, explicit zero padding, and repetitions."""

    name: ClassVar[str] = "identities"
    exact: ClassVar[bool] = True
    needs_batch_norm: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Remove in place; the result names the nodes that are gone."""
        steps = (eliminate_identities, fold_padding, replace_sequences, merge_duplicates)
        return PassResult(changed=[name for step in steps for name in step(model)])
