"""Random inputs that a model accepts, found by trying.

A graph says little about its valid inputs: a voice model takes 576 samples, a detector multiples of
32, token ids must lie inside the embedding. What the graph says is used (ranks, fixed and equal
dimensions, the tables that ids index), the rest is assumed, tried in ONNX Runtime, and told.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.errors import CalibrationError
from sparsec.ir.run import Feeds, open_model, run_session

_IMAGE_SIZES = (224, 320, 64, 32, 416, 48, 96)
_SIZES = (64, 16, 32, 128, 224, 320, 576, 1280, 17280, 1)
_SCALARS = (1, 16000, 0, 8000)
_RATE_NAMES = ("sr", "rate")
_WAY_OUT = "give one valid feed with --calib FILE.npz"


@dataclasses.dataclass(frozen=True, slots=True)
class RandomFeeds:
    """Feeds that the model accepts, and what had to be assumed for them.

    Parameters
    ----------
    feeds : list of feeds
    assumed : tuple of str
        Sentences for people, one an assumption; empty if the graph left nothing open.
    """

    feeds: list[Feeds]
    assumed: tuple[str, ...]


def random_feeds(
    model: ir.Model, *, seed: int = 0, samples: int = 1, batch: int = 1, attempts: int = 128
) -> RandomFeeds:
    """Draw valid random inputs.

    Parameters
    ----------
    model : onnx_ir.Model
    seed : int
        Of the values, and of the order in which unlikely sizes are tried.
    samples : int
        Feeds wanted, all of the same shapes.
    batch : int
        Size of the axes that look like a batch: dynamic, and named so or the first of several.
    attempts : int
        Runs after which to give up.

    Raises
    ------
    CalibrationError
        If no attempt runs; the message asks for a feed.
    UnsupportedOpError
        If the model cannot be run here at all.
    """
    inputs = [_Input.of(value) for value in model.graph.inputs]
    symbols = dict.fromkeys(s for each in inputs for s in each.symbols)
    fixed = {s: batch for s in symbols if any(s in each.batch_symbols for each in inputs)}
    free = [s for s in symbols if s not in fixed]
    trials = itertools.islice(_trials(inputs, fixed, free, batch, seed), attempts)
    if not free and all(each.is_plain for each in inputs):
        trial = next(trials)  # nothing was assumed that a run could refute
    else:
        trial = _first_that_runs(model, inputs, trials, seed)
    rng = np.random.default_rng(seed)
    feeds: list[Feeds] = [
        {each.name: each.draw(trial, rng) for each in inputs} for _ in range(samples)
    ]
    return RandomFeeds(feeds, tuple(_sentences(inputs, trial)))


@dataclasses.dataclass(frozen=True, slots=True)
class _Trial:
    """One guess.

    Parameters
    ----------
    sizes : dict of str to int
        Of every open dimension.
    scalar : int
        Value of integer scalars.
    high : int
        Bound of integers that index no table that is known.
    """

    sizes: dict[str, int]
    scalar: int
    high: int = 2


@dataclasses.dataclass(frozen=True, slots=True)
class _Input:
    """What the graph says of one input."""

    name: str
    dtype: np.dtype[np.generic]
    dims: tuple[int | str, ...]
    bound: int | None  # of integers: rows of the table that they index

    @classmethod
    def of(cls, value: ir.Value) -> _Input:
        """Read the declaration of a graph input."""
        name = value.name or ""
        if value.shape is None or value.dtype is None:
            raise CalibrationError(
                f"the input {name!r} has no known rank or type; {_WAY_OUT}", where=name
            )
        if value.dtype in (ir.DataType.STRING, ir.DataType.BFLOAT16):
            raise CalibrationError(
                f"the input {name!r} is {value.dtype.name}, which cannot be drawn; {_WAY_OUT}",
                where=name,
            )
        dims = tuple(
            size if isinstance(size, int) and size > 0 else _symbol(size, f"{name}.{axis}")
            for axis, size in enumerate(value.shape)
        )
        return cls(name, value.dtype.numpy(), dims, _table_size(value))

    @property
    def symbols(self) -> list[str]:
        """Names of the open dimensions, the terms of sums one by one."""
        terms = (term for dim in self.dims if isinstance(dim, str) for term in _terms(dim))
        return [term for term in terms if not term.isdigit()]

    @property
    def batch_symbols(self) -> list[str]:
        """The open dimensions that are surely a batch."""
        named = [symbol for symbol in self.symbols if "batch" in symbol.lower()]
        first = self.dims[0] if len(self.dims) > 1 else 1
        return [*named, first] if isinstance(first, str) else named

    @property
    def is_image(self) -> bool:
        """Whether it has the rank and the type of a batch of pictures."""
        return len(self.dims) == 4 and np.issubdtype(self.dtype, np.floating)

    @property
    def is_plain(self) -> bool:
        """Whether every value of its type is surely valid."""
        return np.issubdtype(self.dtype, np.floating)

    @property
    def is_scalar(self) -> bool:
        """Whether it is one integer, such as a sample rate or a length."""
        one = all(size == 1 for size in self.dims) and len(self.dims) < 2
        return one and np.issubdtype(self.dtype, np.integer) and self.bound is None

    @property
    def is_unbounded(self) -> bool:
        """Whether it holds integers of which no largest is known."""
        known = self.is_scalar or self.bound is not None or "mask" in self.name.lower()
        return np.issubdtype(self.dtype, np.integer) and not known

    def draw(self, trial: _Trial, rng: np.random.Generator) -> NDArray[np.generic]:
        """Return values of the sizes that ``trial`` gives."""
        shape = tuple(_size(dim, trial.sizes) for dim in self.dims)
        lower = self.name.lower()
        if "mask" in lower:
            return np.ones(shape, self.dtype)
        if np.issubdtype(self.dtype, np.floating):
            return rng.standard_normal(shape).astype(self.dtype)
        if self.dtype == np.bool_:
            return np.zeros(shape, self.dtype)
        if self.is_scalar:
            rate = lower in _RATE_NAMES or lower.endswith(_RATE_NAMES)
            return np.full(shape, 16000 if rate and trial.scalar == 1 else trial.scalar, self.dtype)
        return rng.integers(0, self.bound or trial.high, shape).astype(self.dtype)


def _symbol(size: object, default: str) -> str:
    """Return the name of an open dimension; unnamed ones are each their own."""
    text = size if isinstance(size, str) else getattr(size, "value", None)
    return text if isinstance(text, str) and text not in _NO_NAMES else default


_NO_NAMES = ("", "?", "-1", "None", "unk")


def _terms(dim: str) -> list[str]:
    """Split a sum of dimensions, as exporters write ``past + 1``."""
    return [term.strip() for term in dim.split("+")]


def _size(dim: int | str, sizes: dict[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    return sum(int(term) if term.isdigit() else sizes[term] for term in _terms(dim))


def _table_size(value: ir.Value) -> int | None:
    """Return the smallest table that the integers of ``value`` index, or None."""
    if value.dtype is None or not value.dtype.is_integer():
        return None
    bounds: list[int] = []
    pending, seen = [value], {value}
    while pending:
        for node, index in pending.pop().uses():
            if node.op_type == "Gather" and index == 1 and (table := node.inputs[0]) is not None:
                shape = table.const_value.shape if table.const_value is not None else table.shape
                axis = node.attributes.get_int("axis", 0) or 0
                if shape is not None and isinstance(size := shape[axis], int):
                    bounds.append(size)
            elif node.op_type == "OneHot" and index == 0 and (depth := node.inputs[1]) is not None:
                if depth.const_value is not None:
                    bounds.append(int(depth.const_value.numpy().item()))
            elif node.op_type in _KEEP_VALUES and index == 0:
                pending += [out for out in node.outputs if out not in seen]
                seen.update(node.outputs)
    return min(bounds, default=None)


_KEEP_VALUES = {
    "Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
}  # fmt: skip


def _trials(
    inputs: list[_Input], fixed: dict[str, int], free: list[str], batch: int, seed: int
) -> Iterator[_Trial]:
    """Yield guesses, likely ones first: one size everywhere, one axis that counts, any sizes."""
    image = any(each.is_image and set(each.symbols) & set(free) for each in inputs)
    sizes = tuple(dict.fromkeys((*_IMAGE_SIZES, *_SIZES) if image else _SIZES))
    scalars = _SCALARS if any(each.is_scalar for each in inputs) else (1,)
    highs = (256, 2) if any(each.is_unbounded for each in inputs) else (2,)
    for scalar in scalars:
        for size, high in itertools.product(sizes if free else (1,), highs):
            yield _Trial(fixed | dict.fromkeys(free, size), scalar, high)
        for size, symbol in itertools.product(sizes, free if len(free) > 1 else ()):
            yield _Trial(fixed | dict.fromkeys(free, batch) | {symbol: size}, scalar)
    rng = np.random.default_rng(seed)
    while len(free) > 1:
        yield _Trial(fixed | {s: int(rng.choice(sizes)) for s in free}, int(rng.choice(scalars)))


def _first_that_runs(
    model: ir.Model, inputs: list[_Input], trials: Iterator[_Trial], seed: int
) -> _Trial:
    last: CalibrationError | None = None
    with open_model(model) as session:
        for trial in trials:
            rng = np.random.default_rng(seed)
            try:
                run_session(session, {each.name: each.draw(trial, rng) for each in inputs})
            except CalibrationError as error:
                last = error
            else:
                return trial
    wanted = ", ".join(f"{each.name} {list(each.dims)}" for each in inputs)
    raise CalibrationError(
        f"no random input was accepted by the model ({wanted}); {_WAY_OUT}. "
        f"The last attempt: {last}"
    ) from last


def _sentences(inputs: list[_Input], trial: _Trial) -> Iterator[str]:
    """Say what was assumed of each input."""
    for each in inputs:
        if each.symbols:
            shape = [_size(dim, trial.sizes) for dim in each.dims]
            yield f"{each.name}: shape {shape} for {list(each.dims)}"
        if "mask" in each.name.lower():
            yield f"{each.name}: ones"
        elif each.is_scalar:
            yield f"{each.name}: {each.draw(trial, np.random.default_rng(0)).item()}"
        elif each.is_unbounded:
            yield f"{each.name}: values from 0 to {trial.high - 1}"
        elif each.dtype == np.bool_:
            yield f"{each.name}: false"
