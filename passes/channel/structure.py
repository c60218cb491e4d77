"""The base of all passes that remove structure: they differ in which pruning groups they take."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.atoms import Labels
from sparsec.ir.certificate import certify, replay
from sparsec.ir.cleanup.rewire import display_name
from sparsec.ir.codes import Code
from sparsec.ir.edits import emptied, remove
from sparsec.ir.errors import PassConfigError
from sparsec.ir.groups import Group, Groups, find_groups, prepare
from sparsec.ir.patterns import Unstructured
from sparsec.ir.sites import weight_sites
from sparsec.ir.transforms import is_fixed_transform
from sparsec.passes.base import Pass, PassContext, PassResult, SiteFilter, Skipped
from sparsec.passes.budget import check_budget, settled
from sparsec.passes.channel.criteria import unit_criteria
from sparsec.passes.channel.scores import check_scoring, unit_scores


@dataclasses.dataclass(frozen=True)
class StructurePass(Pass):
    """Remove the units that a criterion likes least, and prove it.

    Parameters
    ----------
    sparsity : float, optional
        Fraction of the units that goes, 0..1. Left open, it is solved for: see goals.
    criterion : str
        ``l1``, ``l2``, ``fpgm``, ``lamp``, ``random``; ``bn``, the scale of BatchNormalization, which is
        then not folded before the pass, and ``l2`` where a group has none; with calibration data and
        torch ``taylor``, ``taylor-group``, ``saliency``, ``hessian``.
    reduce : str
        How the scores of a unit in several tensors become one: ``mean``, ``sum``, ``max``, ``prod``,
        ``first``.
    normalise : str, optional
        What the scores in one tensor are divided by: their ``mean``, ``max``, ``sum``, or ``none``. Left
        open, the mean; nothing where scores are losses, which compare as they are.
    scope : str
        ``layer``: the same sparsity in every group. ``global``: the groups compete.
    round : int
        The number of units kept is rounded to a multiple of it, and is never less, unless the group
        has no more to begin with.
    least : int
        Units that every group keeps in any case.
    include, exclude : tuple of str
        Regular expressions on the names of groups and of the nodes that make their channels.
    ops : tuple of str
        Operator types of those nodes; none means all.
    """

    sparsity: float | None = None
    criterion: str = "l1"
    reduce: str = "mean"
    normalise: str | None = None
    scope: str = "layer"
    round: int = 8
    least: int = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        SiteFilter(self.include, self.exclude, self.ops)
        check_budget(self.name, self.sparsity, self.scope)
        check_scoring(self.name, self.criterion, self.reduce, self.normalise)
        for field in ("round", "least"):
            if getattr(self, field) < 1:
                raise PassConfigError(
                    f"{self.name}: {field} must be at least 1, got {getattr(self, field)}",
                    where=self.name,
                )

    @property
    def needs_batch_norm(self) -> bool:  # type: ignore[override]  # it depends on an option here
        """Whether the criterion looks at BatchNormalization."""
        return unit_criteria.get(self.criterion).needs_batch_norm

    @abc.abstractmethod
    def takes(self, group: Group) -> bool:
        """Whether the pass prunes groups of this kind."""

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Remove units in place; the result carries the certificate."""
        prepare(model)
        groups = find_groups(model)
        chosen, skipped = self._choose(model, groups)
        result = PassResult(skipped=skipped)
        context.progress(f"{self.name}: scores", 0.1)
        scores = unit_scores(
            groups,
            chosen,
            self.criterion,
            context,
            reduce=self.reduce,
            normalise=self.normalise,
        )
        kept = self._kept(chosen, scores)
        units, removed = self._settle(groups, chosen, scores, kept)
        for group, gone in zip(chosen, removed, strict=True):
            if len(gone):
                result.changed += [display_name(node) for node in group.makers]
            else:
                reason = (
                    f"its {group.size} units are too few to remove any in steps of {self.round}"
                )
                result.skipped.append(Skipped(group.name, Code.ROUNDED, reason))
        result.changed = list(dict.fromkeys(result.changed))
        if not units.size:
            return result
        before = model.clone()
        context.progress(f"{self.name}: remove", 0.4)
        removal = remove(groups.lattice, units)
        named = [
            (group.name, group.size, tuple(int(i) for i in gone))
            for group, gone in zip(chosen, removed, strict=True)
            if len(gone)
        ]
        certificate = certify(self.name, named, removal, before, model)
        context.progress(f"{self.name}: replay the certificate", 0.6)
        replay(certificate, seed=context.seed)
        result.certificates.append(certificate)
        result.notes["sparsity"] = len(units) / sum(group.size for group in chosen)
        result.notes["units"] = len(units)
        result.notes["groups"] = len(named)
        return result

    def _choose(self, model: ir.Model, groups: Groups) -> tuple[list[Group], list[Skipped]]:
        """Return the groups to prune, and a reason for every other one."""
        chosen: list[Group] = []
        skipped = [Skipped(group.name, Code.BARRIER, group.reason or "") for group in groups.frozen]
        taboo = _untouchable(model)
        for group in groups:
            reason = self._why_not(group)
            kept_as_is = next((taboo[node] for node in group.makers if node in taboo), None)
            if reason is not None:
                skipped.append(Skipped(group.name, Code.EXCLUDED, reason))
            elif kept_as_is is not None:
                skipped.append(Skipped(group.name, *kept_as_is))
            elif self.takes(group):
                chosen.append(group)
        chosen, losers = without_rivals(groups, chosen)
        skipped += [Skipped(name, Code.EXCLUDED, reason) for name, reason in losers]
        return chosen, skipped

    def _why_not(self, group: Group) -> str | None:
        """Return why include, exclude or ops leave a group out."""
        operators = {node.op_type for node in group.makers}
        if self.ops and not operators <= set(self.ops):
            return f"{'+'.join(sorted(operators))} is not among ops={'+'.join(self.ops)}"
        if self.include and not any(group.matches(pattern) for pattern in self.include):
            return f"no include pattern matches ({'+'.join(self.include)})"
        for pattern in self.exclude:
            if group.matches(pattern):
                return f"the exclude pattern {pattern!r} matches it or what it is coupled with"
        return None

    def _kept(self, chosen: Sequence[Group], scores: Sequence[NDArray[np.float64]]) -> list[int]:
        """Return how many units each group keeps."""
        sparsity = settled(self.name, self.sparsity)
        if self.scope == "layer":
            wanted = [group.size * (1 - sparsity) for group in chosen]
        else:
            wanted = global_share(scores, sparsity)
        return [
            rounded(group.size, share, self.round, self.least)
            for group, share in zip(chosen, wanted, strict=True)
        ]

    def _settle(
        self,
        groups: Groups,
        chosen: Sequence[Group],
        scores: Sequence[NDArray[np.float64]],
        kept: Sequence[int],
    ) -> tuple[Labels, list[NDArray[np.int64]]]:
        """Return the units that go; where an axis would be left empty, its best one stays."""
        removed = [
            np.sort(np.argsort(score, kind="stable")[: group.size - keep])
            for group, score, keep in zip(chosen, scores, kept, strict=True)
        ]
        atoms = groups.lattice.atoms
        while True:
            parts = [g.units[gone] for g, gone in zip(chosen, removed, strict=True)]
            units = np.concatenate([np.empty(0, np.int64), *parts])
            empty = emptied(groups.lattice, atoms.gone(units))
            if not empty:
                return units, removed
            here = np.unique(atoms.leaves(next(iter(empty.values()))))
            best = max(
                (float(scores[i][unit]), i, int(unit))
                for i, group in enumerate(chosen)
                for unit in removed[i]
                if group.units[unit] in here
            )
            removed[best[1]] = removed[best[1]][removed[best[1]] != best[2]]


def rounded(size: int, wanted: float, step: int, least: int) -> int:
    """Return how many of ``size`` units to keep: the multiple of ``step`` nearest to ``wanted``.

    Examples
    --------
    >>> [rounded(n, 0.7 * n, 8, 1) for n in (6, 8, 24, 58, 64)]
    [6, 8, 16, 40, 48]
    """
    multiple = max(int(np.floor(wanted / step + 0.5)), 1) * step
    return min(size, max(multiple, least))


def global_share(scores: Sequence[NDArray[np.float64]], sparsity: float) -> list[float]:
    """Return how many units each group keeps when all compete for one budget.

    Examples
    --------
    >>> global_share([np.array([1.0, 2.0]), np.array([3.0, 4.0])], 0.5)
    [0.0, 2.0]
    """
    if not scores:
        return []
    pooled = np.concatenate(scores)
    owner = np.repeat(np.arange(len(scores)), [len(score) for score in scores])
    gone = np.argsort(pooled, kind="stable")[: int(len(pooled) * sparsity)]
    lost = np.bincount(owner[gone], minlength=len(scores))
    return [float(len(score) - count) for score, count in zip(scores, lost, strict=True)]


def without_rivals(
    groups: Groups, chosen: Sequence[Group]
) -> tuple[list[Group], list[tuple[str, str]]]:
    """Return the groups without those that overlap one of more units, and who lost to whom."""
    overlaps = groups.rivals()
    index = {id(group): number for number, group in enumerate(groups.groups)}
    taken: dict[int, Group] = {}
    losers = []
    for group in sorted(chosen, key=lambda group: -group.size):
        winner = next((taken[n] for n in overlaps[index[id(group)]] if n in taken), None)
        if winner is None:
            taken[index[id(group)]] = group
        else:
            losers.append((group.name, f"it overlaps {winner.name}, which has more units"))
    return [taken[number] for number in sorted(taken)], losers


def _untouchable(model: ir.Model) -> dict[ir.Node, tuple[Code, str]]:
    """Return the nodes whose weights must stay as they are, and why."""
    found: dict[ir.Node, tuple[Code, str]] = {}
    for site in weight_sites(model):
        pattern = site.pattern
        if pattern is not None and not isinstance(pattern, Unstructured):
            reason = (
                Code.ALREADY_SPARSE,
                f"{site.name} has the pattern {pattern}; prune channels first",
            )
        elif is_fixed_transform(site.matrix()):
            reason = Code.FIXED_TRANSFORM, f"{site.name} is a fixed signal transform"
        else:
            continue
        found.update(dict.fromkeys(site.nodes, reason))
    return found
