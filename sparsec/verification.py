"""``sparsec verify``: check an artifact again, offline, trusting nothing that it says of itself."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec.artifact import format as fmt
from sparsec.artifact.digest import source_digest
from sparsec.artifact.reader import backend_of, open_artifact, using_graph
from sparsec.backends.base import Backend, Feeds
from sparsec.compare import Fidelity
from sparsec.ir.errors import ArtifactError, PatternError, VerifyError
from sparsec.ir.feeds import random_feeds
from sparsec.ir.load import is_onnx, load_model
from sparsec.ir.noise import noise_of
from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import sparsity, weight_sites
from sparsec.ir.sources import load_feeds
from sparsec.prove import (
    compared,
    densified,
    optimised,
    outputs_of,
    runnable,
    tolerance,
    verification_json,
)
from sparsec.recertify import replay_all

SAMPLES = 2


def verify_artifact(
    path: Path, model: Path | None = None, calib: str | None = None
) -> dict[str, Any]:
    """Re-check hashes, graph, patterns, numerics and certificates of an artifact.

    Parameters
    ----------
    path : Path
    model : Path, optional
        The model that it was compiled from: certificates are then replayed with the real weights
        and the fidelity is computed again.
    calib : str, optional
        SOURCE of inputs to compare on, where none that are made up run through the model.

    Returns
    -------
    dict
        The object that ``verify --json`` prints.

    Raises
    ------
    ArtifactError
        If the artifact is damaged (HashMismatchError if a file was altered).
    VerifyError
        If a layer is not what the manifest says, or the artifact does not compute what its own
        packed weights say.
    """
    manifest = open_artifact(path)
    backend = backend_of(manifest, path)
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        scratch = Path(name)
        with using_graph(path):
            stock = load_model(densified(backend, path, scratch))
            check_interface(stock, manifest, path)
            patterns = check_layers(stock, manifest, path)
            feeds: Sequence[Feeds]
            if calib is None:
                seed = manifest["recipe"]["seed"]
                feeds = random_feeds(stock, seed=seed, samples=SAMPLES, where=str(path)).feeds
            else:
                feeds = load_feeds(calib, stock)[:SAMPLES]
            numerics = check_numerics(path, manifest, backend, scratch, feeds)
        result: dict[str, Any] = {
            "passed": True,
            "hashes": {"passed": True, "files": len(manifest["files"])},
            "graph": {"passed": True, "nodes": stock.graph.num_nodes(), "patterns": patterns},
            "numerics": numerics,
            "certificates": replay_all(path, manifest, stock, model),
        }
        if model is not None:
            result["fidelity"] = compare_with_source(path, manifest, backend, model, scratch, feeds)
    return result


def check_interface(stock: ir.Model, manifest: dict[str, Any], path: Path) -> None:
    """Check that the graph has the inputs and outputs that the manifest promises.

    Raises
    ------
    ArtifactError
    """
    for kind, values in (("inputs", stock.graph.inputs), ("outputs", stock.graph.outputs)):
        have = [value.name for value in values]
        said = [entry["name"] for entry in manifest[kind]]
        if have != said:
            raise ArtifactError(
                f"{path}: the graph's {kind} are {have}, the manifest says {said}",
                where=str(path / fmt.MODEL),
            )


def check_layers(stock: ir.Model, manifest: Mapping[str, Any], path: Path) -> int:
    """Check every weight against its row of the layer table; return how many follow a pattern.

    A weight must have the shape, the pattern and the sparsity that its row claims, and its zeros
    must lie as the pattern says. Every row needs a weight, and every weight a row.

    Raises
    ------
    VerifyError
        Naming the layer and the claim that does not hold.
    """
    rows = {row["name"]: row for row in manifest["layers"]}
    count = 0
    for site in weight_sites(stock):
        row = rows.pop(site.name, None) or rows.pop(site.weight.name or "", None)
        if row is None:
            raise _broken(path, site.name, "the manifest has no row for this weight")
        matrix, pattern = site.matrix(), site.pattern
        found = {
            "shape": list(site.shape),
            "pattern": site.pattern_text,
            "sparsity": sparsity(matrix),
        }
        for key, value in found.items():
            if value != row[key]:
                raise _broken(path, row["name"], f"the manifest says {key} {row[key]}, got {value}")
        if pattern is not None:
            try:
                pattern.check(matrix, site.name)
            except PatternError as error:
                raise _broken(path, row["name"], error.message) from error
            count += 1
    for name in rows:
        raise _broken(path, name, "the manifest has a row for it, the graph no weight")
    return count


def _broken(path: Path, layer: str, what: str) -> VerifyError:
    return VerifyError(f"{path}: layer {layer!r}: {what}", where=layer)


def check_numerics(
    path: Path, manifest: dict[str, Any], backend: Backend, scratch: Path, feeds: Sequence[Feeds]
) -> dict[str, Any]:
    """Compare what the artifact computes with its own weights in stock, unoptimised operators.

    Raises
    ------
    VerifyError
        If they differ by more than the tolerance.
    """
    file = densified(backend, path, scratch)
    expected = outputs_of(OrtRunner(file, optimise=False, low_memory=True), feeds)
    runner, how = runnable(backend, path, manifest, scratch)
    got, limit = outputs_of(runner, feeds), tolerance(manifest)
    difference = compared(got, expected, lambda: optimised(file, feeds), limit)
    result = verification_json(
        difference, manifest, how, lambda: noise_of(load_model(file), feeds, expected)
    )
    if not result["passed"]:
        raise VerifyError(
            f"{path}: the artifact differs from its own weights in stock operators by "
            f"{difference.max_rel:.2g}, over the tolerance {result['tolerance']:g}",
            where=str(path),
        )
    return result


def compare_with_source(
    path: Path,
    manifest: dict[str, Any],
    backend: Backend,
    model: Path,
    scratch: Path,
    feeds: Sequence[Feeds],
) -> dict[str, float | None]:
    """Return the fidelity to the model that the artifact was compiled from.

    Raises
    ------
    VerifyError
        If ``model`` is another file than the one that was compiled.
    """
    recorded = manifest["source"]
    source = load_model(model)
    found = source_digest(model, source)
    same = all(found[key] == recorded[key] for key in ("sha256", "data"))
    if recorded["sha256"] is not None and not same:
        raise VerifyError(
            f"{model}: not the model that {path.name} was compiled from "
            f"({recorded['name']}): the hashes differ",
            where=str(model),
        )
    runner, _ = runnable(backend, path, manifest, scratch)
    graph = model if is_onnx(model) else source
    original = outputs_of(OrtRunner(graph, low_memory=True, where=str(model)), feeds)
    return Fidelity.between(outputs_of(runner, feeds), original).to_json()
