"""Folding of sizes that are known: one element of a Shape is a constant if its axis is static.

Exporters read the width of a head, or the number of channels, off a value whose batch is dynamic; the
Shape as a whole then is no constant, but the element that somebody picks is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.ir.cleanup.facts import Dim, infer_facts
from sparsec.ir.cleanup.operators import is_standard, small_constant
from sparsec.ir.cleanup.rewire import display_name, replace_by_constants


def fold_sizes(model: ir.Model) -> list[str]:
    """Replace every Gather or Slice of known elements of a Shape by a constant, in place.

    Returns
    -------
    list of str
        Names of the nodes that are gone; a Shape without a reader is left to ``remove_dead``.
    """
    if not any(is_standard(node, "Shape") for node in model.graph):
        return []
    facts = infer_facts(model)
    folded = []
    for node in list(model.graph):
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if source is None or not is_standard(source, "Shape") or node.outputs[0].is_graph_output():
            continue
        measured = source.inputs[0]
        shape = None if measured is None else facts.shapes.get(measured)
        sizes = None if shape is None else _picked(node, _listed(source, shape))
        if sizes is not None:
            folded.append(display_name(node))
            replace_by_constants(node, [sizes])
    return folded


def _listed(node: ir.Node, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Return what a Shape node lists."""
    start = node.attributes.get_int("start", 0)
    return shape[start : node.attributes.get_int("end", len(shape))]


def _picked(node: ir.Node, shape: tuple[Dim, ...]) -> np.ndarray | None:
    """Return the sizes that ``node`` picks, if it is constant which, and all are numbers."""
    arrays = [small_constant(value) for value in node.inputs[1:]]
    if not arrays or any(array is None for array in arrays):
        return None
    places = np.arange(len(shape))
    if is_standard(node, "Gather"):
        index = np.asarray(arrays[0])
        if ((index < -len(shape)) | (index >= len(shape))).any():
            return None
        chosen = places[index]
    elif is_standard(node, "Slice"):
        start, end, *rest = (int(np.asarray(array).item()) for array in arrays)
        chosen = places[start : end : rest[1] if len(rest) > 1 else 1]
    else:
        return None
    sizes = [shape[int(place)] for place in chosen.reshape(-1)]
    if not sizes or not all(isinstance(size, int) for size in sizes):
        return None
    return np.array(sizes, np.int64).reshape(chosen.shape)
