"""The pass that removes what no output needs."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from sparsec.ir.cleanup import remove_dead
from sparsec.passes.base import Pass, PassContext, PassResult


@dataclasses.dataclass(frozen=True)
class DeadCodePass(Pass):
    """Remove unused nodes, initializers, functions and opset imports."""

    name: ClassVar[str] = "dead-code"
    exact: ClassVar[bool] = True
    needs_batch_norm: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Remove in place; the result names what is gone."""
        return PassResult(changed=remove_dead(model))
