"""Block pruning: neighbouring weights go together, so that a kernel loads them together.

A block of 4 outputs by 1 reduction element shares one input load among four products, which is what
lets a CPU run sparse layers near its peak. Blocks never straddle the groups of a grouped
convolution.

Source: Elsen et al., "Fast Sparse ConvNets", arXiv:1911.09723, section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.codes import Code
from sparsec.ir.errors import PassConfigError
from sparsec.ir.patterns import Block, Pattern
from sparsec.ir.sites import WeightSite, weight_sites
from sparsec.passes.base import PassContext, PassResult
from sparsec.passes.budget import check_budget, global_kept, settled
from sparsec.passes.criteria import Criterion
from sparsec.passes.masks.block import block_scores, expand_blocks
from sparsec.passes.masks.topk import kept, top_mask
from sparsec.passes.rounding import ROUNDINGS
from sparsec.passes.weights import Mask, MaskPass


@dataclasses.dataclass(frozen=True)
class BlockPass(MaskPass):
    """Zero whole blocks of weights.

    Parameters
    ----------
    rows, cols : int
        Outputs by reduction elements of one block.
    sparsity : float, optional
        Fraction of blocks that become zero, between 0 and 1. Left open, it is solved for: see goals.
    scope : str
        ``layer``: the same sparsity in every layer. ``global``: the layers compete for one budget.
    values : str
        ``float32`` leaves the kept weights as they are. ``float16`` and ``int8`` (a scale for each
        output) round them, so that blocks of 8x1 take 2 and 1 bytes a value instead of 4: a product of
        one column, as in decoding, takes as long as its bytes.

    Raises
    ------
    PassConfigError
        If an option is out of range.

    Notes
    -----
    A matrix that is not a multiple of the block in its outputs has one smaller block at
    the end; its score is what it holds, so it goes a little earlier than the others.

    Rounding changes what the model computes, on every target and also in a layer that stays dense: the
    fidelity of a compilation shows by how much. A weight beyond 65504 keeps its layer from ``float16``.
    """

    name: ClassVar[str] = "block"
    aliases: ClassVar[dict[str, str]] = {"block41": "block:rows=4,cols=1"}

    rows: int = 4
    cols: int = 1
    sparsity: float | None = None
    scope: str = "layer"
    values: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budget(self.name, self.sparsity, self.scope)
        if self.rows < 1 or self.cols < 1 or self.rows * self.cols < 2:
            raise PassConfigError(
                f"block: need rows and cols of at least 1 and not both 1, got "
                f"{self.rows}x{self.cols}; single weights are the pass unstructured",
                where="block",
            )
        if self.values not in ("float32", *ROUNDINGS):
            raise PassConfigError(
                f"block: values must be float32, {' or '.join(ROUNDINGS)}, got {self.values!r}",
                where="block",
            )

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Mask, then round what is kept."""
        result = super().run(model, context)
        if rounding := ROUNDINGS.get(self.values):
            changed, rounded = set(result.changed), 0
            for site in weight_sites(model):
                if site.name in changed:
                    matrix = rounding(site.matrix())
                    if np.all(np.isfinite(matrix)):
                        site.write_matrix(matrix)
                        rounded += 1
            result.notes["rounded"] = rounded
        return result

    @property
    def competing(self) -> bool:
        """With one budget for all, scores compete."""
        return self.scope == "global"

    @property
    def pattern(self) -> Pattern:
        """``block:ROWSxCOLS``."""
        return Block(self.rows, self.cols)

    def misfit(self, site: WeightSite) -> tuple[Code, str] | None:
        """Refuse blocks that would straddle two groups or two kernel positions."""
        out = site.shape[0] // site.layout.groups
        if site.layout.groups > 1 and out % self.rows:
            reason = f"its {out} outputs per group are not a multiple of {self.rows}"
            return Code.ROWS_NOT_MULTIPLE, reason
        if site.layout.run % self.cols:
            reason = f"its reduction of {site.layout.run} is not a multiple of {self.cols}"
            return Code.REDUCTION_NOT_MULTIPLE, reason
        return None

    def _scores(self, site: WeightSite, criterion: Criterion) -> NDArray[np.float64]:
        return block_scores(criterion(site, site.matrix()), self.rows, self.cols)

    def keep_counts(self, sites: Sequence[WeightSite], criterion: Criterion) -> Sequence[int]:
        """Return the number of blocks that each site keeps."""
        sparsity = settled(self.name, self.sparsity)
        if self.scope == "global":
            return global_kept(lambda: (self._scores(s, criterion) for s in sites), sparsity)
        blocks = [-(-s.shape[0] // self.rows) * (s.shape[1] // self.cols) for s in sites]
        return [kept(count, sparsity) for count in blocks]

    def mask(self, score: NDArray[np.floating], keep: int) -> Mask:
        """Mark the ``keep`` best blocks."""
        blocks = block_scores(score, self.rows, self.cols)
        best = top_mask(blocks.ravel(), keep).reshape(blocks.shape)
        return expand_blocks(best, self.rows, self.cols, (score.shape[0], score.shape[1]))
