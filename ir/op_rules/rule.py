"""What an operator rule is: how the axes of a node's operands hang together.

A rule is a function of a :class:`NodeView`. It returns the axes of every output, in terms of the
atoms of the inputs; ties atoms that must come and go together; declares the atoms that its weights
*make*; and freezes what it cannot follow. A second function, if there is one, rewrites attributes
and constants of the node once positions are gone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.atoms import Atoms, Labels

if TYPE_CHECKING:
    from sparsec.ir.op_rules.shrink import ShrinkView
    from sparsec.ir.op_rules.view import NodeView


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """One axis whose positions can be told apart.

    Parameters
    ----------
    atoms : int [size]
    vanishes : bool
        Whether the value is zero at a position whose atom was removed, once the weights of that
        atom are zero. Sums over the axis rely on it.
    cyclic : bool
        Whether the axis holds the positions again and again, an unknown number of times: heads that
        a Reshape has merged with the batch.
    """

    atoms: Labels
    vanishes: bool = True
    cyclic: bool = False

    @property
    def size(self) -> int:
        """Number of positions."""
        return int(self.atoms.size)

    def pick(self, index: NDArray[np.int64] | slice) -> Axis:
        """Return the axis that holds these positions only."""
        return Axis(self.atoms[index], self.vanishes)

    def fading(self, vanishes: bool) -> Axis:
        """Return the axis with another word on whether it vanishes; it cannot win that back."""
        return self.vanishing(self.vanishes and vanishes)

    def vanishing(self, vanishes: bool) -> Axis:
        """Return the axis with a new word on whether it vanishes."""
        return Axis(self.atoms, vanishes, self.cyclic)


Axes: TypeAlias = "tuple[Axis | None, ...] | None"
"""Axes of a value. None for an axis that stays as it is; for all of them, a value of unknown rank."""

Couple: TypeAlias = "Callable[[NodeView], Sequence[Axes]]"
Shrink: TypeAlias = "Callable[[ShrinkView], None]"


@dataclasses.dataclass(frozen=True, slots=True)
class OpRule:
    """The rule of one operator.

    Parameters
    ----------
    couple : callable
        Given a view of a node, ties its atoms and returns the axes of every output.
    shrink : callable, optional
        Given a node some of whose positions are gone, rewrites its attributes and constants.
    about : str
        What of the axes the rule follows, for the table of operators.
    cyclic : bool
        Whether the rule also holds for cyclic axes; to all others they are fixed.
    """

    couple: Couple
    shrink: Shrink | None = None
    about: str = ""
    cyclic: bool = False


def merge(atoms: Atoms, axes: Sequence[Axis | None], sizes: Sequence[int]) -> Axis | None:
    """Return the axis that a Reshape makes of several neighbouring ones, outer first.

    Examples
    --------
    >>> atoms = Atoms()
    >>> channels = Axis(atoms.fresh(2))
    >>> merge(atoms, [channels, None], [2, 3]).atoms.tolist()
    [0, 0, 0, 1, 1, 1]
    """
    labels: Labels | None = None
    vanishes = True
    outer = 1
    for axis, size in zip(axes, sizes, strict=True):
        if axis is not None:
            vanishes = vanishes and axis.vanishes
        if axis is None:
            labels = None if labels is None else np.repeat(labels, size)
        elif labels is None:
            labels = np.tile(axis.atoms, outer)
        else:
            inner = np.tile(axis.atoms, labels.size)
            labels = atoms.product(np.repeat(labels, size), inner)
        outer *= size
    return None if labels is None else Axis(labels, vanishes)
