"""Unstructured pruning: zeros anywhere, as many as asked for.

Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks",
arXiv:1506.02626, section 3 (magnitude); the budget over all layers is LeCun et al., "Optimal Brain
Damage", with the criterion in place of the Hessian.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.codes import Code
from sparsec.ir.patterns import Pattern, Unstructured
from sparsec.ir.sites import WeightSite
from sparsec.passes.budget import check_budget, global_kept, settled
from sparsec.passes.criteria import Criterion
from sparsec.passes.masks.topk import kept, top_mask
from sparsec.passes.weights import Mask, MaskPass


@dataclasses.dataclass(frozen=True)
class UnstructuredPass(MaskPass):
    """Zero the least important weights, one by one.

    Parameters
    ----------
    sparsity : float, optional
        Fraction of zeros, between 0 and 1. Left open, it is solved for: see goals.
    scope : str
        ``layer``: the same sparsity in every layer. ``global``: the layers compete for one budget.

    Raises
    ------
    PassConfigError
        If an option is out of range.
    """

    name: ClassVar[str] = "unstructured"

    sparsity: float | None = None
    scope: str = "layer"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budget(self.name, self.sparsity, self.scope)

    @property
    def competing(self) -> bool:
        """With one budget for all, scores compete."""
        return self.scope == "global"

    @property
    def pattern(self) -> Pattern:
        """``unstructured``."""
        return Unstructured()

    def misfit(self, site: WeightSite) -> tuple[Code, str] | None:
        """Every shape will do."""
        return None

    def keep_counts(self, sites: Sequence[WeightSite], criterion: Criterion) -> Sequence[int]:
        """Return the number of weights that each site keeps."""
        sparsity = settled(self.name, self.sparsity)
        if self.scope == "layer":
            return [kept(site.size, sparsity) for site in sites]
        return global_kept(lambda: (criterion(s, s.matrix()) for s in sites), sparsity)

    def mask(self, score: NDArray[np.floating], keep: int) -> Mask:
        """Mark the ``keep`` best weights."""
        return top_mask(score.ravel(), keep).reshape(score.shape)
