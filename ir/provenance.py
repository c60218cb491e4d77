"""What a removal makes of the note that says where in a torch module a weight comes from.

The note (``sparsec.param``) holds the torch shape and the steps from there to the graph's tensor. Both
count positions, so both must be written anew when positions go; else nobody finds the way back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.views import PARAM

Shape = tuple[int, ...]


def note_removal(value: ir.Value, before: Shape, axes: Mapping[int, NDArray[np.int64]]) -> None:
    """Write the note of ``value`` anew.

    Parameters
    ----------
    value : onnx_ir.Value
        Without a note, nothing happens.
    before : tuple of int
        The shape of its tensor before the removal.
    axes : mapping of int to int [n]
        Which positions went, by axis.
    """
    text = value.metadata_props.get(PARAM)
    note = json.loads(text) if text is not None else None
    if note is None or note.get("shape") is None:
        return
    shapes = restated(tuple(note["shape"]), note["transform"], before, axes)
    if shapes is None:
        del note["shape"]  # what is left is no block of the torch tensor
    else:
        note["shape"] = list(shapes[0])
        note["transform"] = [
            [kind, list(numbers) if kind == "transpose" else list(after)]
            for (kind, numbers), after in zip(note["transform"], shapes[1:], strict=True)
        ]
    value.metadata_props[PARAM] = json.dumps(note)


def restated(
    shape: Shape,
    transform: Sequence[tuple[str, Sequence[int]]],
    before: Shape,
    axes: Mapping[int, NDArray[np.int64]],
) -> list[Shape] | None:
    """Return the torch shape, and the shape after every step, of what is left.

    None if what is left is no full block of one of them.

    Examples
    --------
    >>> restated((6, 1, 3, 3), [("reshape", (6, 9))], (6, 9), {0: np.array([1, 2])})
    [(4, 1, 3, 3), (4, 9)]
    >>> restated((6, 8), [("transpose", (1, 0))], (8, 6), {0: np.array([5])})
    [(6, 7), (7, 6)]
    """
    stages = [shape]
    for kind, numbers in transform:
        last = stages[-1]
        stages.append(tuple(last[i] for i in numbers) if kind == "transpose" else tuple(numbers))
    kept = np.ones(before, np.bool_)
    for axis, positions in axes.items():
        kept[(slice(None),) * axis + (positions,)] = False
    left = int(kept.sum())
    found = [_block(kept)]
    for (kind, numbers), stage in zip(reversed(transform), reversed(stages[:-1]), strict=True):
        kept = kept.transpose(np.argsort(numbers)) if kind == "transpose" else kept.reshape(stage)
        found.insert(0, _block(kept))
    return found if all(int(np.prod(block)) == left for block in found) else None


def _block(kept: NDArray[Any]) -> Shape:
    """Return how many positions of every axis are left."""
    every = range(kept.ndim)
    return tuple(int(kept.any(axis=tuple(a for a in every if a != axis)).sum()) for axis in every)
