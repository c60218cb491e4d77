"""N:M pruning: keep at most N non-zeros in every M consecutive weights of a row.

Hardware skips the zeros because their places are known: a 2:4 matrix is half as large, plus two
bits of position per kept weight. The group runs along the reduction, for a convolution along its
input channels.

Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378, section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.codes import Code
from sparsec.ir.errors import PassConfigError
from sparsec.ir.patterns import NM, Pattern
from sparsec.ir.sites import WeightSite
from sparsec.passes.criteria import Criterion
from sparsec.passes.masks.nm import nm_mask
from sparsec.passes.weights import Mask, MaskPass


@dataclasses.dataclass(frozen=True)
class NMPass(MaskPass):
    """Keep the best ``n`` of every ``m`` consecutive weights along the reduction.

    Parameters
    ----------
    n, m : int
        ``0 < n < m``; the sparsity is ``1 - n / m``.

    Raises
    ------
    PassConfigError
        If ``n`` and ``m`` describe no pattern.

    Notes
    -----
    A weight whose reduction (input channels, for a convolution) is not a multiple of
    ``m`` stays dense and is reported: padding it would change the shapes that a kernel was
    promised.
    """

    name: ClassVar[str] = "nm"
    aliases: ClassVar[dict[str, str]] = {
        "nm24": "nm:n=2,m=4",
        "nm14": "nm:n=1,m=4",
        "nm28": "nm:n=2,m=8",
        "nm48": "nm:n=4,m=8",
    }

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.n < self.m:
            raise PassConfigError(f"nm: need 0 < n < m, got n={self.n} and m={self.m}", where="nm")

    @property
    def pattern(self) -> Pattern:
        """``n:m``."""
        return NM(self.n, self.m)

    def misfit(self, site: WeightSite) -> tuple[Code, str] | None:
        """Refuse what is no multiple of m: groups must not straddle two kernel positions."""
        if site.layout.run % self.m:
            run = site.layout.run
            reason = f"its reduction of {run} is not a multiple of {self.m}"
            if site.op == "Conv":
                reason = f"its {run} input channels per group are not a multiple of {self.m}"
            return Code.REDUCTION_NOT_MULTIPLE, reason
        return None

    def keep_counts(self, sites: Sequence[WeightSite], criterion: Criterion) -> Sequence[int]:
        """Return n of every m: the pattern leaves no choice."""
        return [site.size * self.n // self.m for site in sites]

    def mask(self, score: NDArray[np.floating], keep: int) -> Mask:
        """Mark the best n of every m."""
        return nm_mask(score, self.n, self.m)
