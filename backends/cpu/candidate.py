"""Candidates: regions with their plans, timed as they will run against the nodes that they replace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.base import Feeds
from sparsec.backends.cpu.assemble import DOMAIN, DOMAIN_VERSION, OP_TYPE, Region, build_plan
from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.kernels import site_kernels
from sparsec.backends.cpu.measure import Contest
from sparsec.backends.cpu.observe import observe
from sparsec.ir.names import unused

# A candidate must beat the nodes it replaces by this factor: less is noise, and a node more.
MIN_GAIN = 1.02


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A region with its plan, and what it was measured at."""

    region: Region
    plan: bytes
    kernels: Mapping[str, str]  # of each pruned site, by its name
    dense_seconds: float
    sparse_seconds: float

    @property
    def gains(self) -> bool:
        """Whether the region is worth its node."""
        return self.dense_seconds > MIN_GAIN * self.sparse_seconds


def boundary(region: Region) -> list[str]:
    """Return the names of the values that the region's nodes read and do not make."""
    made = {output for node in region.nodes for output in node.outputs}
    read = dict.fromkeys(
        value
        for node in region.nodes
        for value in node.inputs
        if value is not None and value not in made
    )
    return [
        value.name
        for value in read
        if value.name and value.const_value is None and not _is_constant(value)
    ]


def _is_constant(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "Constant"


class Measurer:
    """Times candidates; equal work is timed once.

    Parameters
    ----------
    cold : bool
        Whether the weights of the model exceed the caches, so that each layer meets its own in memory.
    """

    def __init__(self, scene: Scene, feed: Feeds, threads: int, cold: bool = False) -> None:
        self._scene = scene
        self._feed = feed
        self._threads = threads
        self._cold = cold
        self._known: dict[Any, tuple[float, float]] = {}

    def measure(self, regions: Sequence[Region]) -> list[Candidate]:
        """Return every region with its plan and times, in the given order."""
        wanted = dict.fromkeys(name for region in regions for name in boundary(region))
        data: dict[str, NDArray[Any]] = dict(self._feed)
        missing = [name for name in wanted if name not in data]
        data |= dict(observe(self._scene.model, self._feed, missing))
        return [self._candidate(region, data) for region in regions]

    def _candidate(self, region: Region, data: Mapping[str, NDArray[Any]]) -> Candidate:
        made = build_plan(self._scene, region)
        plan = made.to_bytes()
        key = self._signature(region, data)
        if key not in self._known:
            dense = _part(self._scene.model, region)
            sparse = region_model(self._scene.model, region, plan)
            contest = Contest(self._threads)
            contest.enter("dense", dense, data)
            contest.enter("sparse", sparse, data)
            times = contest.run(cold=self._cold)
            self._known[key] = times["dense"], times["sparse"]
        kernels = site_kernels(self._scene, region, made)
        return Candidate(region, plan, kernels, *self._known[key])

    def _signature(self, region: Region, data: Mapping[str, NDArray[Any]]) -> Any:
        """Return what decides the time of a region: its shapes, wiring, patterns and sparsities."""
        number = {value: i for i, value in enumerate(region.inputs)}
        shapes = tuple(data[v.name or ""].shape for v in region.inputs if v.name in data)
        parts = []
        for item in region.items:
            operands = tuple(-1 if v is None else number[v] for v in item.inputs)
            number[item.output] = len(number)
            parts.append((operands, *_kind_of_work(item)))
        return shapes, tuple(parts), tuple(number[value] for value in region.outputs)


def _kind_of_work(item: Item) -> tuple[Any, ...]:
    weight = item.tensors.get("weight")
    kept = None if weight is None else round(np.count_nonzero(weight) / weight.size, 2)
    pattern = str(item.site.pattern) if item.site is not None else ""
    fields = tuple(sorted(item.fields.items()))
    return item.code, item.kind, item.channels, kept, pattern, fields, len(item.nodes)


def _part(model: ir.Model, region: Region) -> ir.Model:
    """Return the nodes of a region as a model of their own."""
    graph = ir.convenience.extract(
        model.graph, boundary(region), [v.name or "" for v in region.outputs]
    )
    for value in graph.inputs:
        if value.type is None:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for value in graph.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return ir.Model(graph, ir_version=model.ir_version)


def region_model(model: ir.Model, region: Region, plan: bytes) -> ir.Model:
    """Return a model of nothing but the region's node."""
    inputs = [_copy(value) for value in region.inputs if value.const_value is None]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports=dict(model.opset_imports), name="region")
    return _with_node(graph, model.ir_version, region, plan)


def _with_node(graph: ir.Graph, ir_version: int, region: Region, plan: bytes) -> ir.Model:
    by_name = {value.name: value for value in graph.inputs}
    name = unused("plan", {value.name for value in (*region.inputs, *region.outputs)})
    weight = ir.Value(name=name, type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([len(plan)]))
    weight.const_value = ir.tensor(np.frombuffer(plan, np.uint8), name=name)
    graph.initializers[name] = weight
    operands: list[ir.Value] = []
    for value in region.inputs:
        if value.const_value is not None:
            copy = _copy(value)
            copy.const_value = value.const_value
            graph.initializers[copy.name or ""] = copy
            operands.append(copy)
        else:
            operands.append(by_name[value.name])
    outputs = [
        ir.Value(name=v.name, type=ir.TensorType(ir.DataType.FLOAT), shape=v.shape)
        for v in region.outputs
    ]
    graph.append(ir.Node(DOMAIN, OP_TYPE, [weight, *operands], outputs=outputs, name="region"))
    graph.outputs.extend(outputs)
    graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    return ir.Model(graph, ir_version=ir_version)


def _copy(value: ir.Value) -> ir.Value:
    return ir.Value(
        name=value.name, type=value.type or ir.TensorType(ir.DataType.FLOAT), shape=value.shape
    )
