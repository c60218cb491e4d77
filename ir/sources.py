"""Calibration sources: ``FILE.npz`` or ``module:function``, as one feed per sample.

Several are joined by ``+``; their samples then alternate, so that every prefix holds some of each.

In a file, arrays are named as the inputs of the graph. An array of one more axis than its input
holds one full feed per item; an array of the input's own rank is stacked on axis 0 and cut to the
model's batch.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.errors import CalibrationError

# What a file may hold besides the inputs, for evaluators.
LABELS, TEXT = "labels", "text"


def load_feeds(source: str, model: ir.Model) -> list[dict[str, NDArray[Any]]]:
    """Return the feeds of a SOURCE, each checked against the inputs of ``model``.

    Parameters
    ----------
    source : str
        ``FILE.npz``, or ``module:function`` of a zero-argument callable that returns an iterable of
        feeds; the second runs the module's code. Or several, joined by ``+``.
    model : onnx_ir.Model

    Raises
    ------
    CalibrationError
        If the source is missing, damaged, empty, or does not fit the inputs; file and array are
        named.
    """
    if "+" in source and not Path(source).exists():
        each = [load_feeds(part, model) for part in source.split("+")]
        return [
            feed for feeds in itertools.zip_longest(*each) for feed in feeds if feed is not None
        ]
    if source.endswith(".npz"):
        inputs = {value.name for value in model.graph.inputs}
        arrays = {
            name: array
            for name, array in read_npz(Path(source)).items()
            if name in inputs or name not in (LABELS, TEXT)
        }
        feeds: Iterable[Any] = _split(arrays, model, source)
    elif ":" in source:
        feeds = _returned(source)
    else:
        raise CalibrationError(
            f"{source}: needed FILE.npz or module:function as a source of inputs", where=source
        )
    checked = [_checked(feed, model, source) for feed in feeds]
    if not checked:
        raise CalibrationError(f"{source}: holds no samples", where=source)
    return checked


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz`` file; nothing pickled is ever loaded.

    Raises
    ------
    CalibrationError
        If the file is missing, damaged, empty, or holds Python objects.
    """
    if not path.is_file():
        raise CalibrationError(f"{path}: no such file", where=str(path))
    arrays: dict[str, NDArray[Any]] = {}
    key = ""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise CalibrationError(f"{path}: one bare array; needed an .npz with an array for each "
                                       "input, named as the input", where=str(path))  # fmt: skip
            for key in archive.files:
                arrays[key] = archive[key]
    except CalibrationError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        about = f" array {key!r}" if key else ""
        raise CalibrationError(
            f"{path}:{about} cannot be read ({error}); write it with numpy.savez, without objects",
            where=str(path),
        ) from error
    if not arrays:
        raise CalibrationError(f"{path}: holds no arrays", where=str(path))
    return arrays


def load_labels(source: str, model: ir.Model) -> NDArray[Any] | None:
    """Return ``labels`` of a SOURCE as they are; None if it is not one file, or has none.

    Parameters
    ----------
    source : str
    model : onnx_ir.Model
        An input of it may itself be called so.
    """
    path = Path(source)
    if path.suffix != ".npz" or not path.is_file():
        return None
    if LABELS in {value.name for value in model.graph.inputs}:
        return None
    return read_npz(path).get(LABELS)


def class_numbers(labels: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Return labels as int [items].

    Raises
    ------
    CalibrationError
        If they are not whole numbers.
    """
    if not np.issubdtype(labels.dtype, np.number) or np.any(labels != np.round(labels)):
        raise CalibrationError(
            f"{where}: {LABELS!r} must hold whole numbers, the classes; got {labels.dtype}",
            where=where,
        )
    return labels.ravel().astype(np.int64)


def import_function(source: str, option: str) -> Callable[..., Any]:
    """Import ``module:function``, also from the current folder. This runs the module's code.

    Raises
    ------
    CalibrationError
        If there is none.
    """
    module_name, _, attribute = source.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the module is the user's: anything may go wrong
        raise CalibrationError(
            f"{option} {source}: cannot import {module_name!r}: {type(error).__name__}: {error}",
            where=source,
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise CalibrationError(
            f"{option} {source}: {module_name} has no function {attribute!r}", where=source
        )
    return function  # type: ignore[no-any-return]


def _returned(source: str) -> list[Any]:
    """Call the function that ``source`` names and return its feeds, not yet checked."""
    function = import_function(source, "--calib")
    try:
        feeds = function()
        if isinstance(feeds, Iterable) and not isinstance(feeds, (str, bytes, Mapping)):
            return list(feeds)
    except (Exception, SystemExit) as error:  # the function is the user's
        raise CalibrationError(
            f"--calib {source}: the function failed: {type(error).__name__}: {error}", where=source
        ) from error
    raise CalibrationError(
        f"{source}: needed an iterable of feeds, got {type(feeds).__name__}", where=source
    )


def _split(
    arrays: Mapping[str, NDArray[Any]], model: ir.Model, source: str
) -> Iterator[dict[str, NDArray[Any]]]:
    """Cut the arrays of a file into feeds."""
    if not arrays.keys() & {value.name for value in model.graph.inputs}:
        yield dict(arrays)  # of other names altogether: whoever checks feeds says so
        return
    items: dict[str, Iterator[NDArray[Any]]] = {}
    counts: dict[str, int] = {}
    for value in model.graph.inputs:
        name = value.name or ""
        if name not in arrays:
            continue
        array = arrays[name]
        rank = array.ndim - 1 if value.shape is None else len(value.shape)
        if array.ndim == rank + 1:
            cut = list(array)
        elif array.ndim == rank and rank:
            batch = value.shape[0] if value.shape is not None else None
            size = batch if isinstance(batch, int) and batch > 0 else 1
            if len(array) % size:
                raise CalibrationError(
                    f"{source}: {name!r} has {len(array)} items, no multiple of the model's batch of "
                    f"{size}",
                    where=name,
                )
            cut = np.split(array, len(array) // size) if len(array) else []
        else:
            raise CalibrationError(
                f"{source}: {name!r} has {array.ndim} axes; needed {rank} (stacked) or {rank + 1} "
                "(one feed per item)",
                where=name,
            )
        items[name], counts[name] = iter(cut), len(cut)
    if len(set(counts.values())) > 1:
        raise CalibrationError(f"{source}: the arrays hold different numbers of samples: {counts}",
                               where=source)  # fmt: skip
    for _ in range(next(iter(counts.values()), 0)):
        yield {name: next(each) for name, each in items.items()} | {
            name: array for name, array in arrays.items() if name not in items
        }


def _checked(feed: Any, model: ir.Model, source: str) -> dict[str, NDArray[Any]]:
    """Return a feed as arrays of the right dtype, or say which input does not fit."""
    if not isinstance(feed, Mapping):
        raise CalibrationError(
            f"{source}: a feed is a dictionary of arrays, got {type(feed).__name__}", where=source
        )
    inputs = {value.name or "": value for value in model.graph.inputs}
    for what, names in (
        ("misses the input", [name for name in inputs if name not in feed]),
        ("holds the unknown array", [str(name) for name in feed if name not in inputs]),
    ):
        if names:
            raise CalibrationError(
                f"{source}: {what} {', '.join(map(repr, names))}; the model's inputs are "
                f"{', '.join(map(repr, inputs))}",
                where=names[0],
            )
    return {name: _array(feed[name], value, source) for name, value in inputs.items()}


def _array(given: Any, value: ir.Value, source: str) -> NDArray[Any]:
    array = np.asarray(given)
    name = value.name or ""
    if value.dtype not in (None, ir.DataType.STRING):
        wanted = np.dtype(value.dtype.numpy())
        if array.dtype != wanted:
            if not np.can_cast(array.dtype, wanted, "same_kind"):
                raise CalibrationError(
                    f"{source}: {name!r} is {array.dtype}; the model needs {wanted}", where=name
                )
            array = array.astype(wanted)
    if np.issubdtype(array.dtype, np.floating) and not np.all(np.isfinite(array)):
        raise CalibrationError(f"{source}: {name!r} holds NaN or infinite numbers", where=name)
    if value.shape is not None:
        shape = [size if isinstance(size, int) else None for size in value.shape]
        if len(shape) != array.ndim or any(
            want is not None and want != have for want, have in zip(shape, array.shape, strict=True)
        ):
            raise CalibrationError(
                f"{source}: {name!r} has the shape {list(array.shape)}; the model needs "
                f"{[str(size) for size in value.shape]}",
                where=name,
            )
    if not array.size:
        raise CalibrationError(f"{source}: {name!r} is empty", where=name)
    return array
