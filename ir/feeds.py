"""Inputs for calibration: from a file, from a function, or random ones that the model accepts.

``FILE.npz`` holds arrays named as the graph inputs. With one more axis than the input, each entry
along axis 0 is one full feed; with as many axes, the samples are stacked on axis 0 and cut to the
model's batch. An array that makes one feed only serves all (a sample rate, a state of zeros).
``module:function`` names a function without parameters that returns an iterable of feeds; calling
it runs its code.
"""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.errors import CalibrationError, did_you_mean
from sparsec.ir.random_feeds import RandomFeeds as RandomFeeds
from sparsec.ir.random_feeds import random_feeds as random_feeds
from sparsec.ir.run import Feeds

LABELS = "labels"
"""The array of an evaluation file that is no input."""


def load_feeds(source: str, model: ir.Model) -> list[Feeds]:
    """Load the feeds that ``source`` names and check them against the model's inputs.

    Parameters
    ----------
    source : str
        ``FILE.npz`` or ``module:function``.
    model : onnx_ir.Model

    Returns
    -------
    list of feeds
        At least one.

    Raises
    ------
    CalibrationError
        If the source is missing or damaged, or an array does not fit; file and array are named.
    """
    module, colon, _ = source.rpartition(":")
    if colon and module and not Path(source).is_file() and not source.endswith(".npz"):
        return _from_function(source, model)
    path = Path(source)
    arrays = read_npz(path)
    inputs = {value.name or "": value for value in model.graph.inputs}
    if unknown := sorted(arrays.keys() - inputs.keys() - {LABELS}):
        hint = did_you_mean(unknown[0], inputs)
        raise CalibrationError(
            f"{path}: {unknown[0]!r} is no input of the model; {hint}", where=str(path)
        )
    if missing := [name for name in inputs if name not in arrays]:
        raise CalibrationError(
            f"{path}: no array for the input {missing[0]!r}; needed one for each of "
            f"{', '.join(inputs)}",
            where=str(path),
        )
    items = {name: _items(arrays[name], value, f"{path}: {name}") for name, value in inputs.items()}
    counts = {name: len(each) for name, each in items.items()}
    count = max(counts.values())
    if odd := [name for name, number in counts.items() if number not in (1, count)]:
        raise CalibrationError(
            f"{path}: the array {odd[0]!r} makes {counts[odd[0]]} feeds, another makes {count}",
            where=str(path),
        )
    return [{name: each[i % len(each)] for name, each in items.items()} for i in range(count)]


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz`` file; pickled objects are refused.

    Raises
    ------
    CalibrationError
        If the file is missing, truncated or no ``.npz``, or an array holds objects.
    """
    where = str(path)
    if not path.is_file():
        raise CalibrationError(
            f"{path}: no such file; needed FILE.npz or module:function", where=where
        )
    if not zipfile.is_zipfile(path):
        raise CalibrationError(f"{path}: not an .npz file, or a truncated one", where=where)
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                try:
                    arrays[name] = archive[name]
                except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
                    raise CalibrationError(
                        f"{path}: the array {name!r} cannot be read: {error}", where=where
                    ) from error
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise CalibrationError(f"{path}: cannot be read: {error}", where=where) from error
    if not arrays:
        raise CalibrationError(f"{path}: there is no array in it", where=where)
    return arrays


def import_function(source: str, option: str) -> Callable[..., Any]:
    """Import ``module:function``, also from the current folder. This runs the module's code.

    Parameters
    ----------
    source : str
    option : str
        The option that it was given to, for messages: ``"--calib"``.

    Raises
    ------
    CalibrationError
        If there is no such function, or its module fails.
    """
    module_name, _, attribute = source.rpartition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's: anything may go wrong in it
        raise CalibrationError(
            f"{option} {source}: cannot import {module_name!r}: {type(error).__name__}: {error}",
            where=source,
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        reason = f"{option} {source}: {module_name} has no function {attribute!r}"
        raise CalibrationError(reason, where=source)
    return function  # type: ignore[no-any-return]


def _from_function(source: str, model: ir.Model) -> list[Feeds]:
    """Call the user's function and check every feed it returns."""
    function = import_function(source, "--calib")
    try:
        returned = list(function())
    except Exception as error:  # the function is the user's
        raise CalibrationError(
            f"--calib {source}: {type(error).__name__}: {error}", where=source
        ) from error
    inputs = {value.name or "": value for value in model.graph.inputs}
    feeds: list[Feeds] = []
    for index, feed in enumerate(returned):
        where = f"{source}: feed {index}"
        if not isinstance(feed, Mapping) or set(feed) != set(inputs):
            got = sorted(map(str, feed)) if isinstance(feed, Mapping) else type(feed).__name__
            raise CalibrationError(
                f"{where}: needed a mapping of the inputs {sorted(inputs)}, got {got}", where=source
            )
        feeds.append(
            {
                name: _fit(np.asarray(feed[name]), v, f"{where}: {name}")
                for name, v in inputs.items()
            }
        )
    if not feeds:
        raise CalibrationError(f"{source}: the function returned no feeds", where=source)
    return feeds


def _items(array: NDArray[Any], value: ir.Value, where: str) -> list[NDArray[Any]]:
    """Cut an array of a file into arrays for one feed each."""
    rank = None if value.shape is None else len(value.shape)
    if array.size == 0:
        raise CalibrationError(
            f"{where}: the array is empty, shape {list(array.shape)}", where=where
        )
    if rank is None or array.ndim == rank == 0:
        return [_fit(array, value, where)]
    if array.ndim == rank + 1:
        return [_fit(item, value, where) for item in array]
    if array.ndim != rank:
        raise CalibrationError(
            f"{where}: needed {rank} axes, or {rank + 1} for one feed an entry, got shape "
            f"{list(array.shape)}",
            where=where,
        )
    assert value.shape is not None
    first = value.shape[0]
    batch = first if isinstance(first, int) and first > 0 else 1
    if len(array) < batch:
        raise CalibrationError(
            f"{where}: needed at least the model's batch of {batch} on axis 0, got {len(array)}",
            where=where,
        )
    starts = range(0, len(array) - batch + 1, batch)
    return [_fit(array[start : start + batch], value, where) for start in starts]


def _fit(array: NDArray[Any], value: ir.Value, where: str) -> NDArray[Any]:
    """Return one input in the model's type, or say why it is none."""
    if value.dtype is not None and value.dtype != ir.DataType.STRING:
        wanted = value.dtype.numpy()
        if not np.can_cast(array.dtype, wanted, casting="same_kind"):
            raise CalibrationError(f"{where}: needed {wanted}, got {array.dtype}", where=where)
        array = array.astype(wanted, copy=False)
    if value.shape is not None:
        sizes = [size if isinstance(size, int) and size > 0 else None for size in value.shape]
        fits = len(sizes) == array.ndim and all(
            size in (None, got) for size, got in zip(sizes, array.shape, strict=True)
        )
        if not fits:
            shown = ["?" if size is None else size for size in sizes]
            raise CalibrationError(
                f"{where}: needed shape {shown}, got {list(array.shape)}", where=where
            )
    if array.size == 0:
        raise CalibrationError(
            f"{where}: the array is empty, shape {list(array.shape)}", where=where
        )
    if np.issubdtype(array.dtype, np.floating) and not np.all(np.isfinite(array)):
        raise CalibrationError(f"{where}: it holds NaN or infinite values", where=where)
    return array
