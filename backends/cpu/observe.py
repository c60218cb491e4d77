"""Shapes and data of values inside a graph, seen by running it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from sparsec.backends.base import Feeds
from sparsec.backends.cpu.items import Shape
from sparsec.ir.run import new_session, session_options

_AT_ONCE = 48  # values returned by one run, which bounds the memory
_MAX_FEEDS = 2


def save(model: ir.Model, folder: Path, name: str = "model.onnx") -> Path:
    """Save a model with its weights beside it and return the file."""
    path = folder / name
    ir.save(model, path, external_data=f"{name}.data", size_threshold_bytes=1024)
    return path


def observe_shapes(model: ir.Model, feeds: Sequence[Feeds]) -> dict[str, list[Shape]]:
    """Return the shapes of all float32 values that nodes of the main graph compute or read.

    The model is run with its own optimisations off, so that every value exists.
    """
    kept = [feed for i, feed in enumerate(feeds) if i == 0 or _shapes(feed) != _shapes(feeds[0])]
    names = [value.name for node in model.graph for value in node.outputs if value.name]
    shapes: dict[str, list[Shape]] = {}
    for feed in kept[:_MAX_FEEDS]:
        for name, array in feed.items():
            if array.dtype == np.float32:
                shapes.setdefault(name, []).append(array.shape)
        for name, array in observe(model, feed, names):
            if array.dtype == np.float32:
                shapes.setdefault(name, []).append(array.shape)
    return shapes


def _shapes(feed: Feeds) -> dict[str, Shape]:
    return {name: array.shape for name, array in feed.items()}


def observe(
    model: ir.Model, feed: Feeds, names: Sequence[str]
) -> Iterable[tuple[str, NDArray[Any]]]:
    """Yield ``(name, array)`` for every named tensor value of the main graph."""
    with tempfile.TemporaryDirectory(prefix="sparsec-observe-") as folder:
        values = {value.name: value for node in model.graph for value in node.outputs}
        own = {value.name for value in model.graph.outputs}
        extra = [values[name] for name in names if name in values and name not in own]
        before = list(model.graph.outputs)
        model.graph.outputs.extend(extra)
        try:
            path = save(model, Path(folder))
        finally:
            model.graph.outputs[:] = before
        session = _session(path)
        wanted = [n for n in names if n in own or n in {value.name for value in extra}]
        tensors = {o.name for o in session.get_outputs() if o.type.startswith("tensor")}
        wanted = [name for name in wanted if name in tensors]
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            yield from zip(part, session.run(part, dict(feed)), strict=True)


def _session(path: Path) -> ort.InferenceSession:
    return new_session(path, session_options(threads=1, optimise=False, low_memory=True))
