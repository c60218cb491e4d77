"""The CPU backend: sparse layers and regions run by our kernels wherever they measure faster."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec.backends.base import Backend, LowerContext, Lowered, Runner
from sparsec.backends.cpu.choose import Outcome, choose
from sparsec.backends.cpu.densify import densify_model
from sparsec.backends.cpu.insert import apply
from sparsec.backends.cpu.library import FILE_NAME, features, library_path, why_no_library
from sparsec.backends.cpu.rows import cost_entries, layer_row
from sparsec.backends.targets import platform_tag
from sparsec.ir.errors import UnsupportedTargetError
from sparsec.ir.layers import CostRecord
from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import weight_sites
from sparsec.ir.target import Target


class CpuBackend(Backend):
    """Lowers for this machine by measuring on it."""

    name = "cpu"

    def why_not(self, target: Target) -> str | None:
        """Say whether the library is here and this machine is of the target's kind."""
        if reason := why_no_library():
            return reason
        missing = sorted(target.features - {platform.machine().lower(), *features()})
        if missing:
            return (
                f"this machine lacks {', '.join(missing)}, and layers are chosen by timing them; "
                "compile on such a machine, or for the target cpu"
            )
        return None

    def lower(self, model: ir.Model, target: Target, context: LowerContext) -> Lowered:
        """Replace what measures faster by Region nodes."""
        sites = weight_sites(model)
        outcome = Outcome()
        if any(site.pattern is not None for site in sites):
            outcome = choose(model, sites, context)
        rows = [layer_row(site, outcome) for site in sites]
        plans = apply(model, outcome.kept)
        library = library_path()
        assert library is not None
        files: dict[str, bytes | Path] = {}
        if plans:
            files[f"lib/{platform_tag()}/{FILE_NAME}"] = library
            files |= {f"plans/{name}.plan": plan for name, plan in plans.items()}
        entries = list(cost_entries(outcome, context.threads))
        record = CostRecord(target.name, {"isa": features()[0]}, entries)
        return Lowered(model, rows, files=files, record=record, notes=outcome.notes)

    def densify(self, model: ir.Model, root: Path) -> ir.Model:
        """Return the graph in stock operators, weights unpacked from the plans."""
        return densify_model(model)

    def runner(self, root: Path, manifest: Mapping[str, Any], threads: int | None) -> Runner:
        """Run the artifact in stock ONNX Runtime with the installed library.

        The one that lies in the artifact is for others: it is native code, and loading it would be
        running whatever the artifact's author put there.
        """
        folder = root / "lib"
        library = folder / platform_tag() / FILE_NAME
        if folder.is_dir() and not library.is_file():
            there = ", ".join(sorted(path.name for path in folder.iterdir()))
            raise UnsupportedTargetError(
                f"{root}: the artifact holds kernels for {there}, this machine is {platform_tag()}; "
                "compile it here", where=str(root),
            )  # fmt: skip
        if not library.is_file():
            return OrtRunner(root / "model.onnx", threads=threads)
        if reason := why_no_library():
            raise UnsupportedTargetError(f"{root}: {reason}", where=str(root))
        installed = library_path()
        libraries = [installed] if installed else []
        return OrtRunner(root / "model.onnx", threads=threads, libraries=libraries)
