"""Shapes and data of values inside a graph, seen by running it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.base import Feeds
from sparsec.backends.cpu.items import Shape
from sparsec.ir.errors import CalibrationError
from sparsec.ir.feeds import open_axes
from sparsec.ir.run import new_session, run_session, session_options

_AT_ONCE = 48  # values returned by one run, which bounds the memory
_MAX_FEEDS = 2


def observe_shapes(model: ir.Model, feeds: Sequence[Feeds]) -> dict[str, list[Shape]]:
    """Return the shapes of all float32 values that nodes of the main graph compute or read.

    The model is run with its own optimisations off, so that every value exists. Where inputs have
    dynamic axes it is run once more with other sizes, if it takes any: at a batch of 1 a value of
    the whole batch and one that is the same for all of it look alike.
    """
    kept = [feed for i, feed in enumerate(feeds) if i == 0 or _shapes(feed) != _shapes(feeds[0])]
    kept = kept[:_MAX_FEEDS]
    seen = [_observed(model, feed) for feed in kept]
    for feed in with_other_sizes(model, kept[0]):
        try:
            seen.append(_observed(model, feed))
        except CalibrationError:  # the model takes no such sizes
            continue
        break
    shapes: dict[str, list[Shape]] = {}
    for observed in seen:
        for name, shape in observed.items():
            shapes.setdefault(name, []).append(shape)
    return shapes


def _observed(model: ir.Model, feed: Feeds) -> dict[str, Shape]:
    """Return the shape of every float32 input and value on one feed."""
    names = [value.name for node in model.graph for value in node.outputs if value.name]
    shapes = {name: array.shape for name, array in feed.items() if array.dtype == np.float32}
    for name, array in observe(model, feed, names):
        if array.dtype == np.float32:
            shapes[name] = array.shape
    return shapes


def with_other_sizes(model: ir.Model, feed: Feeds) -> Iterator[Feeds]:
    """Yield ``feed`` with all dynamic axes of other sizes, no two the same; then with the first ones only.

    Rows are left out or repeated, so that all values are ones that the feed holds. Axes of one name
    keep one size.
    """
    inputs = [value for value in model.graph.inputs if value.shape is not None]
    axes = [(v.name or "", axis, label) for v in inputs for axis, label in open_axes(v)]
    leading = {label for _, axis, label in axes if axis == 0}
    every = {label for _, _, label in axes}
    for chosen in [every] if leading == every else [every, leading]:
        sizes: dict[str, int] = {}
        other = dict(feed)
        for name, axis, label in axes:
            if label in chosen and name in feed and feed[name].ndim > axis:
                size = feed[name].shape[axis]
                new = sizes.setdefault(label, _another(size, set(sizes.values())))
                other[name] = other[name].take(np.arange(new) % max(size, 1), axis)
        if sizes:
            yield other


def _another(size: int, taken: set[int]) -> int:
    """Return a size near ``size``, below it if possible, that is neither it, nor 1, nor taken."""
    below = next((n for n in range(size - 1, 1, -1) if n not in taken), None)
    return below or next(n for n in itertools.count(max(size + 1, 2)) if n not in taken)


def _shapes(feed: Feeds) -> dict[str, Shape]:
    return {name: array.shape for name, array in feed.items()}


def observe(
    model: ir.Model, feed: Feeds, names: Sequence[str]
) -> Iterable[tuple[str, NDArray[Any]]]:
    """Yield ``(name, array)`` for every named tensor value of the main graph.

    Raises
    ------
    CalibrationError
        If the model cannot be run on the feed.
    """
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
        yield from zip(part, run_session(session, feed, part), strict=True)
