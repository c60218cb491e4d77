"""A pass: its fields are its options, on the command line and in recipes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsec.ir.sites import weight_sites
from sparsec.passes.base import Pass, PassContext, PassResult, SiteFilter


@dataclasses.dataclass(frozen=True)
class RoundWeightsPass(Pass):
    """Round every weight to a multiple of ``step``.

    Parameters
    ----------
    step : float
    exclude : tuple of str
        Regular expressions on site names.
    """

    name: ClassVar[str] = "round-weights"
    aliases: ClassVar[dict[str, str]] = {"halves": "round-weights:step=0.5"}

    step: float = 1.0
    exclude: tuple[str, ...] = ()

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Round, and say what was left alone."""
        sites, skipped = SiteFilter(exclude=self.exclude).split(weight_sites(model))
        for site in sites:
            site.write_matrix(np.round(site.matrix() / self.step) * self.step)
        return PassResult(changed=[site.name for site in sites], skipped=skipped)
