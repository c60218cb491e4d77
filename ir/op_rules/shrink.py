"""A node some of whose positions are gone: how a rule rewrites its attributes and constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.operators import small_constant
from sparsec.ir.cleanup.rewire import new_constant

if TYPE_CHECKING:
    from sparsec.ir.lattice import Lattice

Kept = NDArray[np.bool_]


class ShrinkView:
    """What the second half of a rule sees.

    Parameters
    ----------
    node : onnx_ir.Node
    lattice : Lattice
        Of the graph before the removal.
    gone : bool [atoms]
        Which atoms go.
    """

    def __init__(self, node: ir.Node, lattice: Lattice, gone: NDArray[np.bool_]) -> None:
        self.node = node
        self.lattice = lattice
        self._gone = gone

    def _kept(self, value: ir.Value | None) -> list[Kept | None]:
        axes = None if value is None else self.lattice.axes.get(value)
        return [None if axis is None else ~self._gone[axis.atoms] for axis in axes or ()]

    def kept(self, index: int = 0) -> list[Kept | None]:
        """Return for each axis of an input which positions stay; None where all do for sure."""
        return self._kept(self.node.inputs[index])

    def kept_out(self, index: int = 0) -> list[Kept | None]:
        """Return the same for an output."""
        return self._kept(self.node.outputs[index])

    def sizes_out(self) -> list[int | None]:
        """Return the new size of every axis of the output; None where it is not counted."""
        axes = self.lattice.axes.get(self.node.outputs[0]) or ()
        kept = self.kept_out()
        return [
            None if axis is None or axis.cyclic else count(mask)
            for axis, mask in zip(axes, kept, strict=True)
        ]

    def constant(self, index: int) -> NDArray[Any] | None:
        """Return the array of a small constant input; None for everything else."""
        has = index < len(self.node.inputs)
        return small_constant(self.node.inputs[index]) if has else None

    def set_constant(self, index: int, array: NDArray[Any]) -> None:
        """Replace a constant input; others that read the old one keep it."""
        old = self.node.inputs[index] if index < len(self.node.inputs) else None
        graph = self.node.graph
        assert graph is not None
        name = (old.name if old is not None else None) or f"{self.node.name}.{index}"
        if (
            old is not None
            and old.is_initializer()
            and len(old.uses()) == 1
            and not old.is_graph_output()
        ):
            old.const_value = ir.tensor(array, name=old.name)
            old.shape = ir.Shape(array.shape)
            return
        if index >= len(self.node.inputs):
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, new_constant(graph, f"{name}.shrunk", array))

    def set_integer(self, name: str, value: int) -> None:
        """Set an integer attribute."""
        self.node.attributes[name] = ir.AttrInt64(name, value)

    def set_integers(self, name: str, values: Sequence[int]) -> None:
        """Set an attribute that lists integers."""
        self.node.attributes[name] = ir.AttrInt64s(name, list(values))


def count(kept: Kept | None) -> int | None:
    """Return how many positions stay; None if the axis has none that could go."""
    return None if kept is None else int(kept.sum())


def shrinks(kept: Sequence[Kept | None]) -> bool:
    """Whether any position of any axis goes."""
    return any(mask is not None and not mask.all() for mask in kept)
