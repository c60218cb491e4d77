"""A node as its rule sees it: axes, sizes and constants of its operands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.operators import small_constant
from sparsec.ir.op_rules.rule import Axes, Axis
from sparsec.ir.verify import describe

if TYPE_CHECKING:
    from sparsec.ir.lattice import Lattice

Dim = int | str | None


class NodeView:
    """What a rule may look at, and how it says what it found.

    Parameters
    ----------
    node : onnx_ir.Node
    lattice : Lattice
        What is known of the graph so far; inputs of the node are in it.
    cyclic : bool
        Whether the rule can follow cyclic axes; else they are frozen before it sees them.
    """

    def __init__(self, node: ir.Node, lattice: Lattice, cyclic: bool = True) -> None:
        self._cyclic = cyclic
        self.node = node
        self.lattice = lattice
        self.atoms = lattice.atoms

    def __len__(self) -> int:
        """Return the number of inputs, absent ones included."""
        return len(self.node.inputs)

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def axes(self, index: int) -> Axes:
        """Return the axes of input ``index``."""
        value = self.node.inputs[index]
        assert value is not None
        axes = self.lattice.axes_of(value)
        if axes is None or self._cyclic or not any(axis and axis.cyclic for axis in axes):
            return axes
        cyclic = [axis for axis in axes if axis and axis.cyclic]
        self.freeze_all(cyclic, "cannot follow heads that are merged with the batch")
        return tuple(None if axis and axis.cyclic else axis for axis in axes)

    def known(self, index: int) -> Sequence[Axis | None]:
        """Return the axes of input ``index``; none if its rank is not known."""
        return self.axes(index) or ()

    def shape(self, index: int) -> tuple[Dim, ...] | None:
        """Return the shape of input ``index``: sizes, symbols, None where nothing is known."""
        value = self.node.inputs[index]
        return None if value is None else self.lattice.shape_of(value)

    def out_shape(self, index: int = 0) -> tuple[Dim, ...] | None:
        """Return the shape of output ``index``."""
        return self.lattice.shape_of(self.node.outputs[index])

    def size(self, index: int, axis: int) -> int | None:
        """Return the size of one axis of an input if it is a number."""
        shape = self.shape(index)
        size = None if shape is None else shape[axis]
        return size if isinstance(size, int) else None

    def constant(self, index: int) -> NDArray[Any] | None:
        """Return the array of a small constant input; None for everything else."""
        return small_constant(self.node.inputs[index]) if self.has(index) else None

    def is_weight(self, index: int) -> bool:
        """Whether the input is a constant, or computed from constants only."""
        return self.has(index) and self.node.inputs[index] in self.lattice.constants

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        found = self.node.attributes.get_int(name, default)
        return default if found is None else found

    def integers(self, name: str) -> list[int] | None:
        """Return an attribute that lists integers; None if it is absent."""
        found = self.node.attributes.get_ints(name)
        return None if found is None else list(found)

    def freeze(self, axis: Axis | None, why: str) -> None:
        """Say that the positions of an axis can never be removed: ``why`` ends the sentence."""
        if axis is not None:
            self.lattice.freeze(axis.atoms, self.node, f"{describe(self.node)} {why}")

    def freeze_all(self, axes: Iterable[Axis | None], why: str) -> None:
        """Freeze several axes for one reason."""
        for axis in axes:
            self.freeze(axis, why)

    def freeze_input(self, index: int, why: str) -> None:
        """Freeze every axis of an input."""
        if self.has(index):
            self.freeze_all(self.known(index), why)

    def tie(
        self, axes: Sequence[Axis | None], why: str = "combines it with an axis that is fixed"
    ) -> Axis | None:
        """Make axes of equal size shrink together; return one that stands for all of them.

        If one of them is fixed, the others are frozen. The result vanishes if every one does.
        """
        found = [axis for axis in axes if axis is not None]
        if not found:
            return None
        if len(found) < len(axes) or len({(axis.size, axis.cyclic) for axis in found}) > 1:
            self.freeze_all(found, why)
            return None
        for other in found[1:]:
            self.atoms.tie(found[0].atoms, other.atoms)
        return found[0].vanishing(all(axis.vanishes for axis in found))

    def made(self, axis: Axis | None) -> Axis | None:
        """Declare that this node's weights make the positions of an axis; return the axis."""
        if axis is not None:
            self.lattice.makers.append((self.node, axis.atoms))
        return axis

    def reads(self, index: int, axis: int, read: Axis | None) -> None:
        """Declare that weight ``index`` sums over ``read`` along one of its own axes."""
        value = self.node.inputs[index]
        if value is not None and read is not None:
            key = value, axis
            self.lattice.readers[key] = self.lattice.readers.get(key, True) and read.vanishes

    def mark(self, axis: Axis | None, kind: str) -> None:
        """Note what an axis is (``head``, ``head_dim``, ``state``), for passes that ask."""
        if axis is not None:
            self.lattice.marks.append((kind, axis.atoms))

    def never_zero(self, index: int) -> None:
        """Say that input ``index``, a variance or divisor, is not to be zeroed with its unit."""
        if self.has(index) and (value := self.node.inputs[index]) is not None:
            self.lattice.never_zero.add(value)

    def outputs(self, axes: Axes) -> list[Axes]:
        """Return ``axes`` for the first output; every other one is of the same axes too."""
        return [axes for _ in self.node.outputs]


def in_range(axis: int, rank: int) -> int:
    """Return a possibly negative axis counted from the front."""
    return axis + rank if axis < 0 else axis
