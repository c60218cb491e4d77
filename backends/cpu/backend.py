"""The CPU backend: sparse layers and regions run by our kernels wherever they measure faster."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec.backends.base import Backend, LowerContext, Lowered, Runner
from sparsec.backends.cpu.choose import Outcome, choose
from sparsec.backends.cpu.choose_modelled import choose_modelled
from sparsec.backends.cpu.cost_model import BreakEven, Fitted
from sparsec.backends.cpu.cross import COMPILERS, library_for, why_no_library_for
from sparsec.backends.cpu.densify import densify_model
from sparsec.backends.cpu.insert import Chosen, apply
from sparsec.backends.cpu.library import FILE_NAME, features, library_path, why_no_library
from sparsec.backends.cpu.rows import cost_entries, layer_row
from sparsec.backends.cpu.rows_modelled import modelled_entries, modelled_row
from sparsec.backends.targets import WIDTHS, platform_tag
from sparsec.ir.errors import UnsupportedTargetError
from sparsec.ir.layers import CostRecord
from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import Sites, weight_sites
from sparsec.ir.target import Status, Target


class CpuBackend(Backend):
    """Lowers for this machine by measuring on it, for other machines by a cost model."""

    name = "cpu"

    def why_not(self, target: Target) -> str | None:
        """Say whether there is a library for the target, or can be."""
        return why_no_library_for(_tag(target))

    def status(self, target: Target) -> Status:
        """Say that what runs on the target's own kernels here is measured, and the rest modelled."""
        if (isa := _isa(target)) is None:
            return Status.MEASURED
        here = _tag(target) == platform_tag() and not why_no_library()
        return Status.MEASURED if here and features()[0] == isa else Status.MODELLED

    def here(self, target: Target) -> Target:
        """Say of this machine how wide its instruction set makes the kernels work."""
        if _isa(target) is not None or why_no_library():
            return target
        return dataclasses.replace(target, width=WIDTHS.get(features()[0], target.width))

    def lower(self, model: ir.Model, target: Target, context: LowerContext) -> Lowered:
        """Replace what is faster by Region nodes."""
        sites = weight_sites(model)
        library = library_for(_tag(target))
        decide = self._measure if self.status(target) is Status.MEASURED else self._model
        chosen, lowered = decide(model, sites, target, context)
        plans = apply(model, chosen)
        if plans:
            lowered.files[f"lib/{_tag(target)}/{FILE_NAME}"] = library
            lowered.files |= {f"plans/{name}.plan": plan for name, plan in plans.items()}
        return lowered

    def _measure(
        self, model: ir.Model, sites: Sites, target: Target, context: LowerContext
    ) -> tuple[Sequence[Chosen], Lowered]:
        outcome = Outcome()
        if any(site.pattern is not None for site in sites):
            outcome = choose(model, sites, context)
        rows = [layer_row(site, outcome) for site in sites]
        entries = list(cost_entries(outcome, context.threads))
        record = CostRecord(target.name, outcome.machine, entries)
        return outcome.kept, Lowered(model, rows, record=record, notes=outcome.notes)

    def _model(
        self, model: ir.Model, sites: Sites, target: Target, context: LowerContext
    ) -> tuple[Sequence[Chosen], Lowered]:
        isa = _isa(target)
        assert isa is not None
        costs = BreakEven() if isa == "neon" else Fitted(isa)
        outcome = choose_modelled(model, sites, context, costs)
        rows = [modelled_row(site, outcome, costs) for site in sites]
        entries = list(modelled_entries(sites, outcome, costs, context.threads))
        record = CostRecord(target.name, {"isa": isa}, entries)
        note = f"kernels for {target.name} were chosen by a model: nothing was timed"
        return outcome.kept, Lowered(model, rows, record=record, notes=[note])

    def densify(self, model: ir.Model, root: Path) -> ir.Model:
        """Return the graph in stock operators, weights unpacked from the plans."""
        return densify_model(model, str(root))

    def runner(
        self, root: Path, manifest: Mapping[str, Any], threads: int | None, *, exact: bool = False
    ) -> Runner:
        """Run the artifact in stock ONNX Runtime with the installed library.

        The one that lies in the artifact is for others: it is native code, and loading it would be
        running whatever the artifact's author put there.
        """
        folder = root / "lib"
        if not folder.is_dir():
            return OrtRunner(root / "model.onnx", threads=threads, exact=exact)
        if not (folder / platform_tag() / FILE_NAME).is_file():
            there = ", ".join(sorted(path.name for path in folder.iterdir()))
            raise UnsupportedTargetError(
                f"{root}: the artifact holds kernels for {there}, this machine is {platform_tag()}; "
                "compile it here", where=str(root),
            )  # fmt: skip
        if reason := why_no_library():
            raise UnsupportedTargetError(f"{root}: {reason}", where=str(root))
        return _with_own_library(root, threads, exact)

    def stand_in(
        self, root: Path, manifest: Mapping[str, Any], threads: int | None
    ) -> Runner | None:
        """Run the plans of another kind of machine with this machine's kernels: plans know no machine."""
        return None if why_no_library() else _with_own_library(root, threads, True)


def _with_own_library(root: Path, threads: int | None, exact: bool) -> Runner:
    library = library_path()
    assert library is not None
    return OrtRunner(root / "model.onnx", threads=threads, libraries=[library], exact=exact)


def _isa(target: Target) -> str | None:
    """Return the widest instruction set that a target names; None for this machine, whatever it has."""
    return next((isa for isa in ("avx512", "avx2", "neon") if isa in target.features), None)


def _tag(target: Target) -> str:
    """Return ``<os>-<arch>`` of a target."""
    return next(
        (tag for tag in COMPILERS if tag.partition("-")[2] in target.features), platform_tag()
    )
