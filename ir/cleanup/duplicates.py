"""Merging of computations that the graph repeats.

Two pure nodes with the same operator, attributes and inputs compute the same; exporters repeat
the shape arithmetic of a value for each of its readers. Small constants are merged first, so that
equal inputs are recognised: integers and scalars, never vectors of floats, which are parameters
that happen to be equal (two zero biases) and would look tied.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import onnx_ir as ir

from sparsec.ir.cleanup.operators import graphs, is_pure, small_constant
from sparsec.ir.cleanup.rewire import bypass, display_name

_MOST_ELEMENTS = 64

_COMPARABLE = {
    ir.AttributeType.FLOAT, ir.AttributeType.FLOATS, ir.AttributeType.INT, ir.AttributeType.INTS,
    ir.AttributeType.STRING, ir.AttributeType.STRINGS,
}  # fmt: skip


def merge_duplicates(model: ir.Model) -> list[str]:
    """Merge equal nodes and equal small constants of each graph, in place.

    Returns
    -------
    list of str
        Names of the nodes that are gone. Constants without a reader are left to ``remove_dead``.
    """
    merged = []
    for graph in graphs(model):
        _merge_constants(graph)
        seen: dict[Hashable, ir.Node] = {}
        for node in list(graph):
            key = _key(node)
            if key is None:
                continue
            first = seen.setdefault(key, node)
            if first is not node and _merge(node, first):
                merged.append(display_name(node))
    return merged


def _merge_constants(graph: ir.Graph) -> None:
    seen: dict[Hashable, ir.Value] = {}
    for value in list(graph.initializers.values()):
        array = small_constant(value)
        if array is None or array.size > _MOST_ELEMENTS or value.metadata_props:
            continue
        if value.is_graph_output() or (array.ndim and not np.issubdtype(array.dtype, np.integer)):
            continue
        key = (value.const_value.dtype, array.shape, array.tobytes())  # type: ignore[union-attr]
        first = seen.setdefault(key, value)
        if first is not value:
            value.replace_all_uses_with(first)


def _key(node: ir.Node) -> Hashable | None:
    """Return what decides the outputs of ``node``; None if something else may."""
    if not is_pure(node) or any(out.is_graph_output() for out in node.outputs):
        return None
    attributes = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.type not in _COMPARABLE:
            return None
        value = attribute.value
        attributes.append((name, tuple(value) if isinstance(value, (list, tuple)) else value))
    return node.op_type, tuple(node.inputs), tuple(attributes), len(node.outputs)


def _merge(node: ir.Node, first: ir.Node) -> bool:
    for out, kept in zip(node.outputs[1:], first.outputs[1:], strict=True):
        out.replace_all_uses_with(kept)
    return bypass(node, first.outputs[0])
