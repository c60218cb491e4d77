"""``sparsec inspect``: what is in a model or an artifact."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec.artifact.graph import load_graph
from sparsec.artifact.reader import backend_of, is_artifact, open_artifact, using_graph
from sparsec.ir.cleanup import clean_up, fold_batch_norm
from sparsec.ir.codes import Code
from sparsec.ir.cost import graph_cost
from sparsec.ir.errors import SparsecError
from sparsec.ir.feeds import random_feeds
from sparsec.ir.groups import Group, find_groups, prepare
from sparsec.ir.load import load_model
from sparsec.ir.remaining import Remaining
from sparsec.ir.run import Feeds
from sparsec.ir.sites import Sites, sparsity, weight_sites
from sparsec.prove import densified


def inspect_path(path: Path, *, groups: bool = False) -> dict[str, Any]:
    """Describe a model or an artifact.

    Parameters
    ----------
    path : Path
    groups : bool
        Also list the pruning groups.

    Returns
    -------
    dict
        The object that ``inspect --json`` prints.

    Raises
    ------
    ModelImportError, ArtifactError
        If the path is neither.
    """
    if is_artifact(path):
        return _inspect_artifact(path, groups)
    return _inspect_model(load_model(path), groups)


def _inspect_model(model: ir.Model, groups: bool) -> dict[str, Any]:
    sites = weight_sites(model)
    result: dict[str, Any] = {"kind": "model", "ops": operators(model), **counts(model)}
    result["layers"] = [
        {
            "name": site.name,
            "op": site.op,
            "shape": list(site.shape),
            "pattern": site.pattern_text,
            "sparsity": sparsity(site.matrix()),
        }
        for site in sites
    ]
    result["frozen"] = frozen(sites)
    return result | (pruning_groups(model) if groups else {})


def _inspect_artifact(path: Path, groups: bool) -> dict[str, Any]:
    manifest = open_artifact(path)
    after = manifest["after"]
    with using_graph(path), tempfile.TemporaryDirectory(prefix="sparsec-") as scratch:
        backend = backend_of(manifest, path)
        stock = load_model(densified(backend, path, Path(scratch)))
        return {
            "kind": "artifact",
            "target": manifest["target"],
            "ops": operators(load_graph(path)),
            "params": after["params"],
            "nonzero": after["nonzero"],
            "macs": after["macs"],
            "layers": manifest["layers"],
            "passes": [{"name": p["name"], "notes": p["notes"]} for p in manifest["passes"]],
            "latency": manifest["latency"],
            "notes": manifest["notes"],
            "record": manifest.get("record"),
            "frozen": frozen(weight_sites(stock)),
            **(pruning_groups(stock) if groups else {}),
        }


def pruning_groups(model: ir.Model) -> dict[str, Any]:
    """Return ``groups``, those that can be pruned, and ``frozen``, all others with the reason.

    Channels are looked at as passes see them: after our clean-ups, normalisations folded. Of a group
    ``saves`` says what the graph costs less without one of its units.
    """
    seen = model.clone()
    clean_up(seen)
    fold_batch_norm(seen)
    prepare(seen)
    found = find_groups(seen)
    lattice = found.lattice
    counters = {"macs": Remaining.macs(lattice, feed_of(seen)), "params": Remaining.params(lattice)}
    return {
        "groups": [
            group.to_json() | {"saves": {k: _saved(c, group) for k, c in counters.items()}}
            for group in found
        ],
        "frozen": [
            {
                "value": group.name,
                "code": str(Code.BARRIER),
                "units": group.size,
                "reason": group.reason or "",
            }
            for group in found.frozen
        ],
    }


def _saved(counter: Remaining, group: Group) -> int | None:
    left = counter.without(group.units[:1])
    return None if left is None else counter.total() - left


def operators(model: ir.Model) -> dict[str, int]:
    """Return how often each operator occurs, subgraphs included, most frequent first."""
    names = Counter(
        f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
    )
    return dict(sorted(names.items(), key=lambda item: (-item[1], item[0])))


def counts(model: ir.Model) -> dict[str, int | None]:
    """Return ``params``, ``nonzero`` and ``macs``; macs is None if the model cannot be run here."""
    feed = feed_of(model)
    cost = graph_cost(model, feed)
    macs = None if feed is None else cost.macs
    return {"params": cost.params, "nonzero": cost.nonzero, "macs": macs}


def feed_of(model: ir.Model) -> Feeds | None:
    """Return an input that the model runs with; None if it cannot be run here."""
    try:
        return random_feeds(model, seed=0, samples=1).feeds[0]
    except SparsecError:
        return None


def frozen(sites: Sites) -> list[dict[str, str]]:
    """Return what has weights and cannot be pruned, with the reason."""
    return [
        {"value": other.name, "code": str(other.code), "reason": other.reason}
        for other in sites.others
    ]
