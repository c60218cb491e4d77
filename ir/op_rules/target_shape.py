"""The shape that a Reshape or Expand reads: which of its elements are constants, and rewriting them.

A shape is either one constant, or a Concat of pieces, some constant and some computed at run time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.operators import is_standard, small_constant
from sparsec.ir.cleanup.rewire import new_constant
from sparsec.ir.op_rules.shrink import ShrinkView

if TYPE_CHECKING:
    from sparsec.ir.lattice import Lattice


@dataclasses.dataclass(frozen=True, slots=True)
class Stated:
    """A size that a constant states.

    Parameters
    ----------
    size : int
    piece : int
        Which input of the Concat the constant is; -1 if it is the whole shape.
    place : int
        Where in the constant it stands.
    """

    size: int
    piece: int
    place: int


@dataclasses.dataclass(frozen=True, slots=True)
class SizeOf:
    """A size that is read off a value at run time."""

    value: ir.Value
    axis: int


def origin(lattice: Lattice, shape: ir.Value | None, place: int) -> Stated | SizeOf | None:
    """Return where element ``place`` of a shape comes from; None if it is computed with."""
    array = small_constant(shape)
    if array is not None:
        return Stated(int(array.reshape(-1)[place]), -1, place)
    producer = shape.producer() if shape is not None else None
    if producer is None or not is_standard(producer):
        return None
    if producer.op_type == "Concat":
        return _in_concat(lattice, producer, place)
    if producer.op_type == "Shape":
        value = producer.inputs[0]
        start = producer.attributes.get_int("start", 0) or 0
        known = None if value is None else lattice.shape_of(value)
        if value is None or known is None:
            return None
        return SizeOf(value, (start + len(known) if start < 0 else start) + place)
    if producer.op_type in _PASSING:
        found = origin(lattice, producer.inputs[0], place)
    else:
        picked = _picked(lattice, producer)
        found = None if picked is None else origin(lattice, producer.inputs[0], picked[place])
    return found if isinstance(found, SizeOf) else None


def _in_concat(lattice: Lattice, concat: ir.Node, place: int) -> Stated | SizeOf | None:
    for index, value in enumerate(concat.inputs):
        known = None if value is None else lattice.shape_of(value)
        if not known or not isinstance(size := known[0], int):
            return None
        if place < size:
            found = origin(lattice, value, place)
            direct = isinstance(found, Stated) and found.piece == -1
            return Stated(found.size, index, place) if direct else _size_only(found)  # type: ignore[union-attr]
        place -= size
    return None


def _size_only(found: Stated | SizeOf | None) -> SizeOf | None:
    return found if isinstance(found, SizeOf) else None


_PASSING = {"Cast", "Identity", "Squeeze", "Unsqueeze"}


def _picked(lattice: Lattice, node: ir.Node) -> list[int] | None:
    """Return which elements of a shape a Slice or Gather picks; None if that is not constant."""
    data = node.inputs[0] if node.inputs else None
    known = None if data is None else lattice.shape_of(data)
    if not known or len(known) != 1 or not isinstance(known[0], int):
        return None
    places = np.arange(known[0])
    arrays = [small_constant(value) for value in node.inputs[1:]]
    if node.op_type == "Gather" and arrays[0] is not None:
        return [int(i) for i in places[arrays[0].reshape(-1)]]
    if node.op_type == "Slice" and arrays and all(array is not None for array in arrays):
        start, end, *rest = (int(array.item()) for array in arrays)  # type: ignore[union-attr]
        step = rest[1] if len(rest) > 1 else 1
        return [int(i) for i in places[start:end:step]]
    return None


def escaping_sizes(lattice: Lattice, shape: ir.Value, axes: Sequence[int]) -> set[int]:
    """Return the axes whose sizes, elements of ``shape``, reach anything but a target shape.

    Parameters
    ----------
    lattice : Lattice
    shape : onnx_ir.Value
        One-dimensional.
    axes : sequence of int
        The axis that each of its elements is the size of; -1 for none.
    """
    found: set[int] = set()
    if shape.is_graph_output():
        found.update(axes)
    for node, index in shape.uses():
        passed: Sequence[int] | None = None
        if (
            node.op_type in ("Reshape", "Expand")
            and index == 1
            and node.graph is lattice.model.graph
        ):
            continue
        if node.op_type in _PASSING:
            passed = axes
        elif node.op_type == "Concat":
            passed = _placed(lattice, node, index, axes)
        elif index == 0 and (picked := _picked(lattice, node)) is not None:
            passed = [axes[place] for place in picked]
        if passed is None or node.graph is not lattice.model.graph:
            found.update(axes)
        else:
            found |= escaping_sizes(lattice, node.outputs[0], passed)
    return found - {-1}


def _placed(lattice: Lattice, concat: ir.Node, index: int, axes: Sequence[int]) -> list[int] | None:
    """Return the axes behind the elements of a Concat, -1 for those of its other inputs."""
    placed: list[int] = []
    for number, value in enumerate(concat.inputs):
        known = None if value is None else lattice.shape_of(value)
        if not known or not isinstance(known[0], int):
            return None
        placed += axes if number == index else [-1] * known[0]
    return placed


def rewrite_target(
    view: ShrinkView, index: int, sizes: Sequence[int | None], *, ones_stay: bool = False
) -> None:
    """Put new sizes where the shape at input ``index`` states old ones.

    Parameters
    ----------
    view : ShrinkView
    index : int
        Which input of the node is the shape.
    sizes : sequence of int or None
        New sizes; None for an axis that keeps what the shape says.
    ones_stay : bool
        Whether an element 1 means "as it is", as for Expand.
    """
    shape = view.node.inputs[index]
    whole = view.constant(index)
    if whole is not None:
        view.set_constant(index, _rewritten(whole, dict(enumerate(sizes)), ones_stay))
        return
    concat = shape.producer() if shape is not None else None
    graph = view.node.graph
    assert concat is not None
    assert graph is not None
    pieces = list(concat.inputs)
    wanted: dict[int, dict[int, int | None]] = {}
    for place, size in enumerate(sizes):
        source = origin(view.lattice, shape, place)
        if size is not None and isinstance(source, Stated):
            wanted.setdefault(source.piece, {})[source.place] = size
    for number, changes in wanted.items():
        old = pieces[number]
        array = small_constant(old)
        assert array is not None
        new = _rewritten(array, changes, ones_stay)
        pieces[number] = new_constant(graph, f"{old.name}.shrunk", new)  # type: ignore[union-attr]
    made = ir.node("Concat", pieces, attributes={"axis": 0}, name=f"{concat.name}.{view.node.name}")
    made.outputs[0].name = f"{shape.name}.{view.node.name}"  # type: ignore[union-attr]
    graph.insert_before(view.node, made)
    view.node.replace_input_with(index, made.outputs[0])


def _rewritten(
    array: NDArray[Any], changes: dict[int, int | None], ones_stay: bool
) -> NDArray[Any]:
    """Return the constant with new sizes ; -1 stays what it is."""
    new = array.copy()
    for place, size in changes.items():
        if size is None or (array.ndim and place >= array.size):
            continue
        old = int(array.reshape(-1)[place])
        if old >= 0 and not (ones_stay and old == 1):
            new.reshape(-1)[place] = size
    return new
