"""Where the units of pruning groups lie in the stored tensors, and their weights as rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.groups import Group, Groups
from sparsec.ir.memory import release

Rows: TypeAlias = NDArray[np.floating]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Place:
    """One axis of a tensor, as far as the units of one group lie along it.

    Parameters
    ----------
    group : int
        Which of the chosen groups.
    axis : int
    positions : int [n]
        Along the axis.
    units : int [n]
        The unit, numbered within its group, that each position belongs to.
    size : int
        How many units the group has.
    """

    group: int
    axis: int
    positions: NDArray[np.int64]
    units: NDArray[np.int64]
    size: int

    def of(self, array: NDArray[Any]) -> Rows:
        """Return one row [units, n] for each unit: all numbers at its positions, in float32 or wider.

        Units with fewer positions than others are filled up with zeros.
        """
        moved = np.moveaxis(array, self.axis, 0)
        order = np.argsort(self.units, kind="stable")
        picked = moved[self.positions[order]].astype(np.promote_types(array.dtype, np.float32))
        picked = picked.reshape(len(order), -1)
        counts = np.bincount(self.units, minlength=self.size)
        if (counts == counts[0]).all():
            return np.asarray(picked.reshape(self.size, -1))
        wide = np.zeros((self.size, int(counts.max()), picked.shape[1]), picked.dtype)
        sorted_units = self.units[order]
        rank = np.arange(len(order)) - np.concatenate([[0], np.cumsum(counts)])[sorted_units]
        wide[sorted_units, rank] = picked
        return wide.reshape(self.size, -1)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Slices:
    """The tensors that hold the units of some groups.

    Parameters
    ----------
    groups : Groups
    chosen : sequence of Group
        Those of them that are looked at.
    """

    groups: Groups
    chosen: Sequence[Group]

    @property
    def model(self) -> ir.Model:
        """The graph that the groups are of."""
        return self.groups.lattice.model

    def subset(self, numbers: Sequence[int]) -> Slices:
        """Return the same for some of the chosen groups."""
        return Slices(self.groups, [self.chosen[number] for number in numbers])

    def places(self, kind: str = "weights") -> Iterator[tuple[ir.Value, list[Place]]]:
        """Yield every tensor that holds units, with where; in the order in which the graph reads them.

        Parameters
        ----------
        kind : str
            ``weights``: of two axes or more; ``scales``: of BatchNormalization; ``all``: biases too.
        """
        lattice = self.groups.lattice
        number, unit = self._owners()
        for value in self._in_order():
            tensor = value.const_value
            if tensor is None or not tensor.dtype.is_floating_point():
                continue
            if kind == "weights" and len(tensor.shape) < 2:
                continue
            if kind == "scales" and value not in lattice.scales:
                continue
            places = []
            for axis, labels in enumerate(lattice.axes.get(value) or ()):
                if labels is None:
                    continue
                leaves = lattice.atoms.leaves(labels.atoms)
                owners = np.where(leaves >= 0, number[np.maximum(leaves, 0)], -1)
                for owner in np.unique(owners[owners >= 0]):
                    column = int(np.argmax((owners == owner).any(axis=0)))
                    where = np.flatnonzero(owners[:, column] == owner)
                    units = unit[leaves[where, column]]
                    size = self.chosen[owner].size
                    places.append(Place(int(owner), axis, where, units, size))
            if places:
                yield value, places

    def tensors(self, kind: str = "weights") -> Iterator[tuple[NDArray[Any], list[Place]]]:
        """Yield the same with the numbers of every tensor, one in memory at a time."""
        for value, places in self.places(kind):
            tensor = value.const_value
            assert tensor is not None
            yield tensor.numpy(), places
            release(tensor)

    def _in_order(self) -> list[ir.Value]:
        """Return the initializers in the order in which nodes read them: who makes a unit is first."""
        graph = self.model.graph
        read = (value for node in graph for value in node.inputs if value is not None)
        every = dict.fromkeys((*read, *graph.initializers.values()))
        return [value for value in every if value.is_initializer()]

    def _owners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for every atom class the number of its group (-1: none), and its place in it."""
        number = np.full(len(self.groups.lattice.atoms), -1)
        unit = np.zeros(len(self.groups.lattice.atoms), np.int64)
        for index, group in enumerate(self.chosen):
            number[group.units] = index
            unit[group.units] = np.arange(group.size)
        return number, unit
