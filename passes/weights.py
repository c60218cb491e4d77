"""The base of all passes that mask weights: they differ in what they keep, and in nothing else."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.codes import Code
from sparsec.ir.errors import PassConfigError, did_you_mean
from sparsec.ir.patterns import Pattern
from sparsec.ir.sites import WeightSite, weight_sites
from sparsec.ir.transforms import is_fixed_transform
from sparsec.passes.base import Pass, PassContext, PassResult, SiteFilter, Skipped
from sparsec.passes.criteria import Criterion, DataCriterion, criteria

Mask = NDArray[np.bool_]
ORDERS = ("sequential", "parallel")


@dataclasses.dataclass(frozen=True)
class MaskPass(Pass):
    """Zero the weights that a criterion likes least, and record the pattern on the tensor.

    Parameters
    ----------
    criterion : str
        Registered criterion that scores the weights; some, such as ``wanda``, need ``--calib``.
    order : str
        For such a criterion: with ``sequential`` each layer is judged on what the layers pruned
        before it produce, with ``parallel`` all are judged on what the dense model does. Layers
        that compete for one budget are always judged so.
    include, exclude : tuple of str
        Regular expressions on site names; no ``include`` means all.
    ops : tuple of str
        Operator types to prune; none means all.
    """

    criterion: str = "magnitude"
    order: str = "sequential"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()

    minimum_size: ClassVar[int] = 2

    def __post_init__(self) -> None:
        # Refuse at once what would otherwise fail after the model has been loaded.
        SiteFilter(self.include, self.exclude, self.ops)
        if self.criterion not in criteria:
            hint = did_you_mean(self.criterion, criteria)
            raise PassConfigError(
                f"{self.name}: unknown criterion {self.criterion!r}; {hint}", where=self.name
            )

        if self.order not in ORDERS:
            raise PassConfigError(
                f"{self.name}: order must be {' or '.join(ORDERS)}, got {self.order!r}",
                where=self.name,
            )

    @property
    def competing(self) -> bool:
        """Whether what one site keeps depends on the scores of the others."""
        return False

    @property
    @abc.abstractmethod
    def pattern(self) -> Pattern:
        """The pattern that the masks follow."""

    @abc.abstractmethod
    def misfit(self, site: WeightSite) -> tuple[Code, str] | None:
        """Return why the shape of ``site`` cannot take the pattern, or None."""

    @abc.abstractmethod
    def keep_counts(self, sites: Sequence[WeightSite], criterion: Criterion) -> Sequence[int]:
        """Return what each site keeps, in the pass's own unit: weights, or blocks."""

    @abc.abstractmethod
    def mask(self, score: NDArray[np.floating], keep: int) -> Mask:
        """Return the mask of one site from its scores float [out, reduction]."""

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Mask every site that can take the pattern; report the others with the reason."""
        sites, skipped = SiteFilter(self.include, self.exclude, self.ops).split(weight_sites(model))
        result = PassResult(skipped=skipped)
        fit: list[WeightSite] = []
        for site in sites:
            if why := self._why_not(site):
                result.skipped.append(Skipped(site.name, *why))
            else:
                fit.append(site)
        criterion = criteria.get(self.criterion)
        if isinstance(criterion, DataCriterion):
            fit = self._mask_on_data(model, fit, criterion, context, result)
        else:
            self._mask_all(fit, criterion, context.progress)
        zeros = total = 0
        for site in fit:
            site.mark(self.pattern)
            result.changed.append(site.name)
            zeros += site.size - int(np.count_nonzero(site.matrix()))
            total += site.size
        if total:
            result.notes["sparsity"] = zeros / total
        return result

    def _mask_all(
        self,
        sites: Sequence[WeightSite],
        criterion: Criterion,
        progress: Callable[[str, float], None] = lambda text, done: None,
    ) -> None:
        """Zero what the criterion likes least in every site."""
        counts = self.keep_counts(sites, criterion)
        for done, (site, keep) in enumerate(zip(sites, counts, strict=True)):
            progress(f"{self.name}: {site.name}", done / len(sites))
            matrix = site.matrix()
            mask = self.mask(criterion(site, matrix), keep)
            site.write_matrix(np.where(mask, matrix, matrix.dtype.type(0)))

    def _mask_on_data(
        self,
        model: ir.Model,
        sites: Sequence[WeightSite],
        criterion: DataCriterion,
        context: PassContext,
        result: PassResult,
    ) -> list[WeightSite]:
        """Mask by statistics of the inputs; return the sites that have any to look at."""
        calibration = context.calibrated(f"{self.name}:criterion={self.criterion}")
        hidden = calibration.hidden(model, sites)
        result.skipped += [Skipped(n, Code.NOT_OBSERVABLE, why) for n, why in hidden.items()]
        open_sites = [site for site in sites if site.name not in hidden]
        if self.competing or self.order == "parallel":
            with calibration.parallel(
                model, open_sites, criterion.needs, progress=context.progress
            ) as statistics:
                self._mask_all(open_sites, criterion.on(statistics), context.progress)
        else:
            calibration.sequential(
                model,
                open_sites,
                criterion.needs,
                lambda site, found: self._mask_all([site], criterion.on({site.name: found})),
                method=repr(self),
                progress=context.progress,
            )
        return open_sites

    def _why_not(self, site: WeightSite) -> tuple[Code, str] | None:
        """Return the code and the reason for leaving a site alone, or None; cheap checks first."""
        out, reduction = site.shape
        if out * reduction < self.minimum_size or reduction < 2:
            return Code.TOO_SMALL, f"its matrix is only {out} x {reduction}"
        if site.pattern is not None:
            return Code.ALREADY_SPARSE, f"it already has the pattern {site.pattern}"
        if site.is_depthwise:
            return (
                Code.DEPTHWISE,
                "it is a depthwise convolution: few weights per channel, all read",
            )
        if misfit := self.misfit(site):
            return misfit
        matrix = site.matrix()
        if not np.all(np.isfinite(matrix)):
            return Code.NOT_FINITE, "it holds NaN or infinite weights"
        if is_fixed_transform(matrix):
            return Code.FIXED_TRANSFORM, "it is a fixed signal transform, not a trained weight"
        return None
