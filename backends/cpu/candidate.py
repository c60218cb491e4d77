"""Candidates: regions with their plans, and the models that they are timed as."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.assemble import DOMAIN, DOMAIN_VERSION, OP_TYPE, Region
from sparsec.backends.cpu.plan import Tile
from sparsec.ir.names import unused

# A candidate must beat the nodes it replaces by this factor: less is noise, and a node more.
MIN_GAIN = 1.02
# What two races of the same contestants differ by at most.
CLOSE = 1.1


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A region with its plan, and what it was measured at."""

    region: Region
    plan: bytes
    kernels: Mapping[str, str]  # of each pruned site, by its name
    dense_seconds: float
    sparse_seconds: float
    tiles: tuple[Tile, ...] = ()  # hints of the plan

    @property
    def gains(self) -> bool:
        """Whether the region is worth its node."""
        return self.dense_seconds > MIN_GAIN * self.sparse_seconds

    @property
    def may_gain(self) -> bool:
        """Whether another race might find that the region gains."""
        return CLOSE * self.dense_seconds > self.sparse_seconds


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


def part_model(model: ir.Model, region: Region) -> ir.Model:
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
