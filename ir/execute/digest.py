"""Content hashes of what a graph computes: equal hash, equal values for equal inputs.

The hash of a value covers the operators behind it, their attributes and bodies, and every constant
with its data; it does not cover names inside the main graph, nor anything that the value does not
depend on. So it finds earlier results again after another part of the graph has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.execute.dependencies import Dependencies, bodies
from sparsec.ir.execute.executor import Point


class Digests:
    """Hashes of the values of a graph, each computed once.

    A constant that is replaced after a value behind it was hashed is not noticed: ask for a value
    only when everything before it is settled, as it is at a stop of a sequential walk.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._graph = dependencies.graph
        self._opsets = repr(sorted(dependencies.model.opset_imports.items())).encode()
        self._values: dict[ir.Value, bytes] = {}

    def point(self, point: Point) -> bytes:
        """Return the hash of what is seen at a point."""
        if not self._dependencies.is_inner(point):
            return self.value(point.value)
        piece = self._dependencies.nodes[self._dependencies.piece(point.graph)]
        inside = [body for _, top in bodies(piece) for body in _nested(top)]
        place = next(i for i, body in enumerate(inside) if body is point.graph)
        name = (point.value.name or "").encode()
        return _hash(b"point", self.node(piece), str(place).encode(), name)

    def value(self, value: ir.Value) -> bytes:
        """Return the hash of a value of the main graph."""
        pending = [value]
        while pending:
            current = pending[-1]
            producer = current.producer()
            if current in self._values:
                pending.pop()
            elif producer is None:
                self._values[current] = self._leaf(current)
            elif missing := [v for v in self._outer(producer) if v not in self._values]:
                pending += missing
            else:
                node = self._node(producer, self._values)
                for index, output in enumerate(producer.outputs):
                    self._values[output] = _hash(b"output", node, str(index).encode())
        return self._values[value]

    def node(self, node: ir.Node) -> bytes:
        """Return the hash of a node of the main graph with its bodies as they are now."""
        for value in self._outer(node):
            self.value(value)
        return self._node(node, self._values)

    def _leaf(self, value: ir.Value) -> bytes:
        if value.is_initializer():
            return tensor_digest(value.const_value)
        return _hash(b"input", (value.name or "").encode(), self._opsets)

    def _outer(self, node: ir.Node) -> list[ir.Value]:
        """Return every value of the main graph that a node or its bodies read."""
        readers = [node, *(n for _, body in bodies(node) for n in body.all_nodes())]
        values = [v for reader in readers for v in reader.inputs if v is not None]
        values += [v for _, body in bodies(node) for g in _nested(body) for v in g.outputs]
        return [v for v in dict.fromkeys(values) if self._is_main(v)]

    def _is_main(self, value: ir.Value) -> bool:
        producer = value.producer()
        return (value.graph if producer is None else producer.graph) is self._graph

    def _node(self, node: ir.Node, known: Mapping[ir.Value, bytes]) -> bytes:
        parts = [b"node", node.domain.encode(), node.op_type.encode(), self._opsets]
        parts += (
            b"" if v is None else known.get(v) or (v.name or "").encode() for v in node.inputs
        )
        for name, attribute in sorted(node.attributes.items()):
            parts.append(name.encode())
            if attribute.type == ir.AttributeType.GRAPH:
                parts.append(self._body(attribute.as_graph(), known))
            elif attribute.type == ir.AttributeType.GRAPHS:
                parts += (self._body(body, known) for body in attribute.as_graphs())
            elif isinstance(attribute.value, ir.TensorProtocol):
                parts.append(tensor_digest(attribute.value))
            else:
                parts.append(repr(attribute.value).encode())
        return _hash(*parts)

    def _body(self, body: ir.Graph, known: Mapping[ir.Value, bytes]) -> bytes:
        """Return the hash of a body, inside which values are told apart by name."""
        parts = [b"body", *((v.name or "").encode() for v in body.inputs)]
        for name, value in body.initializers.items():
            parts += (name.encode(), tensor_digest(value.const_value))
        for node in body:
            parts.append(self._node(node, known))
            parts += ((v.name or "").encode() for v in node.outputs)
        parts += (known.get(v) or (v.name or "").encode() for v in body.outputs)
        return _hash(*parts)


def tensor_digest(tensor: ir.TensorProtocol | None) -> bytes:
    """Return the hash of a constant: type, shape and data."""
    assert tensor is not None
    if tensor.dtype == ir.DataType.STRING:
        data: Any = repr(tensor.numpy().tolist()).encode()
    else:
        data = _bytes(tensor.numpy())
    return _hash(tensor.dtype.name.encode(), repr(tuple(tensor.shape)).encode(), data)


def feeds_digest(feeds: Iterable[Mapping[str, NDArray[Any]]]) -> bytes:
    """Return the hash of a list of feeds, in order."""
    total = hashlib.sha256()
    for feed in feeds:
        for name in sorted(feed):
            array = np.asarray(feed[name])
            data = repr(array.tolist()).encode() if array.dtype.kind == "O" else _bytes(array)
            head = f"{name} {array.dtype.str} {array.shape}".encode()
            total.update(_hash(head, data))
        total.update(b"next")
    return total.digest()


def _bytes(array: NDArray[Any]) -> Any:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _hash(*parts: Any) -> bytes:
    """Hash parts so that no two lists of parts give the same bytes."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.digest()


def _nested(graph: ir.Graph) -> list[ir.Graph]:
    return [graph, *graph.subgraphs()]
