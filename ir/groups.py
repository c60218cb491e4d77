"""Pruning groups: the sets of channels that a pass may choose among.

A *unit* is what goes in one piece: a class of atoms (:mod:`sparsec.ir.atoms`) with every position of
every axis that holds it. A *group* holds the units that the same weights make: the 64 channels of a
convolution, or those of all convolutions that one residual stream adds up. Units of one group
compete; they are exchangeable in shape.

Some units overlap: the heads of an attention layer and the coordinates within every head share all
positions. Groups of such units are *rivals*; a pass normally prunes one of them.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import networkx as nx
import numpy as np
import onnx_ir as ir

from sparsec.ir.atoms import Labels
from sparsec.ir.cleanup import clean_up
from sparsec.ir.cleanup.fills import unshare_fills
from sparsec.ir.cleanup.indices import fold_indices
from sparsec.ir.cleanup.rewire import display_name
from sparsec.ir.cleanup.shuffles import shuffles_to_gathers
from sparsec.ir.cleanup.sizes import fold_sizes
from sparsec.ir.lattice import Lattice, build_lattice

_SLOTS = 64  # factors of one axis; a power of two


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One axis of a stored tensor that a group shares.

    Parameters
    ----------
    tensor : str
    axis : int
    positions : int
        How many positions one unit has there.
    """

    tensor: str
    axis: int
    positions: int


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Group:
    """Units that the same weights make.

    Parameters
    ----------
    name : str
        The first node that makes them.
    units : int [size]
        One atom of each, in order.
    makers : tuple of onnx_ir.Node
        The nodes whose weights make them, in graph order.
    members : tuple of Member
    kinds : frozenset of str
        What rules know of them: ``head``, ``head_dim``.
    reason : str, optional
        Why none can be removed; None for a group that can be pruned.
    """

    name: str
    units: Labels
    makers: tuple[ir.Node, ...]
    members: tuple[Member, ...] = ()
    kinds: frozenset[str] = frozenset()
    reason: str | None = None

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.units)

    def matches(self, pattern: str) -> bool:
        """Whether a regular expression is found in the name of the group or of one of its makers."""
        names = (self.name, *(display_name(node) for node in self.makers))
        return any(re.search(pattern, name) for name in names)

    def to_json(self) -> dict[str, object]:
        """Return the entry of ``inspect --groups --json``."""
        return {
            "name": self.name,
            "units": self.size,
            "kinds": sorted(self.kinds),
            "makers": [display_name(node) for node in self.makers],
            "members": [dataclasses.asdict(member) for member in self.members],
        }

    def __str__(self) -> str:
        others = [display_name(node) for node in self.makers[1:]]
        tail = f" with {', '.join(others[:3])}" if others else ""
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        kind = f" {'/'.join(sorted(self.kinds))}" if self.kinds else ""
        return f"{self.name}{tail}{more}: {self.size}{kind or ' ch'}"


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Groups:
    """All groups of a graph, in graph order.

    Parameters
    ----------
    lattice : Lattice
        Where their units lie. It is of the graph as it was: an edit makes it stale.
    groups : tuple of Group
        Those that can be pruned.
    frozen : tuple of Group
        Those that cannot, each with its reason.
    factors : tuple of Group
        Those that cannot either, but hold nothing back: all their positions can go as those of
        another group that crosses them. The "3" of weights that make queries, keys and values, say.
    """

    lattice: Lattice
    groups: tuple[Group, ...]
    frozen: tuple[Group, ...]
    factors: tuple[Group, ...] = ()

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def rivals(self) -> nx.Graph:
        """Return which groups overlap: an edge joins two whose units share positions."""
        owner = self._owner()
        graph = nx.Graph()
        graph.add_nodes_from(range(len(self.groups)))
        for _, labels in self.lattice.makers:
            leaves = self.lattice.atoms.leaves(labels)
            columns = np.where(leaves >= 0, owner[np.maximum(leaves, 0)], -1)
            for i in range(columns.shape[1]):
                for j in range(i + 1, columns.shape[1]):
                    pairs = np.unique(columns[:, [i, j]], axis=0)
                    graph.add_edges_from(
                        (int(a), int(b)) for a, b in pairs if min(a, b) >= 0 and a != b
                    )
        return graph

    def _owner(self) -> Labels:
        """Return the number of the group of every atom class, -1 for none."""
        owner = np.full(len(self.lattice.atoms), -1)
        for number, group in enumerate(self.groups):
            owner[group.units] = number
        return owner

    def __str__(self) -> str:
        largest = max(self.groups, key=lambda group: len(group.makers), default=None)
        head = f"groups: {len(self.groups)} | frozen: {len(self.frozen)}"
        return head if largest is None else f"{head} | most coupled: {largest}"


def prepare(model: ir.Model) -> None:
    """Clean ``model`` up in place so that as few groups as possible are frozen.

    A width that a graph reads off a value at run time, to scale by it, would freeze that width, and
    so would indices that it computes from constants; a channel shuffle written as a grid would tie the
    channels of a whole stage, and a fill that layers share those layers.
    """
    folded = fold_sizes(model) + fold_indices(model)
    if shuffles_to_gathers(model) or folded:
        clean_up(model)
    unshare_fills(model)  # after the clean-up, which would share them again


def find_groups(model: ir.Model) -> Groups:
    """Return the pruning groups of ``model``, which is not changed.

    No weight is read: the cost is that of the number of nodes and channels.
    """
    lattice = build_lattice(model)
    made = _by_makers(lattice)
    # A single unit is all there is: without it nothing would be left.
    single = "it is one unit: everything in it is coupled to everything else"
    groups = [g for g in made if g.reason is None and g.size > 1]
    rest = [g for g in made if g.reason is not None]
    rest += [
        dataclasses.replace(g, reason=single) for g in made if g.reason is None and g.size == 1
    ]
    blocking = _blocking(lattice, groups)
    held = [bool(blocking[group.units].any()) for group in rest]
    return Groups(
        lattice,
        tuple(_with_members(lattice, groups)),
        tuple(group for group, holds in zip(rest, held, strict=True) if holds),
        tuple(group for group, holds in zip(rest, held, strict=True) if not holds),
    )


def _by_makers(lattice: Lattice) -> list[Group]:
    """Return all units, those of the same makers as one group, in graph order and without members."""
    leaf, maker = _made(lattice)
    classes: dict[tuple[bytes, bool], list[int]] = {}
    signatures: dict[tuple[bytes, bool], Labels] = {}
    frozen = lattice.atoms.is_frozen(np.arange(len(lattice.atoms))) if len(lattice.atoms) else None
    borders = np.flatnonzero(np.diff(leaf, prepend=-1, append=-1))
    for start, end in itertools.pairwise(borders):
        unit = int(leaf[start])
        assert frozen is not None
        key = (maker[start:end].tobytes(), bool(frozen[unit]))
        classes.setdefault(key, []).append(unit)
        signatures.setdefault(key, maker[start:end])
    marked = len(lattice.makers) * _SLOTS
    classes = {key: units for key, units in classes.items() if signatures[key][0] < marked}
    order = sorted(classes, key=lambda key: (int(signatures[key][0]), classes[key][0]))
    names: Counter[str] = Counter()
    kinds = _kinds(lattice)
    made: list[Group] = []
    for key in order:
        numbers = dict.fromkeys(signatures[key][signatures[key] < marked] // _SLOTS)
        nodes = tuple(lattice.makers[number][0] for number in numbers)
        base = display_name(nodes[0])
        names[base] += 1
        units = np.array(classes[key])
        made.append(
            Group(
                name=base if names[base] == 1 else f"{base}.{names[base]}",
                units=units,
                makers=tuple(dict.fromkeys(nodes)),
                kinds=frozenset(kind for kind, atoms in kinds.items() if atoms[units].any()),
                reason=lattice.atoms.reason(units[0]) if key[1] else None,
            )
        )
    return made


def _blocking(lattice: Lattice, groups: Sequence[Group]) -> np.ndarray:
    """Return which atom classes have a position that no unit of ``groups`` can take away."""
    free = np.zeros(len(lattice.atoms), np.bool_)
    for group in groups:
        free[group.units] = True
    blocking = np.zeros(len(lattice.atoms), np.bool_)
    for _, labels in lattice.makers:
        leaves = lattice.atoms.leaves(labels)
        stuck = leaves[~(free[np.maximum(leaves, 0)] & (leaves >= 0)).any(axis=1)]
        blocking[stuck[stuck >= 0]] = True
    return blocking


def _made(lattice: Lattice) -> tuple[Labels, Labels]:
    """Return pairs of a unit and what makes it (a node, and the factor of its axis), sorted."""
    leaves, makers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    # Products of activations count as makers of their own: coordinates of queries and keys, which
    # one of them sums over, are not exchangeable with those of values, though one layer makes all.
    for number, (_, labels) in enumerate((*lattice.makers, *lattice.marks)):
        for slot, column in enumerate(lattice.atoms.leaves(labels).T):
            found = np.unique(column[column >= 0])
            leaves.append(found)
            makers.append(np.full(found.size, number * _SLOTS + slot))
    leaf, maker = np.concatenate(leaves), np.concatenate(makers)
    order = np.lexsort((maker, leaf))
    return leaf[order], maker[order]


def _kinds(lattice: Lattice) -> dict[str, np.ndarray]:
    """Return for each kind of axis which atom classes lie on one."""
    found: dict[str, np.ndarray] = {}
    for kind, labels in lattice.marks:
        marked = found.setdefault(kind, np.zeros(len(lattice.atoms), np.bool_))
        leaves = lattice.atoms.leaves(labels)
        marked[leaves[leaves >= 0]] = True
    return found


def _with_members(lattice: Lattice, groups: Sequence[Group]) -> list[Group]:
    """Add to every group the stored tensors that its units lie in."""
    owner = np.full(len(lattice.atoms), -1)
    for number, group in enumerate(groups):
        owner[group.units] = number
    members: list[list[Member]] = [[] for _ in groups]
    for name, value in lattice.model.graph.initializers.items():
        for index, axis in enumerate(lattice.axes.get(value) or ()):
            if axis is None:
                continue
            leaves = lattice.atoms.leaves(axis.atoms).reshape(-1)
            owners = owner[leaves[leaves >= 0]]
            for number, positions in Counter(owners[owners >= 0].tolist()).items():
                per_unit = -(-positions // groups[number].size)
                members[number].append(Member(name, index, per_unit))
    return [
        dataclasses.replace(group, members=tuple(found))
        for group, found in zip(groups, members, strict=True)
    ]
