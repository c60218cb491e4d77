"""Which nodes of the main graph need which: the facts that segments are cut by.

A node that holds bodies (If, Loop, Scan) counts as one piece: it reads whatever its bodies capture.
Sets of nodes are integers with one bit a node of the main graph, in its order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from sparsec.ir.execute.executor import Point
from sparsec.ir.layout import STANDARD_DOMAIN

_SEQUENCE_OPS = {
    "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceMap",
    "SplitToSequence", "Optional",
}  # fmt: skip


class Dependencies:
    """Who needs whom in the main graph of a model."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.graph = model.graph
        self.nodes = tuple(model.graph)
        self.holders: dict[ir.Graph, tuple[ir.Node, str]] = {}
        self._positions: dict[ir.Node, int] = {}
        for position, node in enumerate(self.nodes):
            self._settle(node, position)
        self.reads = tuple(tuple(self._reads(node)) for node in self.nodes)
        self._sources = tuple(
            tuple({s for v in values if (s := self.source(v)) is not None}) for values in self.reads
        )
        ancestors: list[int] = []
        for position, sources in enumerate(self._sources):
            mask = 1 << position
            for source in sources:
                mask |= ancestors[source]
            ancestors.append(mask)
        self._ancestors = tuple(ancestors)

    def _settle(self, node: ir.Node, position: int) -> None:
        """Note where a node and everything in its bodies belongs."""
        self._positions[node] = position
        for name, body in bodies(node):
            self.holders[body] = (node, name)
            for inner in body:
                self._settle(inner, position)

    def _reads(self, node: ir.Node) -> Iterator[ir.Value]:
        """Yield every value of the main graph that a node or its bodies read, once."""
        seen: set[ir.Value] = set()
        for reader in (node, *_inside(node)):
            for value in reader.inputs:
                if value is not None and value not in seen and self._is_outer(value):
                    seen.add(value)
                    yield value
        for body in _bodies_inside(node):
            for value in body.outputs:
                if value not in seen and self._is_outer(value):
                    seen.add(value)
                    yield value

    def _is_outer(self, value: ir.Value) -> bool:
        producer = value.producer()
        return value.graph is self.graph if producer is None else producer.graph is self.graph

    def position(self, node: ir.Node) -> int:
        """Return the place in the main graph of a node, or of the piece that holds it."""
        return self._positions[node]

    def source(self, value: ir.Value) -> int | None:
        """Return the place of the node behind a value of the main graph; None for an input."""
        producer = value.producer()
        return None if producer is None else self._positions[producer]

    def is_inner(self, point: Point) -> bool:
        """Whether the point lies in a body."""
        return point.graph is not self.graph

    def piece(self, graph: ir.Graph) -> int:
        """Return the place of the node of the main graph that holds a body."""
        return self._positions[self.holders[graph][0]]

    def before(self, point: Point) -> int:
        """Return the nodes that must have run before ``point`` can be shown.

        For a point in a body these are what its piece needs, without the piece itself: that runs
        once to show the point and once more, with whatever was rewritten, for its results.
        """
        if self.is_inner(point):
            piece = self.piece(point.graph)
            return self._ancestors[piece] & ~(1 << piece)
        source = self.source(point.value)
        return 0 if source is None else self._ancestors[source]

    def missing(self, points: Iterable[Point], done: int) -> int:
        """Return the nodes that have to run for ``points``, given that those of ``done`` have.

        A sequence of tensors cannot be kept between segments, so what makes one is never done.
        """
        stack: list[int] = []
        found = 0
        for point in points:
            if not self.is_inner(point):
                source = self.source(point.value)
                stack += () if source is None else (source,)
            elif not found >> (piece := self.piece(point.graph)) & 1:
                found |= 1 << piece  # also if it has run: now something looks into it
                stack += self._sources[piece]
        while stack:
            position = stack.pop()
            if (done | found) >> position & 1:
                continue
            found |= 1 << position
            stack += self._sources[position]
        return found

    def storable(self, positions: int) -> int:
        """Return those of a set of nodes whose results are tensors, which can be kept."""
        return sum(
            1 << p for p in members(positions) if all(map(_is_tensor, self.nodes[p].outputs))
        )

    def why_not(self, point: Point) -> str | None:
        """Return why nothing can look at ``point``, or None. The end of a sentence."""
        graph = point.graph
        while graph is not self.graph:
            node, _ = self.holders[graph]
            if node.op_type not in ("If", "Loop") or node.domain not in STANDARD_DOMAIN:
                return f"it lies in the body of {node.op_type}, which cannot be looked into"
            if (self.model.opset_imports.get("") or 0) < 13:
                return f"it lies in the body of {node.op_type}, which takes opset 13 to look into"
            assert isinstance(node.graph, ir.Graph)
            graph = node.graph
        return None


def bodies(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """Yield the bodies of a node with the names of their attributes."""
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.GRAPH:
            yield name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from ((name, body) for body in attribute.as_graphs())


def members(mask: int) -> Iterator[int]:
    """Yield the places in a set of nodes, in order.

    Examples
    --------
    >>> list(members(0b1101))
    [0, 2, 3]
    """
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _bodies_inside(node: ir.Node) -> Iterator[ir.Graph]:
    for _, body in bodies(node):
        yield body
        for inner in body:
            yield from _bodies_inside(inner)


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    for body in _bodies_inside(node):
        yield from body


def _is_tensor(value: ir.Value) -> bool:
    if isinstance(value.type, (ir.SequenceType, ir.OptionalType)):
        return False
    producer = value.producer()
    return producer is None or producer.op_type not in _SEQUENCE_OPS
