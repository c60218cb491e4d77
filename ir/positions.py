"""Where operators that pick and join put the positions of an axis, and whether an order agrees with it.

A unit may lie on an axis several times, as when a Concat repeats what a Split took apart. Then it is
not enough that an axis holds every unit as often as before: the second occurrence on one axis must be
the second occurrence wherever it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.operators import is_standard
from sparsec.ir.lattice import Lattice
from sparsec.ir.op_rules.select import bounds
from sparsec.ir.op_rules.view import NodeView, in_range

Positions = NDArray[np.int64]
# One value, the positions of it, another value, and the same positions there; on the same axis.
Link = tuple[ir.Value, int, Positions, ir.Value, Positions]


def links(lattice: Lattice) -> Iterator[Link]:
    """Yield what Gather, Slice, Split and Concat carry from axis to axis."""
    for node in lattice.followed:
        view = NodeView(node, lattice)
        if is_standard(node, "Gather"):
            yield from _gathered(view)
        elif is_standard(node, "Slice"):
            yield from _sliced(view)
        elif is_standard(node, "Split", "Concat"):
            yield from _laid_out(view)


def _gathered(view: NodeView) -> Iterator[Link]:
    data, out = view.node.inputs[0], view.node.outputs[0]
    axis = in_range(view.integer("axis", 0), len(view.known(0)))
    index, length = view.constant(1), view.size(0, axis)
    if data is not None and index is not None and index.ndim == 1 and length:
        yield data, axis, index.astype(np.int64) % length, out, np.arange(index.size)


def _sliced(view: NodeView) -> Iterator[Link]:
    data, out = view.node.inputs[0], view.node.outputs[0]
    for axis, cut in (bounds(view) or {}).items():
        if data is not None and cut is not None and (length := view.size(0, axis)):
            taken = np.arange(length)[cut]
            yield data, axis, taken, out, np.arange(taken.size)


def _laid_out(view: NodeView) -> Iterator[Link]:
    """Yield the parts that a Split takes off its operand, or that a Concat puts together."""
    joins = view.node.op_type == "Concat"
    whole = view.node.outputs[0] if joins else view.node.inputs[0]
    parts = view.node.inputs if joins else view.node.outputs
    axis = in_range(view.integer("axis", 0), len(view.known(0)))
    start = 0
    for part in parts:
        shape = None if part is None else view.lattice.shape_of(part)
        size = None if shape is None else shape[axis]
        if part is None or whole is None or not isinstance(size, int):
            return
        yield whole, axis, np.arange(start, start + size), part, np.arange(size)
        start += size


def agrees(lattice: Lattice, order_of: Callable[[NDArray[np.int64]], Positions]) -> bool:
    """Whether new orders of all axes carry positions that are the same into each other.

    Parameters
    ----------
    lattice : Lattice
    order_of : callable
        Given the atoms of an axis, returns which old position each new one holds.
    """
    for one, axis, here, other, there in links(lattice):
        axes = [(lattice.axes.get(value) or (None,) * (axis + 1))[axis] for value in (one, other)]
        if axes[0] is None or axes[1] is None:
            continue
        first, second = (order_of(found.atoms) for found in axes if found is not None)
        pairs = set(zip(here.tolist(), there.tolist(), strict=True))
        moved = zip(first[here].tolist(), second[there].tolist(), strict=True)
        if any(pair not in pairs for pair in moved):
            return False
    return True
