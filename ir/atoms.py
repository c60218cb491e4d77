"""Atoms: what the positions of every axis are made of, and which of them shrink together.

Each position of an axis carries an *atom*. Two positions with the same atom come and go together: a
residual Add ties the atoms of its operands, a Concat lists those of its parts, a Slice picks some.
An atom may be the *product* of two others: position ``h * d + i`` of an axis that a Reshape splits
into heads and their coordinates is there as long as head ``h`` and coordinate ``i`` both are. So a
position can be removed for either reason, and what is left always is a full rectangle.

Atoms live in a union-find over numpy arrays: an axis of any length costs a few array operations.
Tying or freezing more than needed only takes choices away; it can never make a removal wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]

_NONE = -1
_MAX_DEPTH = 16  # products within products: a Reshape to 16 axes


class Atoms:
    """All atoms of one graph.

    Examples
    --------
    >>> atoms = Atoms()
    >>> conv, shortcut = atoms.fresh(3), atoms.fresh(3)
    >>> atoms.tie(conv, shortcut)
    >>> atoms.freeze(shortcut[:1], "the graph output 'y'")
    >>> print(atoms.reason(conv[0]), atoms.reason(conv[1]))
    the graph output 'y' None
    >>> atoms.gone(conv[1:2])[shortcut].tolist()
    [False, True, False]
    """

    def __init__(self) -> None:
        self._count = 0
        self._parent = np.empty(1024, np.int64)
        self._left = np.empty(1024, np.int64)
        self._right = np.empty(1024, np.int64)
        self._frozen = np.empty(1024, np.int64)
        self._reasons: list[str] = []

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int) -> Labels:
        """Return ``count`` new atoms, tied to nothing."""
        start, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            room = max(self._count, 2 * len(self._parent)) - len(self._parent)
            for name in ("_parent", "_left", "_right", "_frozen"):
                setattr(self, name, np.concatenate([getattr(self, name), np.empty(room, np.int64)]))
        new = np.arange(start, self._count)
        self._parent[new] = new
        self._left[new] = self._right[new] = self._frozen[new] = _NONE
        return new

    def product(self, left: Labels, right: Labels) -> Labels:
        """Return one new atom for each pair: there as long as both are."""
        new = self.fresh(left.size)
        self._left[new], self._right[new] = left.reshape(-1), right.reshape(-1)
        return new.reshape(left.shape)

    def find(self, labels: Labels) -> Labels:
        """Return the atom that stands for each atom's class."""
        root = self._parent[labels]
        while True:
            above = self._parent[root]
            if np.array_equal(above, root):
                break
            root = above
        self._parent[labels] = root
        return root

    def tie(self, one: Labels, other: Labels) -> None:
        """Make two equally long rows of atoms come and go together, position by position.

        Two products are tied factor by factor. That is exact where both split their axis at the same
        place, and ties more than needed, soundly, where they do not.
        """
        pending = [(one.reshape(-1), other.reshape(-1))]
        while pending:
            a, b = pending.pop()
            while True:
                a, b = self.find(a), self.find(b)
                differ = a != b
                if not differ.any():
                    break
                a, b = a[differ], b[differ]
                pending += self._hook(np.maximum(a, b), np.minimum(a, b))

    def _hook(self, high: Labels, low: Labels) -> list[tuple[Labels, Labels]]:
        """Put each class ``high`` under the smallest of its partners; return what that ties."""
        children, where = np.unique(high, return_inverse=True)
        parents = np.full(children.size, np.iinfo(np.int64).max)
        np.minimum.at(parents, where, low)
        self._parent[children] = parents
        pass_on = (self._frozen[children] >= 0) & (self._frozen[parents] < 0)
        self._frozen[parents[pass_on]] = self._frozen[children[pass_on]]
        made = self._left[children] >= 0
        children, parents = children[made], parents[made]
        plain = self._left[parents] < 0
        first, index = np.unique(parents[plain], return_index=True)
        self._left[first] = self._left[children[plain][index]]
        self._right[first] = self._right[children[plain][index]]
        return [
            (self._left[children], self._left[parents]),
            (self._right[children], self._right[parents]),
        ]

    def freeze(self, labels: Labels, reason: str) -> None:
        """Say that these atoms can never be removed, and why; the first reason given stays."""
        roots = np.unique(self.find(labels))
        roots = roots[self._frozen[roots] < 0]
        if roots.size:
            self._frozen[roots] = len(self._reasons)
            self._reasons.append(reason)

    def settle(self) -> None:
        """Freeze the factors of frozen products; to be called once every coupling is known.

        A product that holds itself, which contradicting Reshapes make, is frozen with its factors.
        """
        products = np.unique(self.find(np.arange(self._count)))
        products = products[self._left[products] >= 0]
        left, right = self.find(self._left[products]), self.find(self._right[products])
        endless = np.zeros(self._count, np.bool_)
        endless[products] = True
        for _ in range(_MAX_DEPTH):
            endless[products] = endless[left] | endless[right]
        tangled = products[endless[products]]
        if tangled.size:
            involved = np.concatenate([tangled, left[endless[products]], right[endless[products]]])
            self.freeze(involved, "Reshapes split it in ways that contradict each other")
            self._left[tangled] = self._right[tangled] = _NONE
        for _ in range(_MAX_DEPTH):
            frozen = self._frozen[products] >= 0
            for factor in (left[frozen], right[frozen]):
                open_ = self._frozen[factor] < 0
                self._frozen[factor[open_]] = self._frozen[products[frozen][open_]]

    def is_frozen(self, labels: Labels) -> NDArray[np.bool_]:
        """Say of each atom whether it can never be removed."""
        return np.asarray(self._frozen[self.find(labels)] >= 0)

    def reason(self, label: int | np.int64) -> str | None:
        """Return why one atom is frozen; None if it is not."""
        index = self._frozen[self.find(np.array([label]))[0]]
        return None if index < 0 else self._reasons[index]

    def leaves(self, labels: Labels) -> Labels:
        """Return the classes that each atom is made of, outer factor first.

        Parameters
        ----------
        labels : int [n]

        Returns
        -------
        int [n, k]
            -1 where an atom has fewer than ``k`` factors.
        """
        columns = [self.find(labels)]
        for _ in range(_MAX_DEPTH):
            split = [bool(self._made(column).any()) for column in columns]
            if not any(split):
                break
            wider = []
            for column, has_products in zip(columns, split, strict=True):
                if not has_products:
                    wider.append(column)
                    continue
                made = self._made(column)
                safe = np.where(made, column, 0)
                wider.append(np.where(made, self.find(self._left[safe] * made), column))
                wider.append(np.where(made, self.find(self._right[safe] * made), _NONE))
            columns = wider
        return np.stack(columns, axis=-1)

    def _made(self, column: Labels) -> NDArray[np.bool_]:
        return (column >= 0) & (self._left[np.maximum(column, 0)] >= 0)

    def gone(self, units: Labels) -> NDArray[np.bool_]:
        """Return for every atom whether it goes when the classes of ``units`` are removed.

        Returns
        -------
        bool [len(self)]
            To be indexed with the labels of any axis.
        """
        everything = np.arange(self._count)
        roots = self.find(everything)
        gone = np.zeros(self._count, np.bool_)
        gone[self.find(units)] = True
        products = np.unique(roots)
        products = products[self._left[products] >= 0]
        left, right = self.find(self._left[products]), self.find(self._right[products])
        for _ in range(_MAX_DEPTH):
            gone[products] |= gone[left] | gone[right]
        return np.asarray(gone[roots])
