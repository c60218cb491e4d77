"""Where a walk stops: an order that lets every weight be rewritten before anything uses it.

Source of the sequential order: Frantar and Alistarh, "SparseGPT", arXiv:2301.00774, section 3 (each
layer is solved on the inputs that the already pruned layers produce), for any graph instead of a
chain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from sparsec.ir.execute.dependencies import Dependencies
from sparsec.ir.execute.executor import Point, Stop


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What must be seen before one weight is rewritten.

    Parameters
    ----------
    points : tuple of Point
        The inputs of ``nodes``, one each.
    nodes : tuple of onnx_ir.Node
        Every node that reads the weight; none may run before it is rewritten.
    cost : int
        Bytes that collecting it takes.
    """

    points: tuple[Point, ...]
    nodes: tuple[ir.Node, ...]
    cost: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Visit:
    """A stop, and which of the demands (by index, with the points of each) are met there."""

    stop: Stop
    demands: tuple[tuple[int, tuple[Point, ...]], ...]


def sequential(dependencies: Dependencies, demands: Sequence[Demand], limit: int) -> list[Visit]:
    """Order demands so that each is met on the results of the weights rewritten before.

    A weight is visited before its first use runs. Of a weight with several uses, the inputs that
    can be known by then are shown; an input that depends on the weight itself is not.

    Parameters
    ----------
    dependencies : Dependencies
    demands : sequence of Demand
    limit : int
        Bytes up to which demands that do not depend on each other share a stop.
    """
    order = sorted(range(len(demands)), key=lambda i: _first(dependencies, demands[i]))
    waiting = [_bits(dependencies, demand.nodes) for demand in demands]
    visits: list[Visit] = []
    group: list[tuple[int, tuple[Point, ...]]] = []
    group_nodes = group_cost = 0

    def close() -> None:
        points = dict.fromkeys(point for _, shown in group for point in shown)
        visits.append(Visit(Stop(tuple(points)), tuple(group)))

    unvisited = [0] * (len(order) + 1)  # nodes of the demands from each place of the order on
    for place in reversed(range(len(order))):
        unvisited[place] = unvisited[place + 1] | waiting[order[place]]
    for place, index in enumerate(order):
        demand = demands[index]
        shown = tuple(p for p in demand.points if not dependencies.before(p) & unvisited[place])
        depends = _union(dependencies.before(p) for p in shown) & group_nodes
        if group and (depends or group_cost + demand.cost > limit):
            close()
            group, group_nodes, group_cost = [], 0, 0
        group.append((index, shown))
        group_nodes |= waiting[index]
        group_cost += demand.cost
    if group:
        close()
    return visits


def parallel(
    dependencies: Dependencies, points: Iterable[tuple[Point, int]], limit: int
) -> list[Stop]:
    """Group points, each with the bytes that collecting it takes, in the order of the graph."""

    def place(item: tuple[Point, int]) -> int:
        point = item[0]
        if dependencies.is_inner(point):
            return dependencies.piece(point.graph)
        source = dependencies.source(point.value)
        return -1 if source is None else source

    stops: list[Stop] = []
    group: list[Point] = []
    total = 0
    for point, cost in sorted(points, key=place):
        if group and total + cost > limit:
            stops.append(Stop(tuple(group)))
            group, total = [], 0
        group.append(point)
        total += cost
    if group:
        stops.append(Stop(tuple(group)))
    return stops


def _first(dependencies: Dependencies, demand: Demand) -> int:
    return min(dependencies.position(node) for node in demand.nodes)


def _bits(dependencies: Dependencies, nodes: Iterable[ir.Node]) -> int:
    return _union(1 << dependencies.position(node) for node in nodes)


def _union(masks: Iterable[int]) -> int:
    result = 0
    for mask in masks:
        result |= mask
    return result
