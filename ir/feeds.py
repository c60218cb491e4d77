"""Made-up inputs that a model accepts.

A model with dynamic axes or integer inputs does not say what it can be fed: a sequence may have to
be 576 samples long, a token id must lie in the vocabulary. What the graph does say is used (the
table that ids index, masks by name); for the rest a few sizes are tried until the model runs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.errors import CalibrationError
from sparsec.ir.run import Feeds, OrtRunner

# (size of an axis that is no batch, and of the last axis of an image-like input), likeliest first.
_SIZES = (
    (128, 128), (224, 224), (48, 320), (64, 160), (320, 320), (32, 32), (64, 64), (576, 576),
    (16, 16), (512, 512), (640, 640), (1280, 1280), (17280, 17280), (8, 8), (4, 4), (1, 1),
)  # fmt: skip
# Of one input: 17280 is the length of a recording, not the side of an image.
_MOST_ELEMENTS = 1 << 24
_MOST_WRITTEN = 16  # numbers in a shape, and sizes of a graph that are tried
_LONGEST_WRITTEN = 8192
_SCALARS = (1, 16000, 0)  # integers alone: a length, a sample rate, a flag
_HIGHS = (256, 2)  # bounds of integers that index no table: bytes, flags
_THROUGH = {"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Clip"}


@dataclasses.dataclass(frozen=True, slots=True)
class RandomFeeds:
    """Made-up feeds, and what was assumed to make them.

    Parameters
    ----------
    feeds : tuple of dict
    sizes : dict of str to int
        The size that each dynamic axis was given, by its name.
    """

    feeds: tuple[dict[str, NDArray[Any]], ...]
    sizes: dict[str, int]


def random_feeds(
    model: ir.Model,
    *,
    seed: int = 0,
    samples: int = 1,
    batch: int = 1,
    where: str = "",
    given: Feeds | None = None,
) -> RandomFeeds:
    """Make up feeds that the model runs with.

    Parameters
    ----------
    model : onnx_ir.Model
    seed : int
    samples : int
        How many feeds; all of the same sizes.
    batch : int
        Size of the batch axis, where that is dynamic.
    where : str
        What messages call the model; default: the name of its graph.
    given : mapping of str to array, optional
        Inputs that need not be made up; they are part of every feed.

    Raises
    ------
    CalibrationError
        If nothing that was tried runs; the way out is one valid feed.
    """
    given = given or {}
    inputs = [value for value in model.graph.inputs if value.name not in given]
    for value in inputs:
        _check(value, batch)
    runner: OrtRunner | None = None
    failure = "nothing to try"
    ran: RandomFeeds | None = None  # without a finite number in some output
    tries = itertools.chain(_SIZES, _written_sizes(model))
    for plan in _affordable(inputs, list(_plans(inputs, batch, tries))):
        if ran is not None and plan.sizes != ran.sizes:
            return ran
        feeds = tuple(
            {**_feed(inputs, plan, np.random.default_rng((seed, i))), **given}
            for i in range(samples)
        )
        if not _needs_trial(inputs):
            return RandomFeeds(feeds, plan.sizes)
        runner = runner or OrtRunner(model, optimise=False, low_memory=True, where=where)
        try:
            outputs = runner.run(feeds[0])
        except CalibrationError as error:
            failure = error.message[:300]
            continue
        if not all(np.size(array) for array in outputs.values()):
            failure = "an output is empty"
        elif not all(_any_finite(array) for array in outputs.values()):
            ran = ran or RandomFeeds(feeds, plan.sizes)
        else:
            return RandomFeeds(feeds, plan.sizes)
    if ran is not None:
        return ran
    start = f"{where}: " if where else ""
    raise CalibrationError(
        f"{start}no made-up input runs through the model; give one valid feed with --calib FILE.npz "
        f"(arrays named {', '.join(repr(value.name) for value in inputs)}). Last attempt: {failure}",
        where=inputs[0].name or "",
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    sizes: dict[str, int]
    scalar: int
    high: int
    mask: bool


def _check(value: ir.Value, batch: int) -> None:
    """Refuse inputs that nothing can be made up for."""
    if not isinstance(value.type, ir.TensorType) or value.dtype is None:
        raise CalibrationError(
            f"the input {value.name!r} is no tensor, so nothing can be made up for it; give --calib "
            "module:function",
            where=value.name or "",
        )
    if value.dtype == ir.DataType.UNDEFINED:
        raise CalibrationError(
            f"the input {value.name!r} has no element type, so no runtime takes the model; export it "
            "again, or declare the type with onnx.helper.make_tensor_value_info",
            where=value.name or "",
        )
    if value.shape is None:
        raise CalibrationError(
            f"the input {value.name!r} has no rank; give one valid feed with --calib FILE.npz",
            where=value.name or "",
        )
    first = value.shape[0] if len(value.shape) > 1 else None
    if batch > 1 and isinstance(first, int) and first != batch:
        raise CalibrationError(
            f"the input {value.name!r} has the fixed batch {first}, so a batch of {batch} cannot be run",
            where=value.name or "",
        )


def open_axes(value: ir.Value) -> Iterator[tuple[int, str]]:
    """Yield the dynamic axes of an input with the name that equal ones share."""
    assert value.shape is not None
    for axis, size in enumerate(value.shape):
        if not isinstance(size, int) or size < 0:
            name = None if isinstance(size, int) else size.value
            yield axis, f"{value.name}.{axis}" if name in _NO_NAMES else str(name)


_NO_NAMES = (None, "", "?", "-1", "None")  # what exporters write where they know no name


def _written_sizes(model: ir.Model) -> Iterator[tuple[int, int]]:
    """Yield the sizes that the graph computes shapes with, the most frequent first.

    Exporters write the length of their example into a graph whose inputs they declare dynamic.
    """
    counts: Counter[int] = Counter()
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if (
            tensor is not None
            and tensor.dtype == ir.DataType.INT64
            and tensor.size <= _MOST_WRITTEN
        ):
            counts.update(int(n) for n in tensor.numpy().reshape(-1) if 1 < n <= _LONGEST_WRITTEN)
    yield from ((size, size) for size, _ in counts.most_common(_MOST_WRITTEN))


def _plans(inputs: list[ir.Value], batch: int, tries: Iterable[tuple[int, int]]) -> Iterator[_Plan]:
    """Yield guesses that differ, the likeliest first."""
    scalars = _SCALARS if any(_is_scalar(value) for value in inputs) else _SCALARS[:1]
    highs = _HIGHS if any(_is_unbounded(value) for value in inputs) else _HIGHS[:1]
    # What a mask marks is what counts, or what does not: torch has both.
    masks = (True, False) if any(_is_mask(value) for value in inputs) else (True,)
    seen: list[_Plan] = []
    # A recurrent state has its batch in the middle: an inner axis may have to be 1, too.
    for sizes, scalar, inner, high, mask in itertools.product(
        tries, scalars, (None, batch), highs, masks
    ):
        plan = _Plan(_axis_sizes(inputs, sizes, batch, inner), scalar, high, mask)
        if plan not in seen:
            seen.append(plan)
            yield plan


def _affordable(inputs: list[ir.Value], plans: list[_Plan]) -> list[_Plan]:
    """Leave out guesses of sizes that no machine is asked to hold, as long as there are smaller ones."""
    largest = [max((math.prod(_shape(v, plan)) for v in inputs), default=0) for plan in plans]
    most = max(_MOST_ELEMENTS, min(largest))
    return [plan for plan, elements in zip(plans, largest, strict=True) if elements <= most]


def _shape(value: ir.Value, plan: _Plan) -> tuple[int, ...]:
    """Return the shape that a plan gives an input."""
    assert value.shape is not None
    names = dict(open_axes(value))
    return tuple(
        plan.sizes[names[axis]] if axis in names else int(str(size))
        for axis, size in enumerate(value.shape)
    )


def _axis_sizes(
    inputs: list[ir.Value], sizes: tuple[int, int], batch: int, inner: int | None
) -> dict[str, int]:
    """Return a size for every dynamic axis; ``inner`` is for the middle axes of rank 3, if given."""
    chosen: dict[str, int] = {}
    for value in inputs:
        assert value.shape is not None
        rank = len(value.shape)
        for axis, label in open_axes(value):
            is_batch = (axis == 0 and rank > 1) or "batch" in label.lower()
            image_width = rank == 4 and axis == 3
            size = batch if is_batch else sizes[1] if image_width else sizes[0]
            if inner is not None and rank == 3 and axis == 1:
                size = inner
            chosen.setdefault(label, size)
    return chosen


def _needs_trial(inputs: list[ir.Value]) -> bool:
    """Whether anything had to be guessed."""
    return any(
        any(True for _ in open_axes(value)) or not _is_float(value.dtype) for value in inputs
    )


def _is_scalar(value: ir.Value) -> bool:
    return not _is_float(value.dtype) and value.shape is not None and len(value.shape) == 0


def _is_unbounded(value: ir.Value) -> bool:
    """Whether it holds integers that index no table that is known."""
    integers = value.dtype is not None and value.dtype.is_integer()
    return integers and not _is_scalar(value) and _bound(value) is None


def _is_mask(value: ir.Value) -> bool:
    named = "mask" in (value.name or "").lower() and not _is_float(value.dtype)
    return named or value.dtype == ir.DataType.BOOL


def _any_finite(array: NDArray[Any]) -> bool:
    """Whether an output shows anything: numbers other than NaN and infinity."""
    return array.dtype.kind != "f" or bool(np.isfinite(array).any())


def _is_float(dtype: ir.DataType | None) -> bool:
    return dtype is not None and dtype.is_floating_point()


def _feed(inputs: list[ir.Value], plan: _Plan, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    feed: dict[str, NDArray[Any]] = {}
    for value in inputs:
        feed[value.name or ""] = _array(value, _shape(value, plan), plan, rng)
    return feed


def _array(
    value: ir.Value, shape: tuple[int, ...], plan: _Plan, rng: np.random.Generator
) -> NDArray[Any]:
    assert value.dtype is not None
    if value.dtype == ir.DataType.STRING:
        return np.full(shape, "a", dtype=object)
    dtype = np.dtype(value.dtype.numpy())
    name = (value.name or "").lower()
    if _is_float(value.dtype):
        return rng.standard_normal(shape).astype(dtype)
    if _is_mask(value):
        return np.full(shape, plan.mask, dtype)
    if not shape:
        is_rate = name == "sr" or name.endswith("rate")
        return np.array(16000 if is_rate else plan.scalar, dtype)
    if "token_type" in name or "segment" in name:
        return np.zeros(shape, dtype)
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
    return rng.integers(0, _bound(value) or plan.high, shape).astype(dtype)


def _bound(value: ir.Value) -> int | None:
    """Return the number of rows of the smallest table that an integer input indexes, if any."""
    bounds: list[int] = []
    pending, seen = [value], set()
    while pending:
        current = pending.pop()
        for node, index in current.uses():
            if node in seen:
                continue
            seen.add(node)
            if node.op_type == "Gather" and index == 1 and (table := node.inputs[0]) is not None:
                axis = node.attributes.get_int("axis", 0) or 0
                shape = table.const_value.shape if table.const_value is not None else table.shape
                if shape is not None and isinstance(size := shape[axis], int):
                    bounds.append(max(size, 1))
            elif node.op_type in _THROUGH and index == 0:
                pending += node.outputs
    return min(bounds, default=None)
