"""The base of all passes that remove structure: they differ in which pruning groups they take."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.atoms import Labels
from sparsec.ir.certificate import Certificate, certify
from sparsec.ir.cleanup.rewire import display_name
from sparsec.ir.codes import Code
from sparsec.ir.edits import remove
from sparsec.ir.errors import PassConfigError, UnsupportedTargetError, did_you_mean
from sparsec.ir.groups import Group, Groups, find_groups, prepare
from sparsec.ir.patterns import Unstructured
from sparsec.ir.replay import parameters_of, replay
from sparsec.ir.run import Feeds
from sparsec.ir.sites import weight_sites
from sparsec.ir.transforms import is_fixed_transform
from sparsec.passes.base import Pass, PassContext, PassResult, SiteFilter, Skipped
from sparsec.passes.budget import check_budget, settled
from sparsec.passes.channel.budget import BUDGETS, Budget, Choice, Time, choose_units
from sparsec.passes.channel.compensate import METHODS, Compensation, compensate
from sparsec.passes.channel.criteria import unit_criteria
from sparsec.passes.channel.rows import group_rows
from sparsec.passes.channel.scores import check_scoring, normalisation, unit_scores
from sparsec.passes.channel.widths import next_width


@dataclasses.dataclass(frozen=True)
class StructurePass(Pass):
    """Remove the units that a criterion likes least, and prove it.

    Parameters
    ----------
    sparsity : float, optional
        Fraction that goes, 0..1, of what ``budget`` names. Left open, it is solved for: see goals.
    budget : str
        ``units`` of the groups; ``macs`` or ``params`` of the whole graph, counted exactly; or
        ``latency``: the time of a run in ONNX Runtime, measured here on the way.
    criterion : str
        ``l1``, ``l2``, ``fpgm``, ``lamp``, ``random``; ``bn``, the scale of BatchNormalization, which is
        then not folded before the pass, and ``l2`` where a group has none; with calibration data
        ``energy`` and ``obs``, which chooses what can be refitted best; with torch as well ``taylor``,
        ``taylor-group``, ``saliency``, ``hessian``, ``fisher``.
    reduce : str
        How the scores of a unit in several tensors become one: ``mean``, ``sum``, ``max``, ``prod``,
        ``first``.
    normalise : str, optional
        What the scores in one tensor are divided by: their ``mean``, ``max``, ``sum``, or ``none``. Left
        open, the mean; nothing where scores are losses, which compare as they are.
    scope : str
        ``layer``: the same sparsity in every group. ``global``: the groups compete.
    round : int, optional
        The number of units kept is rounded to a multiple of it, and is never less, unless the group
        has no more to begin with. Left open, it is the number that the target works on at once.
    least : int
        Units that every group keeps in any case.
    compensate : str
        What the layers that read the removed channels do about it, after the certified removal:
        ``none``; ``bias``, which stands for the means of what is gone; ``refit``, least squares on the
        channels that are left. ``auto`` is ``refit`` where calibration data is given, else ``none``.
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
    budget: str = "units"
    round: int | None = None
    least: int = 1
    compensate: str = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        SiteFilter(self.include, self.exclude, self.ops)
        check_budget(self.name, self.sparsity, self.scope)
        check_scoring(self.name, self.criterion, self.reduce, self.normalise)
        if unit_criteria.get(self.criterion).by_refit and self.compensate not in ("auto", "refit"):
            raise PassConfigError(
                f"{self.name}: criterion={self.criterion} chooses what can be refitted best and needs "
                f"compensate=refit, got {self.compensate}; criterion=energy takes any",
                where=self.name,
            )
        if self.budget not in BUDGETS:
            hint = did_you_mean(self.budget, BUDGETS)
            raise PassConfigError(
                f"{self.name}: unknown budget {self.budget!r}; {hint}", where=self.name
            )
        if self.compensate not in METHODS:
            hint = did_you_mean(self.compensate, METHODS)
            raise PassConfigError(
                f"{self.name}: unknown compensate {self.compensate!r}; {hint}", where=self.name
            )
        for field in ("round", "least"):
            if (value := getattr(self, field)) is not None and value < 1:
                raise PassConfigError(
                    f"{self.name}: {field} must be at least 1, got {value}", where=self.name
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
        step = self.step(context)
        context.progress(f"{self.name}: choose", 0.3)
        choice = self._chosen_units(groups, chosen, scores, step, context)
        self._record(result, groups, chosen, choice.removed, step)
        units = choice.units(chosen)
        if not units.size:
            return result
        compensation = self._compensation(groups, chosen, units, context)
        if compensation is not None and compensation.removed:
            removed = [
                compensation.removed.get(group.name, gone)
                for group, gone in zip(chosen, choice.removed, strict=True)
            ]
            choice = Choice(removed, choice.reached)
            units = choice.units(chosen)
        result.certificates.append(self._remove(model, groups, chosen, choice, context))
        result.notes["sparsity"] = len(units) / sum(group.size for group in chosen)
        result.notes["units"] = len(units)
        result.notes["groups"] = sum(len(gone) > 0 for gone in choice.removed)
        result.notes["round"] = step
        if compensation is not None:
            compensation.apply(model)
            result.skipped += compensation.skipped
            result.notes |= compensation.notes
        if self.budget != "units":
            result.notes[self.budget] = choice.reached
        return result

    def _record(
        self,
        result: PassResult,
        groups: Groups,
        chosen: Sequence[Group],
        removed: Sequence[Labels],
        step: int,
    ) -> None:
        """Put into ``result`` which groups lose how many units, and why the others lose none."""
        for group, gone in zip(chosen, removed, strict=True):
            if len(gone):
                result.changed += [display_name(node) for node in group.makers]
            else:
                reason = (
                    f"its {group.size} units are too few to remove any in steps of {step}"
                    if next_width(group.size, step, self.least) is None
                    else "none of its units is among the least"
                )
                result.skipped.append(Skipped(group.name, Code.ROUNDED, reason))
        result.changed = list(dict.fromkeys(result.changed))
        lost = {group.name: len(gone) for group, gone in zip(chosen, removed, strict=True)}
        result.groups = group_rows(groups, lost, result.skipped)

    def _remove(
        self,
        model: ir.Model,
        groups: Groups,
        chosen: Sequence[Group],
        choice: Choice,
        context: PassContext,
    ) -> Certificate:
        """Remove the units in place and return the certificate, which was replayed."""
        before = model.clone()
        context.progress(f"{self.name}: remove", 0.4)
        removal = remove(groups.lattice, choice.units(chosen))
        named = [
            (group.name, group.size, tuple(int(i) for i in gone))
            for group, gone in zip(chosen, choice.removed, strict=True)
            if len(gone)
        ]
        certificate = certify(self.name, named, removal, before, model)
        context.progress(f"{self.name}: replay the certificate", 0.6)
        replay(certificate, seed=context.seed)
        if context.calibration is not None:
            own = parameters_of(certificate, before)
            replay(certificate, weights=own, feeds=context.calibration.feeds[0])
        return certificate

    def _compensation(
        self, groups: Groups, chosen: list[Group], units: Labels, context: PassContext
    ) -> Compensation | None:
        """Return what the readers of ``units`` become, to be applied after the removal."""
        method = self.compensate
        if method == "auto":
            method = "none" if context.calibration is None else "refit"
        if method == "none":
            return None
        calibration = context.calibrated(f"{self.name}:compensate={method}")
        return compensate(
            groups.lattice,
            units,
            method,
            calibration,
            choosing=chosen if unit_criteria.get(self.criterion).by_refit else (),
            who=repr(self),
            progress=context.progress,
        )

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

    def step(self, context: PassContext) -> int:
        """Return what widths are rounded to: as given, or as wide as the target's kernels work."""
        if self.round is not None:
            return self.round
        return 8 if context.target is None else context.target.width

    def _chosen_units(
        self,
        groups: Groups,
        chosen: list[Group],
        scores: list[NDArray[np.float64]],
        step: int,
        context: PassContext,
    ) -> Choice:
        """Return the units that go to meet the budget."""
        budget = Budget(
            self.budget,
            settled(self.name, self.sparsity),
            self.scope,
            step,
            self.least,
            per_cost=normalisation(self.criterion, self.normalise) == "none",
        )
        model = groups.lattice.model
        feeds = context.feed(model) if self.budget in ("macs", "latency") else None
        time = None
        if self.budget == "latency":
            assert feeds is not None
            time = _timer(self.name, groups, feeds, context)
        return choose_units(budget, groups, chosen, scores, feeds, time)


def _timer(name: str, groups: Groups, feeds: Feeds, context: PassContext) -> Time:
    """Return what times the graph without some units."""
    measure = context.relative_time
    if measure is None:
        target = "" if context.target is None else context.target.name
        raise UnsupportedTargetError(
            f"{name}: budget=latency needs a target that can be timed here, and {target or 'none'!r} "
            "cannot; take budget=macs",
            where=name,
        )
    model = groups.lattice.model

    def time(units: Labels) -> float:
        smaller = model.clone()
        remove(find_groups(smaller).lattice, units)  # equal graphs have equal lattices
        return measure(model, smaller, feeds)

    return time


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
