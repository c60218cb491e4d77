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
        Every node that reads the weight, in graph order; none may run before it is rewritten.
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

    At each stop all demands are met whose first input needs no weight that is still to be visited.
    A weight is visited before its first use runs. Of a weight with several uses, the inputs that
    can be known by then are shown; an input that depends on the weight itself is not.

    Parameters
    ----------
    dependencies : Dependencies
    demands : sequence of Demand
    limit : int
        Bytes up to which demands that do not depend on each other share a stop.
    """
    nodes = [_union(1 << dependencies.position(n) for n in demand.nodes) for demand in demands]
    left = sorted(range(len(demands)), key=lambda i: dependencies.position(demands[i].nodes[0]))
    visits: list[Visit] = []
    while left:
        unvisited = _union(nodes[index] for index in left)
        group: dict[int, tuple[Point, ...]] = {}
        cost = 0
        for index in left:
            demand = demands[index]
            known = tuple(p for p in demand.points if not dependencies.before(p) & unvisited)
            if demand.points[0] not in known:
                continue
            cost += demand.cost
            if group and cost > limit:
                break
            group[index] = known
        # The first one left is always among them: what it needs comes before every unvisited node.
        points = dict.fromkeys(point for known in group.values() for point in known)
        visits.append(Visit(Stop(tuple(points)), tuple(group.items())))
        left = [index for index in left if index not in group]
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


def _union(masks: Iterable[int]) -> int:
    result = 0
    for mask in masks:
        result |= mask
    return result
