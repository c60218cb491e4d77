"""Channel shuffles as what they are: one axis in another order.

``Reshape [n, c] -> [n, g, c / g]``, ``Transpose`` of the two, ``Reshape`` back is a permutation of the
axis. Written as a Gather with constant indices it says which channel goes where; as it stands it
says that the channels form a grid, of which whole rows and columns must go. Nothing else changes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.ir.cleanup.facts import Dim, Facts, infer_facts
from sparsec.ir.cleanup.operators import is_standard
from sparsec.ir.cleanup.rewire import display_name, new_constant

Shape = tuple[Dim, ...]


def shuffles_to_gathers(model: ir.Model) -> list[str]:
    """Replace Reshape, Transpose, Reshape that permute one axis by a Gather, in place.

    Returns
    -------
    list of str
        Names of the Transposes that are gone.
    """
    if not any(is_standard(node, "Transpose") for node in model.graph):
        return []
    facts = infer_facts(model)
    nodes = [node for node in model.graph if is_standard(node, "Transpose")]
    return [display_name(node) for node in nodes if _replace(node, facts)]


def _replace(transpose: ir.Node, facts: Facts) -> bool:
    """Replace one shuffle around ``transpose``, if it is one."""
    middle, out = transpose.inputs[0], transpose.outputs[0]
    first = middle.producer() if middle is not None else None
    last = next(iter(out.uses())).node if len(out.uses()) == 1 else None
    if first is None or last is None or middle is None or first.inputs[0] is None:
        return False
    ends = is_standard(first, "Reshape") and is_standard(last, "Reshape")
    alone = len(middle.uses()) == 1 and not middle.is_graph_output() and not out.is_graph_output()
    graph = transpose.graph
    if (
        not ends
        or not alone
        or graph is None
        or last.graph is not graph
        or last.inputs[0] is not out
    ):
        return False
    source, result = first.inputs[0], last.outputs[0]
    before, inner, after = (facts.shapes.get(value) for value in (source, middle, result))
    perm = transpose.attributes.get_ints("perm")
    if before is None or inner is None or after is None or perm is None:
        return False
    if not _equal(before, after):
        return False
    found = shuffled(before, inner, list(perm))
    if found is None:
        return False
    axis, order = found
    index = new_constant(graph, f"{result.name}.order", order)
    gather = ir.node("Gather", [source, index], attributes={"axis": axis})
    gather.name = transpose.name
    graph.insert_before(last, gather)
    made = gather.outputs[0]
    made.name, made.shape, made.type = result.name, result.shape, result.type
    result.replace_all_uses_with(made, replace_graph_outputs=True)
    graph.remove([last, transpose, first], safe=True)
    return True


def shuffled(before: Shape, inner: Shape, perm: list[int]) -> tuple[int, np.ndarray] | None:
    """Return the axis that is permuted, and which position comes where; None if it is not just that.

    Examples
    --------
    >>> axis, order = shuffled(("n", 6, 4, 4), ("n", 2, 3, 4, 4), [0, 2, 1, 3, 4])
    >>> axis, order.tolist()
    (1, [0, 3, 1, 4, 2, 5])
    >>> shuffled(("n", 6, 4), ("n", 6, 2, 2), [0, 2, 1, 3]) is None
    True
    """
    moved = [place for place, source in enumerate(perm) if place != source]
    if not moved:
        return None
    first, end = moved[0], moved[-1] + 1
    sizes = inner[first:end]
    behind = len(inner) - end
    axis = first
    if len(before) != first + 1 + behind or not all(isinstance(size, int) for size in sizes):
        return None
    numbers = [int(str(size)) for size in sizes]
    if before[axis] != int(np.prod(numbers)):
        return None
    if not _equal((*before[:axis], *before[axis + 1 :]), (*inner[:first], *inner[end:])):
        return None
    order = np.arange(int(np.prod(numbers))).reshape(numbers)
    return axis, order.transpose([place - first for place in perm[first:end]]).reshape(-1)


def _equal(one: Shape, other: Shape) -> bool:
    """Whether two shapes of equally many elements are equal, though one size may not be known."""
    if len(one) != len(other):
        return False
    unlike = [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1] or None in pair]
    return len(unlike) <= 1 and not any(isinstance(size, int) for pair in unlike for size in pair)
