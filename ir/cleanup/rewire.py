"""The two edits that all clean-ups share: bypassing a node, and putting a constant in its place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def bypass(node: ir.Node, source: ir.Value) -> bool:
    """Let everything that reads the first output of ``node`` read ``source``, and remove the node.

    Returns
    -------
    bool
        False, and nothing is changed, if another output is in use or if the name of a graph
        output would be lost: it can only move to a value of the same graph that a node produces
        and that is no output itself.
    """
    out, *others = node.outputs
    graph = node.graph
    if graph is None or any(other.uses() or other.is_graph_output() for other in others):
        return False
    if out.is_graph_output():
        producer = source.producer()
        if producer is None or producer.graph is not graph or source.is_graph_output():
            return False
        name, declared_type, declared_shape = out.name, out.type, out.shape
        out.replace_all_uses_with(source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        source.name = name
        source.type = declared_type or source.type
        source.shape = declared_shape or source.shape
    else:
        out.replace_all_uses_with(source)
        graph.remove(node, safe=True)
    return True


def replace_by_constants(node: ir.Node, arrays: list[NDArray[np.generic]]) -> None:
    """Store ``arrays`` as initializers named like the outputs of ``node``, and remove the node."""
    graph = node.graph
    assert graph is not None
    values = []
    for out, array in zip(node.outputs, arrays, strict=True):
        value = constant(out.name, array)
        out.replace_all_uses_with(value)
        values.append(value)
    graph.remove(node, safe=True)
    for value in values:
        if value.uses():
            graph.register_initializer(value)


def constant(name: str | None, array: NDArray[np.generic]) -> ir.Value:
    """Return a value that holds ``array``; it belongs to no graph yet."""
    tensor = ir.tensor(array, name=name)
    shape, kind = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
    return ir.Value(name=name, shape=shape, type=kind, const_value=tensor)


def new_constant(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Add an initializer to ``graph``, called ``name`` or as close to it as is free."""
    taken = {out.name for node in graph for out in node.outputs}
    taken.update(value.name for value in graph.inputs)
    while name in taken or name in graph.initializers:
        name += "_"
    value = constant(name, array)
    graph.register_initializer(value)
    return value


def display_name(node: ir.Node) -> str:
    """Return the name of a node; of its first output if it has none."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type
