"""What a graph will cost once units are gone, without removing them.

The multiply-accumulates of a product and the elements of a parameter are products of axis sizes; the
lattice says which positions of every axis go with which unit. So any choice is counted exactly in
well under a millisecond, which is what a search over thousands of choices needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.atoms import Labels
from sparsec.ir.cost import PRODUCTS, holds_parameters, product_axes, product_shapes
from sparsec.ir.groups import Group
from sparsec.ir.lattice import Lattice
from sparsec.ir.run import Feeds
from sparsec.ir.sites import weight_sites


class Remaining:
    """Counts what is left of a graph while units go; made by :meth:`macs` and the like.

    Attributes
    ----------
    gone : bool [atoms]
        Which atom classes have gone so far; set by :meth:`remove`.
    """

    def __init__(self, lattice: Lattice) -> None:
        self._lattice = lattice
        # One more, always there, for the places of leaves that an atom does not have.
        self.gone = np.zeros(len(lattice.atoms) + 1, np.bool_)
        self._axes: list[Labels] = []
        self._numbers: dict[bytes, int] = {}
        self._of_value: dict[tuple[ir.Value, int], int] = {}
        for value, axes in lattice.axes.items():
            for index, axis in enumerate(axes or ()):
                if axis is not None and axis.size:
                    self._of_value[value, index] = self._number(lattice.atoms.leaves(axis.atoms))
        self._touched: dict[int, list[int]] = {}
        for number, leaves in enumerate(self._axes):
            for leaf in np.unique(leaves[leaves >= 0]):
                self._touched.setdefault(int(leaf), []).append(number)
        self._sizes = np.array([len(leaves) for leaves in self._axes], np.int64)
        self._kept = self._sizes.copy()
        self._count([])

    @classmethod
    def macs(cls, lattice: Lattice, feeds: Feeds | None) -> Remaining:
        """Count multiply-accumulates, as :func:`~sparsec.ir.cost.graph_cost` does.

        Parameters
        ----------
        lattice : Lattice
        feeds : mapping of str to array, optional
            One valid input; without it products of unknown shape count nothing.
        """
        self = cls(lattice)
        shapes = product_shapes(lattice.model, feeds)
        terms = []
        for node in lattice.model.graph:
            axes = product_axes(node, shapes) if node.op_type in PRODUCTS else None
            if axes is not None:
                work = math.prod(shapes[value.name or ""][index] for value, index in axes)
                terms.append((work, self._moving(axes)))
        self._count(terms)
        return self

    @classmethod
    def params(cls, lattice: Lattice) -> Remaining:
        """Count parameters, as :func:`~sparsec.ir.cost.graph_cost` does."""
        self = cls(lattice)
        model = lattice.model
        weights = {site.weight for site in weight_sites(model)}
        terms = []
        for graph in (model.graph, *model.graph.subgraphs()):
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is not None and (value in weights or holds_parameters(tensor)):
                    axes = self._moving((value, index) for index in range(len(tensor.shape)))
                    terms.append((tensor.size, axes))
        self._count(terms)
        return self

    @classmethod
    def units(cls, lattice: Lattice, groups: Iterable[Group]) -> Remaining:
        """Count the units of some groups."""
        self = cls(lattice)
        classes = [lattice.atoms.find(group.units) for group in groups]
        self._axes = [*self._axes, *(each[:, None] for each in classes)]
        terms = []
        for number, each in enumerate(classes, len(self._sizes)):
            for leaf in each.tolist():
                self._touched.setdefault(leaf, []).append(number)
            terms.append((len(each), [number]))
        self._sizes = np.array([len(leaves) for leaves in self._axes], np.int64)
        self._kept = self._sizes.copy()
        self._count(terms)
        return self

    def _count(self, terms: list[tuple[int, list[int]]]) -> None:
        """Set what is counted: a sum of constants, each scaled by how much is left of some axes."""
        self._fixed = sum(constant for constant, axes in terms if not axes)
        moving = [(constant, axes) for constant, axes in terms if axes]
        self._constants = np.array([constant for constant, _ in moving], np.float64)
        width = max((len(axes) for _, axes in moving), default=1)
        # The last of the fractions is one: it fills up terms with fewer axes.
        rows = [[*axes, *[-1] * (width - len(axes))] for _, axes in moving]
        self._terms = np.array(rows, np.int64).reshape(-1, width)

    def _number(self, leaves: Labels) -> int:
        """Return the number of an axis with these atoms; axes with the same ones share it."""
        key = leaves.tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self._axes)
            self._axes.append(leaves)
        return self._numbers[key]

    def _moving(self, axes: Iterable[tuple[ir.Value, int]]) -> list[int]:
        return [self._of_value[axis] for axis in axes if axis in self._of_value]

    def total(self) -> int:
        """Return what is left now."""
        return self._total(self._kept)

    def without(self, units: Labels) -> int | None:
        """Return what would be left without these units too; None if an axis would be empty.

        Parameters
        ----------
        units : int [n]
            One atom of each.
        """
        after = self._after(units)
        return None if after is None else self._total(after)

    def remove(self, units: Labels) -> None:
        """Let units go.

        Raises
        ------
        ValueError
            If an axis would be empty.
        """
        after = self._after(units)
        if after is None:
            raise ValueError("an axis would be left without a position")
        self.gone[self._lattice.atoms.find(units)] = True
        self._kept = after

    def restart(self) -> None:
        """Bring every unit back."""
        self.gone[:] = False
        self._kept = self._sizes.copy()

    def _after(self, units: Labels) -> NDArray[np.int64] | None:
        classes = self._lattice.atoms.find(units)
        before = self.gone[classes]
        self.gone[classes] = True
        kept = self._kept.copy()
        for number in {n for each in classes.tolist() for n in self._touched.get(each, ())}:
            kept[number] = np.count_nonzero(~self.gone[self._axes[number]].any(axis=1))
        self.gone[classes] = before
        return kept if kept.all() else None

    def _total(self, kept: NDArray[np.int64]) -> int:
        fractions = np.append(kept / np.maximum(self._sizes, 1), 1.0)
        return self._fixed + round(float(self._constants @ fractions[self._terms].prod(axis=1)))
