"""``sparsec bench``: an artifact against a dense model, interleaved, on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec.artifact.reader import backend_of, open_artifact, using_graph
from sparsec.artifact.writer import save_model
from sparsec.backends.base import Feeds
from sparsec.ir.cleanup import clean_up
from sparsec.ir.errors import ModelImportError
from sparsec.ir.feeds import random_feeds
from sparsec.ir.load import is_onnx, load_model
from sparsec.ir.sources import load_feeds
from sparsec.machine import fingerprint
from sparsec.prove import densified
from sparsec.verdict import measure

KEYS = ("dense_ms", "sparse_ms", "speedup", "speedup_p10", "speedup_p90", "rounds")


def bench_artifact(
    path: Path,
    against: Path | None = None,
    *,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    calib: str | None = None,
    rounds: int = 20,
) -> dict[str, Any]:
    """Time an artifact against the dense model.

    Parameters
    ----------
    path : Path
    against : Path, optional
        The dense model. Without it the artifact's own weights in stock operators are the baseline,
        which take as long as any other dense weights.
    threads, batches : sequences of int
        One row is measured for each pair.
    calib : str, optional
        SOURCE of inputs: the first of them is timed, and its first size counts as the batch.
    rounds : int
        Interleaved rounds of each row.

    Returns
    -------
    dict
        The object that ``bench --json`` prints.

    Raises
    ------
    UnsupportedTargetError
        If this machine cannot run the artifact.
    CalibrationError
        If no inputs of a batch size can be made up.
    ModelImportError
        If ``against`` takes other inputs than the artifact.
    """
    manifest = open_artifact(path)
    backend = backend_of(manifest, path)
    rows = []
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        scratch = Path(name)
        with using_graph(path):
            stock = densified(backend, path, scratch)
            model = load_model(stock)
            runners = {count: backend.runner(path, manifest, count) for count in threads}
        baselines = [stock] if against is None else [against] if is_onnx(against) else []
        if against is not None:
            own, model = model, load_model(against)
            if not _same_inputs(own, model):
                raise ModelImportError(
                    f"{against}: takes {_inputs(model)}, but {path} takes {_inputs(own)}; give the "
                    "model that it was compiled from",
                    where=str(against),
                )
        cleaned = scratch / "cleaned" / "model.onnx"
        cleaned.parent.mkdir()
        save_model(_cleaned(model), cleaned)
        baselines.append(cleaned)
        for batch, feeds in _feeds(
            model, manifest["recipe"]["seed"], batches, calib, against or path
        ):
            for count in threads:
                result = measure(runners[count], baselines, feeds, threads=count, rounds=rounds)
                rows.append(
                    {"threads": count, "batch": batch, **{key: result[key] for key in KEYS}}
                )
    return {"machine": fingerprint(), "rows": rows}


def _feeds(
    model: ir.Model, seed: int, batches: Sequence[int], calib: str | None, where: Path
) -> Iterator[tuple[int, Feeds]]:
    """Yield every batch with inputs of it."""
    if calib is not None:
        feed = load_feeds(calib, model)[0]
        first = next(iter(feed.values()), None)
        yield int(first.shape[0]) if first is not None and first.ndim else 1, feed
        return
    for batch in batches:
        made = random_feeds(model, seed=seed, samples=1, batch=batch, where=str(where))
        yield batch, made.feeds[0]


def _same_inputs(a: ir.Model, b: ir.Model) -> bool:
    """Whether what one model is fed can be fed to the other: names, ranks and sizes that both fix."""
    theirs = {value.name: value for value in b.graph.inputs}
    if {value.name for value in a.graph.inputs} != set(theirs):
        return False
    for value in a.graph.inputs:
        mine, other = value.shape, theirs[value.name].shape
        if mine is None or other is None:
            continue
        pairs = zip(mine, other, strict=False)
        fixed = [(x, y) for x, y in pairs if isinstance(x, int) and isinstance(y, int)]
        if len(mine) != len(other) or any(x != y for x, y in fixed):
            return False
    return True


def _inputs(model: ir.Model) -> str:
    return ", ".join(f"{value.name!r} {value.shape}" for value in model.graph.inputs) or "no input"


def _cleaned(model: ir.Model) -> ir.Model:
    """Return a copy after our exact clean-ups: what the artifact's own graph went through."""
    copy = model.clone()
    clean_up(copy)
    return copy
