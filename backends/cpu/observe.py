"""Shapes and data of values inside a graph, seen by running it."""

from __future__ import annotations

import contextlib
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
_MAX_ALONE = 8  # names of axes that are tried alone: each is one more run


def observe_shapes(model: ir.Model, feeds: Sequence[Feeds]) -> dict[str, list[Shape]]:
    """Return the shapes of all float32 values that nodes of the main graph compute or read.

    The model is run with its own optimisations off, so that every value exists. Where inputs have
    dynamic axes it is run with other sizes as well, if it takes any: at a batch of 1 a value of the
    whole batch and one that is the same for all of it look alike, and so do axes of two names
    wherever neither of them is 1.
    """
    kept = [feed for i, feed in enumerate(feeds) if i == 0 or _shapes(feed) != _shapes(feeds[0])]
    kept = kept[:_MAX_FEEDS]
    names = [value.name for node in model.graph for value in node.outputs if value.name]
    session = _session(model, names)
    seen = [_observed(session, names, feed) for feed in kept]
    for feed in with_other_sizes(model, kept[0]):
        with contextlib.suppress(CalibrationError):  # the model may take no such sizes
            seen.append(_observed(session, names, feed))
    shapes: dict[str, list[Shape]] = {}
    for observed in seen:
        for name, shape in observed.items():
            shapes.setdefault(name, []).append(shape)
    return shapes


def _observed(session: Any, names: Sequence[str], feed: Feeds) -> dict[str, Shape]:
    """Return the shape of every float32 input and value on one feed."""
    shapes = {name: array.shape for name, array in feed.items() if array.dtype == np.float32}
    for name, array in _run(session, names, feed):
        if array.dtype == np.float32:
            shapes[name] = array.shape
    return shapes


def with_other_sizes(model: ir.Model, feed: Feeds) -> Iterator[Feeds]:
    """Yield ``feed`` with dynamic axes of other sizes.

    First all of them, no two the same; then those in front alone; then all of them, where axes of one
    size keep one size; then each name alone, as 1, or as 2 where the feed has 1: what is broadcast only
    then shows. Rows are left out or repeated, so that all values are ones that the feed holds. Axes of
    one name keep one size.
    """
    inputs = [value for value in model.graph.inputs if value.shape is not None]
    axes = [(v.name or "", axis, label) for v in inputs for axis, label in open_axes(v)]
    axes = [(name, axis, label) for name, axis, label in axes if axis < np.ndim(feed.get(name, 0))]
    now: dict[str, int] = {}
    for name, axis, label in axes:
        now.setdefault(label, feed[name].shape[axis])
    leading = dict.fromkeys(label for _, axis, label in axes if axis == 0)
    every = _others(now, apart=True)
    tried: list[dict[str, int]] = []
    for sizes in (
        every,
        {**now, **{label: every[label] for label in leading}},
        _others(now, apart=False),
        *({**now, label: 1 if now[label] != 1 else 2} for label in list(now)[:_MAX_ALONE]),
    ):
        if sizes in (now, *tried):
            continue
        tried.append(sizes)
        other = dict(feed)
        for name, axis, label in axes:
            rows = np.arange(sizes[label]) % max(feed[name].shape[axis], 1)
            other[name] = other[name].take(rows, axis)
        yield other


def _others(now: dict[str, int], *, apart: bool) -> dict[str, int]:
    """Return another size for each name: no two the same, or one for all that have one size now."""
    chosen: dict[str, int] = {}
    moved: dict[int, int] = {}
    for label, size in now.items():
        taken = set(chosen.values())
        new = _another(size, taken) if apart or size not in moved else moved[size]
        chosen[label] = moved[size] = new
    return chosen


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
    yield from _run(_session(model, names), names, feed)


def _session(model: ir.Model, names: Sequence[str]) -> Any:
    """Return a session that returns the named values of the main graph as well."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    own = {value.name for value in model.graph.outputs}
    extra = [values[name] for name in dict.fromkeys(names) if name in values and name not in own]
    before = list(model.graph.outputs)
    model.graph.outputs.extend(extra)
    try:
        return new_session(model, session_options(optimise=False, low_memory=True))
    finally:
        model.graph.outputs[:] = before


def _run(session: Any, names: Sequence[str], feed: Feeds) -> Iterable[tuple[str, NDArray[Any]]]:
    tensors = {o.name for o in session.get_outputs() if o.type.startswith("tensor")}
    wanted = [name for name in dict.fromkeys(names) if name in tensors]
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        yield from zip(part, run_session(session, feed, part), strict=True)
