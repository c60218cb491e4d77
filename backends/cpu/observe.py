"""Shapes and data of values inside a graph, seen by running it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.base import Feeds
from sparsec.backends.cpu.items import Shape
from sparsec.ir.run import new_session, session_options

_AT_ONCE = 48  # values returned by one run, which bounds the memory
_MAX_FEEDS = 2


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
    values = {value.name: value for node in model.graph for value in node.outputs}
    own = {value.name for value in model.graph.outputs}
    extra = [values[name] for name in dict.fromkeys(names) if name in values and name not in own]
    before = list(model.graph.outputs)
    model.graph.outputs.extend(extra)
    try:
        session = new_session(model, session_options(optimise=False, low_memory=True))
    finally:
        model.graph.outputs[:] = before
    tensors = {o.name for o in session.get_outputs() if o.type.startswith("tensor")}
    wanted = [name for name in dict.fromkeys(names) if name in tensors]
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        yield from zip(part, session.run(part, dict(feed)), strict=True)
