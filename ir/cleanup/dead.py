"""Removal of what no output needs.

Liveness starts at the graph outputs and follows inputs and bodies; what it does not reach goes,
also inside bodies, and with a dead If or Loop goes everything that only its bodies read. (The
pass of onnx_ir keeps the latter, and unused initializers of bodies.)
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as onnx_passes

from sparsec.ir.cleanup.operators import graphs
from sparsec.ir.cleanup.rewire import display_name
from sparsec.ir.cycles import bodies


def remove_dead(model: ir.Model) -> list[str]:
    """Remove unused nodes, initializers, functions and opset imports, in place.

    Inputs and outputs of the model stay, used or not.

    Returns
    -------
    list of str
        Names of the nodes and initializers that were removed.
    """
    live = _live_nodes(model.graph)
    removed: list[str] = []
    for graph in list(graphs(model)):
        for node in reversed(graph):
            if node not in live:
                removed.append(display_name(node))
                _detach_bodies(node)
                graph.remove(node, safe=False)
                _detach(node)
    for graph in graphs(model):
        for name, value in list(graph.initializers.items()):
            if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
                del graph.initializers[name]
                removed.append(name)
    onnx_passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    onnx_passes.RemoveUnusedOpsetsPass()(model)
    return removed


def _live_nodes(graph: ir.Graph) -> set[ir.Node]:
    live: set[ir.Node] = set()
    pending = list(graph.outputs)
    while pending:
        node = pending.pop().producer()
        if node is None or node in live:
            continue
        live.add(node)
        pending.extend(value for value in node.inputs if value is not None)
        for body in bodies(node):
            pending.extend(body.outputs)
    return live


def _detach_bodies(node: ir.Node) -> None:
    """Make the bodies of a dead node release what they captured from outside."""
    for body in bodies(node):
        for inner in ir.traversal.RecursiveGraphIterator(body):
            _detach(inner)


def _detach(node: ir.Node) -> None:
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)
