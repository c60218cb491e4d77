"""The CPU backend: sparse layers and regions run by our kernels wherever they measure faster."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec.backends.base import Backend, LowerContext, Lowered, Runner
from sparsec.backends.cpu.assemble import Region, region_of
from sparsec.backends.cpu.choose import Candidate, Measurer, apply
from sparsec.backends.cpu.densify import densify_model
from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.library import FILE_NAME, features, library_path, why_no_library
from sparsec.backends.cpu.observe import observe_shapes
from sparsec.backends.cpu.recognise import recognise
from sparsec.backends.cpu.rows import layer_row
from sparsec.backends.targets import platform_tag
from sparsec.ir.errors import UnsupportedTargetError
from sparsec.ir.layers import CostEntry, CostRecord
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
        kept: list[Candidate] = []
        tried: dict[str, Candidate] = {}
        items: list[Item] = []
        if any(site.pattern is not None for site in sites):
            context.progress("look for regions", 0.0)
            scene = Scene(model, observe_shapes(model, context.feeds))
            items = recognise(scene, sites)
            measurer = Measurer(scene, context.feeds[0], context.threads)
            layers = [region_of([item]) for item in items if is_sparse(item)]
            for candidate in _measured(measurer, layers, context):
                site = candidate.region.items[0].site
                assert site is not None
                tried[site.name] = candidate
                if candidate.gains:
                    kept.append(candidate)
        expressible = {item.site.name for item in items if item.site is not None}
        chosen = {site.name for c in kept for site in _sites(c.region)}
        rows = [
            layer_row(site, tried.get(site.name), site.name in chosen, site.name in expressible)
            for site in sites
        ]
        plans = apply(model, kept)
        library = library_path()
        assert library is not None
        files: dict[str, bytes | Path] = {}
        if plans:
            files[f"lib/{platform_tag()}/{FILE_NAME}"] = library
            files |= {f"plans/{name}.plan": plan for name, plan in plans.items()}
        record = CostRecord(
            target.name, {"isa": features()[0]}, list(_entries(tried.values(), context.threads))
        )
        return Lowered(model, rows, files=files, record=record)

    def densify(self, model: ir.Model, root: Path) -> ir.Model:
        """Return the graph in stock operators, weights unpacked from the plans."""
        return densify_model(model)

    def runner(self, root: Path, manifest: Mapping[str, Any], threads: int | None) -> Runner:
        """Run the artifact in stock ONNX Runtime with the library that lies in it."""
        folder = root / "lib"
        library = folder / platform_tag() / FILE_NAME
        if folder.is_dir() and not library.is_file():
            there = ", ".join(sorted(path.name for path in folder.iterdir()))
            raise UnsupportedTargetError(
                f"{root}: the artifact holds kernels for {there}, this machine is {platform_tag()}; "
                "compile it here", where=str(root),
            )  # fmt: skip
        libraries = [library] if library.is_file() else []
        return OrtRunner(root / "model.onnx", threads=threads, libraries=libraries)


def is_sparse(item: Item) -> bool:
    """Whether an item holds a pruned weight."""
    return item.site is not None and item.site.pattern is not None


def _sites(region: Region) -> Iterable[Any]:
    return (item.site for item in region.items if item.site is not None)


def _measured(
    measurer: Measurer, regions: Sequence[Region], context: LowerContext
) -> Iterable[Candidate]:
    for done in range(0, len(regions), 16):
        context.progress("time layers", done / len(regions))
        yield from measurer.measure(regions[done : done + 16])


def _entries(candidates: Iterable[Candidate], threads: int) -> Iterable[CostEntry]:
    for candidate in candidates:
        site = candidate.region.items[0].site
        assert site is not None
        for kernel, seconds in (
            ("onnxruntime", candidate.dense_seconds),
            ("region", candidate.sparse_seconds),
        ):
            sparsity = 0.0 if kernel == "onnxruntime" else 1.0
            yield CostEntry(
                site.op,
                site.shape,
                str(site.pattern),
                sparsity,
                kernel,
                threads,
                seconds,
                "measured",
            )
