"""Looking into the bodies of If and Loop: a log goes in, and comes out with every value appended.

The log is a sequence of tensors that runs through the piece: the body that computes the value
appends it, a branch that does not passes the log on, a Loop carries it from one iteration to the
next. So values of any shape come out, in order, as often as they were computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx import helper

from sparsec.ir.errors import CalibrationError
from sparsec.ir.execute.dependencies import Dependencies
from sparsec.ir.execute.executor import Point


def expose(
    dependencies: Dependencies,
    graph: onnx.GraphProto,
    places: dict[int, int],
    points: Sequence[Point],
) -> list[str]:
    """Make a serialised segment return the values of ``points``, which lie in bodies.

    Parameters
    ----------
    dependencies : Dependencies
    graph : onnx.GraphProto
        The segment; it is changed.
    places : dict of int to int
        Where in ``graph.node`` each node of the main graph is.
    points : sequence of Point

    Returns
    -------
    list of str
        The name of the output, a sequence of tensors, for each point.
    """
    logs = []
    for number, point in enumerate(points):
        path = _path(dependencies, point, places)
        dtype = point.value.dtype
        if dtype is None:
            raise CalibrationError(
                f"the value {point.value.name!r} in the body of a node has no type; run ONNX shape "
                "inference on the model first",
                where=point.value.name or "",
            )
        thread = _Thread(f"sparsec.log{number}", point.value.name or "", int(dtype))
        start = thread.fresh()
        piece = path[0][0]
        end = thread.through(graph.node[piece], path[0][1], path[1:], start)
        empty = helper.make_node("SequenceEmpty", [], [start], dtype=int(dtype))
        # In front, so that the places of the others are kept by putting all of these there at the
        # end.
        graph.node.append(empty)
        logs.append(end)
    _to_front(graph, len(points))
    return logs


def _to_front(graph: onnx.GraphProto, count: int) -> None:
    """Move the last ``count`` nodes to the front: a node must stand before what reads it."""
    if count:
        nodes = [*graph.node[-count:], *graph.node[:-count]]
        moved = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(moved)


def _path(
    dependencies: Dependencies, point: Point, places: dict[int, int]
) -> list[tuple[int, str]]:
    """Return, from the outside in, which node of its graph and which attribute lead to a body."""
    path: list[tuple[int, str]] = []
    graph = point.graph
    while graph is not dependencies.graph:
        holder, attribute = dependencies.holders[graph]
        outer = holder.graph
        assert isinstance(outer, ir.Graph)
        if outer is dependencies.graph:
            index = places[dependencies.position(holder)]
        else:
            index = next(i for i, node in enumerate(outer) if node is holder)
        path.append((index, attribute))
        graph = outer
    return path[::-1]


class _Thread:
    """One log on its way through a piece."""

    def __init__(self, prefix: str, value: str, dtype: int) -> None:
        self.prefix, self.value, self.dtype = prefix, value, dtype
        self.count = 0

    def fresh(self) -> str:
        """Return a name that nothing else has."""
        self.count += 1
        return f"{self.prefix}.{self.count}"

    def _info(self, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_sequence_value_info(name, self.dtype, None)

    def inside(self, body: onnx.GraphProto, path: list[tuple[int, str]], log: str) -> str:
        """Append to the log within ``body``; return the log behind it."""
        if path:
            (index, attribute), *rest = path
            return self.through(body.node[index], attribute, rest, log)
        after = self.fresh()
        body.node.append(helper.make_node("SequenceInsert", [log, self.value], [after]))
        return after

    def through(
        self, node: onnx.NodeProto, attribute: str, path: list[tuple[int, str]], log: str
    ) -> str:
        """Lead the log through an If or a Loop; return its name behind the node."""
        behind = self.fresh()
        graphs = {a.name: a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH}
        if node.op_type == "If":
            for name, body in graphs.items():
                if name == attribute:
                    end = self.inside(body, path, log)
                else:
                    end = self.fresh()
                    body.node.append(helper.make_node("Identity", [log], [end]))
                body.output.append(self._info(end))
            node.output.append(behind)
            return behind
        body = graphs[attribute]
        carried = max(len(node.input) - 2, 0)
        inner = self.fresh()
        body.input.append(self._info(inner))
        end = self.inside(body, path, inner)
        # What is carried stands before the scan outputs, inside as outside.
        body.output.insert(1 + carried, self._info(end))
        node.input.append(log)
        node.output.insert(carried, behind)
        return behind
