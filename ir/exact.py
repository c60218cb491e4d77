"""Units that can go without changing what the graph returns.

Removing a unit is zeroing its weights (:mod:`sparsec.ir.edits`), so it changes nothing where they
are zero already, or where nobody looks:

- *zero*: all weights that make the unit are zero, and what becomes of the zero on the way to every
  reader still is one;
- *unread*: all weights that read it are zero, and nothing else does;
- *duplicate*: another unit has the same weights. Readers take that one twice, then this one goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.atoms import Labels
from sparsec.ir.edits import alike, replace_array
from sparsec.ir.groups import Group, Groups
from sparsec.ir.memory import release

Bools = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Slices:
    """Where a unit of a group lies along one axis of a stored tensor.

    Parameters
    ----------
    value : onnx_ir.Value
    axis : int
    positions : int [units, n]
        In increasing order; every unit has equally many.
    """

    value: ir.Value
    axis: int
    positions: Labels

    def rows(self) -> NDArray[np.floating]:
        """Return the weights of every unit, one row each; a copy."""
        tensor = self.value.const_value
        assert tensor is not None
        moved = np.moveaxis(tensor.numpy(), self.axis, 0)
        rows = moved[self.positions].reshape(len(self.positions), -1)
        release(tensor)
        return np.asarray(rows)


def slices_of(groups: Groups, units: Labels) -> Iterator[Slices]:
    """Yield where ``units``, which are alike, lie in the stored tensors of the graph."""
    lattice = groups.lattice
    for value in lattice.model.graph.initializers.values():
        for index, axis in enumerate(lattice.axes.get(value) or ()):
            if axis is None:
                continue
            leaves = lattice.atoms.leaves(axis.atoms)
            holds = [np.flatnonzero((leaves == unit).any(axis=1)) for unit in units]
            if holds[0].size:
                yield Slices(value, index, np.stack(holds))


def idle_units(groups: Groups, group: Group) -> tuple[Labels, Labels]:
    """Return the units of a group that are zero, and the others that nobody reads."""
    lattice = groups.lattice
    summed = _mask(groups, lattice.summed)
    zero: list[Labels] = []
    unread: list[Labels] = []
    for units in alike(lattice, group.units):
        made, read = np.ones(len(units), np.bool_), np.ones(len(units), np.bool_)
        makers = readers = 0
        faithful = True
        for part in slices_of(groups, units):
            is_zero = ~part.rows().any(axis=1)
            if (part.value, part.axis) in lattice.readers:
                read &= is_zero
                readers += 1
                faithful = faithful and lattice.readers[part.value, part.axis]
            elif part.value not in lattice.never_zero:
                made &= is_zero
                makers += 1
        if makers and faithful:
            zero.append(units[made])
        if readers:
            unread.append(units[read & ~summed[units]])
    found = np.concatenate([np.empty(0, np.int64), *zero])
    others = np.concatenate([np.empty(0, np.int64), *unread])
    return found, np.setdiff1d(others, found)


def merge_duplicates(groups: Groups, group: Group, spared: Labels) -> Labels:
    """Let readers take one unit for all that equal it, in place, and return the units left unread.

    Parameters
    ----------
    groups : Groups
        Its lattice stays valid: no shape changes.
    group : Group
    spared : int [n]
        Units that go anyway.
    """
    lattice = groups.lattice
    crossed = _mask(groups, lattice.summed) | _crossing(groups)
    dropped: list[int] = []
    for units in alike(lattice, np.setdiff1d(group.units, spared)):
        if crossed[units].any():
            continue
        parts = list(slices_of(groups, units))
        readers = [part for part in parts if (part.value, part.axis) in lattice.readers]
        makers = [part for part in parts if (part.value, part.axis) not in lattice.readers]
        both = {part.value for part in readers} & {part.value for part in makers}
        if not makers or not readers or both or not all(map(_adds_up, readers)):
            continue
        rows = np.concatenate([part.rows().astype(np.float64) for part in makers], axis=1)
        _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        keep = first[which.reshape(-1)]
        pairs = [(int(k), i) for i, k in enumerate(keep) if k != i]
        for part in readers:
            _add(part, pairs)
        dropped += [int(units[drop]) for _, drop in pairs]
    return np.array(dropped, np.int64)


def _adds_up(part: Slices) -> bool:
    """Whether slices of a tensor can be added: a sum of small integers may not fit."""
    tensor = part.value.const_value
    return tensor is not None and tensor.dtype.is_floating_point()


def _add(part: Slices, pairs: list[tuple[int, int]]) -> None:
    """Add the slices of duplicates to those of the units that stay for them."""
    tensor = part.value.const_value
    if tensor is None or not pairs:
        return
    array = tensor.numpy().copy()
    moved = np.moveaxis(array, part.axis, 0)
    for keep, drop in pairs:
        moved[part.positions[keep]] += moved[part.positions[drop]]
    replace_array(part.value, array)


def _mask(groups: Groups, rows: list[Labels]) -> Bools:
    """Return which atom classes lie in any of ``rows``."""
    mask = np.zeros(len(groups.lattice.atoms), np.bool_)
    for labels in rows:
        leaves = groups.lattice.atoms.leaves(labels)
        mask[leaves[leaves >= 0]] = True
    return mask


def _crossing(groups: Groups) -> Bools:
    """Return which atom classes are factors of positions that have others: heads, shuffles."""
    mask = np.zeros(len(groups.lattice.atoms), np.bool_)
    for axes in groups.lattice.axes.values():
        for axis in axes or ():
            if axis is not None:
                leaves = groups.lattice.atoms.leaves(axis.atoms)
                several = leaves[(leaves >= 0).sum(axis=1) > 1]
                mask[several[several >= 0]] = True
    return mask
