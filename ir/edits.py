"""The three edits of structure: zero units, remove them, reorder them.

All follow the lattice (:mod:`sparsec.ir.lattice`). ``zero`` leaves every shape as it is; ``remove``
takes the positions out of every tensor and rewrites every constant and attribute that counted them;
``permute`` reorders the units of one group everywhere, which changes nothing that the graph returns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.atoms import Labels
from sparsec.ir.errors import PassError
from sparsec.ir.lattice import Lattice
from sparsec.ir.memory import release
from sparsec.ir.op_rules.shrink import ShrinkView
from sparsec.ir.patterns import KEY, Unstructured, from_metadata
from sparsec.ir.positions import agrees
from sparsec.ir.provenance import note_removal
from sparsec.ir.verify import verify


@dataclasses.dataclass(frozen=True, slots=True)
class Removal:
    """Which positions of which stored tensors go.

    Parameters
    ----------
    tensors : mapping of str to mapping of int to int [n]
        By name and axis, in increasing order.
    never_zero : frozenset of str
        Those of them that zeroing leaves alone, being divided by.
    """

    tensors: Mapping[str, Mapping[int, Labels]]
    never_zero: frozenset[str] = frozenset()


def removal_of(lattice: Lattice, units: Labels) -> Removal:
    """Return what removing ``units``, one atom of each, takes from the stored tensors."""
    gone = lattice.atoms.gone(units)
    tensors = {
        name: lattice.removed(value, gone)
        for name, value in lattice.model.graph.initializers.items()
    }
    found = {name: axes for name, axes in tensors.items() if axes}
    never = {value.name or "" for value in lattice.never_zero}
    return Removal(found, frozenset(never & found.keys()))


def zero(model: ir.Model, removal: Removal) -> None:
    """Zero the weights of units in ``model``: the graph that removed them from, or a clone of it."""
    for name, axes in removal.tensors.items():
        if name not in removal.never_zero:
            value = model.graph.initializers[name]
            replace_array(value, zeroed(_array(value), axes))


def zeroed(array: NDArray[Any], axes: Mapping[int, Labels]) -> NDArray[Any]:
    """Return a tensor with the positions ``axes`` zeroed; a copy if there are any.

    Examples
    --------
    >>> zeroed(np.ones((2, 3)), {1: np.array([0])})
    array([[0., 1., 1.],
           [0., 1., 1.]])
    """
    copy = array.copy() if axes else array
    for axis, positions in axes.items():
        copy[(slice(None),) * axis + (positions,)] = 0
    return copy


def shrunk(array: NDArray[Any], axes: Mapping[int, Labels]) -> NDArray[Any]:
    """Return a tensor without the positions ``axes``.

    Examples
    --------
    >>> shrunk(np.arange(6).reshape(2, 3), {1: np.array([0])})
    array([[1, 2],
           [4, 5]])
    """
    for axis, positions in axes.items():
        array = np.delete(array, positions, axis)
    return np.ascontiguousarray(array)


def remove(lattice: Lattice, units: Labels) -> Removal:
    """Remove units from the graph of ``lattice``, in place; the lattice is stale afterwards.

    Parameters
    ----------
    lattice : Lattice
    units : int [n]
        One atom of each.

    Returns
    -------
    Removal
        What went from the stored tensors.

    Raises
    ------
    PassError
        If an axis would be left without a position, or a unit is frozen; nothing is changed then.
    VerifyError
        If the graph is broken afterwards.
    """
    model = lattice.model
    if (frozen := lattice.atoms.is_frozen(units)).any():
        reason = lattice.atoms.reason(units[frozen][0])
        raise PassError(f"a frozen unit cannot be removed: {reason}")
    gone = lattice.atoms.gone(units)
    if empty := emptied(lattice, gone):
        names = ", ".join(repr(name) for name in list(empty)[:3])
        raise PassError(f"nothing would be left of {names}; keep at least one unit there")
    removal = removal_of(lattice, units)
    for node in list(model.graph):
        rule = lattice.followed.get(node)
        if rule is not None and rule.shrink is not None:
            rule.shrink(ShrinkView(node, lattice, gone))
    for name, axes in removal.tensors.items():
        value = model.graph.initializers[name]
        dense = _array(value)
        note_removal(value, dense.shape, axes)
        replace_array(value, shrunk(dense, axes))
        _drop_pattern(value)
    for value in lattice.axes:
        _resize(lattice, value, gone)
    verify(model, where="the graph after channels were removed")
    return removal


def emptied(lattice: Lattice, gone: NDArray[np.bool_]) -> dict[str, Labels]:
    """Return the values of which an axis would be left without any position, with its atoms."""
    found = {}
    for value, axes in lattice.axes.items():
        for axis in axes or ():
            if axis is not None and axis.size and gone[axis.atoms].all():
                found[value.name or ""] = axis.atoms
    return found


def permute(lattice: Lattice, units: Labels, order: Labels) -> None:
    """Put unit ``order[i]`` of a group where unit ``i`` was, in place, in every tensor.

    Parameters
    ----------
    lattice : Lattice
        It stays valid: the positions of the graph are what they were.
    units : int [n]
        Units that are alike, see :func:`alike`.
    order : int [n]
        A permutation of ``0 .. n - 1``.

    Raises
    ------
    PassError
        If an axis does not hold them alike; nothing is changed then.
    """
    atoms = lattice.atoms
    if not _exchangeable(lattice, atoms.find(units), order):
        raise PassError("these units cannot be reordered so: they do not lie in the same axes")
    becomes = np.arange(len(atoms))
    roots = atoms.find(units)
    becomes[roots] = roots[order]
    for value in list(lattice.model.graph.initializers.values()):
        array = None
        for index, axis in enumerate(lattice.axes.get(value) or ()):
            if axis is None:
                continue
            leaves = atoms.leaves(axis.atoms)
            wanted = np.where(leaves >= 0, becomes[np.maximum(leaves, 0)], leaves)
            if (wanted != leaves).any():
                array = _array(value) if array is None else array
                array = np.take(array, _sources(leaves, wanted), axis=index)
        if array is not None:
            replace_array(value, np.ascontiguousarray(array))


def _exchangeable(lattice: Lattice, roots: Labels, order: Labels) -> bool:
    """Whether every axis has as many positions of each kind after reordering as before."""
    becomes = np.arange(len(lattice.atoms))
    becomes[roots] = roots[order]
    for axes in lattice.axes.values():
        for axis in axes or ():
            if axis is None:
                continue
            have = lattice.atoms.leaves(axis.atoms)
            wanted = np.where(have >= 0, becomes[np.maximum(have, 0)], have)
            if not np.array_equal(_sorted(have), _sorted(wanted)):
                return False

    def order_of(labels: Labels) -> Labels:
        have = lattice.atoms.leaves(labels)
        return _sources(have, np.where(have >= 0, becomes[np.maximum(have, 0)], have))

    return agrees(lattice, order_of)


def _sorted(rows: Labels) -> Labels:
    return rows[np.lexsort(rows.T[::-1])]


def alike(lattice: Lattice, units: Labels) -> list[Labels]:
    """Return the units sorted into sets whose members lie in the same axes, equally often.

    Units of one group are made by the same weights, but a Slice or Pad may tell them apart. Such a
    set can be reordered unless its units cross with others that are not all there (see permute).
    """
    place = np.full(len(lattice.atoms), -1)
    place[lattice.atoms.find(units)] = np.arange(len(units))
    rng = np.random.default_rng(0)
    sums = np.zeros(len(units), np.uint64)  # of one random number for each axis that holds the unit
    for axes in lattice.axes.values():
        for axis in axes or ():
            if axis is None:
                continue
            leaves = lattice.atoms.leaves(axis.atoms)
            found = place[leaves[leaves >= 0]]
            counts = np.bincount(found[found >= 0], minlength=len(units)).astype(np.uint64)
            sums += counts * rng.integers(1, 2**63, dtype=np.uint64)
    return [units[sums == value] for value in np.unique(sums)]


def _sources(have: Labels, wanted: Labels) -> Labels:
    """Return for each row of ``wanted`` [n, k] the row of ``have`` that equals it, in order."""
    by_have, by_wanted = (np.lexsort(rows.T[::-1]) for rows in (have, wanted))  # both are stable
    sources = np.empty(len(have), np.int64)
    sources[by_wanted] = by_have
    return sources


def _array(value: ir.Value) -> NDArray[Any]:
    assert value.const_value is not None
    array = value.const_value.numpy()
    return array


def replace_array(value: ir.Value, array: NDArray[Any]) -> None:
    """Store ``array`` in place of a constant, in its dtype; the shape may be another."""
    old = value.const_value
    tensor = ir.tensor(
        np.ascontiguousarray(array), dtype=old.dtype if old else None, name=value.name
    )
    release(old)  # a large model is never wholly in memory
    value.const_value = tensor
    value.shape = ir.Shape(array.shape)


def _drop_pattern(value: ir.Value) -> None:
    """Forget a pattern of positions that have moved; zeros anywhere are still zeros anywhere."""
    text = value.metadata_props.get(KEY)
    if text is not None and not isinstance(from_metadata(text), Unstructured):
        del value.metadata_props[KEY]


def _resize(lattice: Lattice, value: ir.Value, gone: NDArray[np.bool_]) -> None:
    """State the new sizes in the shape of a value."""
    if value.is_initializer() or value.shape is None:
        return
    sizes = list(value.shape)
    for index, axis in enumerate(lattice.axes.get(value) or ()):
        if axis is not None and isinstance(sizes[index], int):
            sizes[index] = int((~gone[axis.atoms]).sum())
    value.shape = ir.Shape(sizes)
