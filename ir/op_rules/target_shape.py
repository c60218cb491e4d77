"""The shape that a Reshape or Expand reads: which of its elements are constants, and rewriting them.

A shape is either one constant, or a Concat of pieces, some constant and some computed at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.operators import is_standard, small_constant
from sparsec.ir.cleanup.rewire import new_constant
from sparsec.ir.op_rules.shrink import ShrinkView

if TYPE_CHECKING:
    from sparsec.ir.lattice import Lattice


def rewritable(lattice: Lattice, shape: ir.Value | None, place: int) -> bool:
    """Whether element ``place`` of a shape is a constant that can be replaced."""
    return _piece(lattice, shape, place) is not None


def _piece(lattice: Lattice, shape: ir.Value | None, place: int) -> tuple[int, int] | None:
    """Return which input of the Concat holds an element, and where in it; (-1, place) if none."""
    if small_constant(shape) is not None:
        return -1, place
    producer = shape.producer() if shape is not None else None
    if producer is None or not is_standard(producer, "Concat"):
        return None
    for index, value in enumerate(producer.inputs):
        constant = small_constant(value)
        known = None if value is None else lattice.shape_of(value)
        if not known or not isinstance(size := known[0], int):
            return None
        if place < size:
            return None if constant is None else (index, place)
        place -= size
    return None


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
        if size is not None and (at := _piece(view.lattice, shape, place)):
            wanted.setdefault(at[0], {})[at[1]] = size
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
