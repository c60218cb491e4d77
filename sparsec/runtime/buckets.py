"""Buckets: a dynamic axis padded to one of a few sizes, so that few programs serve all requests.

A CUDA graph holds for one set of shapes. A batch of 13 runs in the graph for 16 with three rows of
zeros, which are cut off again. That is right only where the rows of the axis do not see each other,
which no shape tells; :func:`check_padding` tries it.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import UsageError, did_you_mean

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], dict[str, NDArray[Any]]]
Axes = dict[str, list[tuple[str, int]]]  # axis name -> (input or output, index of the axis)


@dataclasses.dataclass(frozen=True, slots=True)
class Buckets:
    """Sizes that dynamic axes are padded to.

    Parameters
    ----------
    sizes : dict of str to tuple of int
        Ascending sizes by the name of the axis. A size above the largest is not padded.
    inputs, outputs : dict
        Where each of these axes is.
    """

    sizes: dict[str, tuple[int, ...]]
    inputs: Axes
    outputs: Axes

    @classmethod
    def of(
        cls,
        sizes: Mapping[str, Sequence[int]],
        inputs: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]],
    ) -> Buckets:
        """Make buckets for a model whose manifest describes ``inputs`` and ``outputs``.

        Raises
        ------
        UsageError
            If an axis is unknown, a size is no positive whole number, or an output has a dynamic
            axis of another name: nobody would know where to cut it.
        """
        into, out = _axes(inputs), _axes(outputs)
        for name, values in sizes.items():
            if name not in into:
                raise UsageError(
                    f"buckets: the model has no dynamic axis {name!r}; {did_you_mean(name, into)}"
                )
            if not values or any(type(size) is not int or size < 1 for size in values):
                raise UsageError(
                    f"buckets: {name!r} needs positive whole numbers, got {list(values)}"
                )
        for entry in outputs:
            strange = [d for d in entry["shape"] or () if isinstance(d, str) and d not in into]
            if entry["shape"] is None or strange:
                raise UsageError(
                    f"buckets: the output {entry['name']!r} has the shape {entry['shape']}; an axis "
                    "that no input has cannot be cut back. Load without buckets"
                )
        return cls({name: tuple(sorted(set(s))) for name, s in sizes.items()}, into, out)

    def run(self, run: Run, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run on padded inputs and cut the outputs."""
        grown = dict(feeds)
        cuts: dict[str, int] = {}
        for name, sizes in self.sizes.items():
            have = int(feeds[self.inputs[name][0][0]].shape[self.inputs[name][0][1]])
            at = bisect.bisect_left(sizes, have)
            if at == len(sizes) or sizes[at] == have:
                continue
            cuts[name] = have
            for key, axis in self.inputs[name]:
                grown[key] = _padded(grown[key], axis, sizes[at])
        results = run(grown)
        for name, have in cuts.items():
            for key, axis in self.outputs.get(name, ()):
                results[key] = np.take(results[key], range(have), axis=axis)
        return results

    def check_padding(self, run: Run, feeds: Arrays, tolerance: float) -> None:
        """Compare a run on ``feeds`` with one on each axis padded by one row.

        Parameters
        ----------
        tolerance : float
            Largest deviation, over the largest value of the output.

        Raises
        ------
        UsageError
            If padding an axis changes what the model computes for the others.
        """
        plain = run(feeds)
        for name in self.sizes:
            key, axis = self.inputs[name][0]
            longer = Buckets({name: (int(feeds[key].shape[axis]) + 1,)}, self.inputs, self.outputs)
            for output, array in longer.run(run, feeds).items():
                deviation = _deviation(array, plain[output])
                if not deviation <= tolerance:
                    raise UsageError(
                        f"buckets: padding the axis {name!r} changes the output {output!r} by "
                        f"{deviation:.2g} of its size: its rows see each other (attention, a mean). "
                        f"Load without buckets for {name!r}"
                    )


def _axes(entries: Sequence[Mapping[str, Any]]) -> Axes:
    axes: Axes = {}
    for entry in entries:
        for index, size in enumerate(entry["shape"] or ()):
            if isinstance(size, str):
                axes.setdefault(size, []).append((entry["name"], index))
    return axes


def _padded(array: NDArray[Any], axis: int, size: int) -> NDArray[Any]:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return np.pad(array, widths)


def _deviation(a: NDArray[Any], b: NDArray[Any]) -> float:
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else float("inf")
    scale = float(np.abs(b).max(initial=0.0)) or 1.0
    return float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) / scale
