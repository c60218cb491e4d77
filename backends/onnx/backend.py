"""The portable target: stock operators only. Nothing is lowered, so nothing here is faster for its zeros."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec.backends.base import Backend, LowerContext, Lowered, Runner
from sparsec.ir.codes import Code
from sparsec.ir.layers import LayerRow
from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import sparsity, weight_sites
from sparsec.ir.target import Target


class OnnxBackend(Backend):
    """Leaves the graph alone and says what that means for each layer."""

    name = "onnx"

    def why_not(self, target: Target) -> str | None:
        """Plain ONNX can be written everywhere."""
        return None

    def lower(self, model: ir.Model, target: Target, context: LowerContext) -> Lowered:
        """Return the graph unchanged, with a row for each weight."""
        rows = []
        for site in weight_sites(model):
            code, reason = Code.DENSE, "not pruned"
            if site.pattern is not None:
                code = Code.PORTABLE
                reason = (
                    "stored dense for any runtime: zeros alone speed up none of them; compile for "
                    "cpu or a GPU to gain from them"
                )
            zeros = sparsity(site.matrix())
            rows.append(
                LayerRow(
                    site.name, site.op, site.shape, site.pattern_text, zeros, "stock", code, reason
                )
            )
        return Lowered(model, rows)

    def densify(self, model: ir.Model, root: Path) -> ir.Model:
        """Return the graph as it is: it never left stock operators."""
        return model

    def runner(
        self, root: Path, manifest: Mapping[str, Any], threads: int | None, *, exact: bool = False
    ) -> Runner:
        """Run the graph in stock ONNX Runtime."""
        return OrtRunner(root / "model.onnx", threads=threads, exact=exact)
