"""Finding a cycle among the nodes of a graph, to name it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def find_cycle(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes of a cycle, each reading from the one before it; none if there is no cycle.

    A node reads what its inputs are and what the graphs inside it capture.
    """
    done: set[ir.Node] = set()
    for start in graph:
        if start in done:
            continue
        path = [start]
        on_path = {start}
        pending = [_producers(start, graph)]
        while pending:
            producer = next(pending[-1], None)
            if producer is None:
                pending.pop()
                node = path.pop()
                on_path.discard(node)
                done.add(node)
            elif producer in on_path:
                return path[path.index(producer) :][::-1]
            elif producer not in done:
                path.append(producer)
                on_path.add(producer)
                pending.append(_producers(producer, graph))
    return []


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, and what the graphs inside it capture."""
    yield from (value for value in node.inputs if value is not None)
    for body in bodies(node):
        for inner in body:
            yield from reads(inner)


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that ``node`` holds in its attributes."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _producers(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Node]:
    for value in reads(node):
        producer = value.producer()
        if producer is not None and producer.graph is graph:
            yield producer
