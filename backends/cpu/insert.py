"""Putting regions into a graph: one node for many."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sparsec.backends.cpu.assemble import DOMAIN, DOMAIN_VERSION, OP_TYPE, Region
from sparsec.backends.cpu.candidate import Candidate
from sparsec.backends.cpu.items import Item
from sparsec.backends.cpu.labels import write_labels
from sparsec.ir.names import UniqueNames


class Chosen(Protocol):
    """A region that was chosen, with its plan."""

    @property
    def region(self) -> Region:
        """What the plan replaces."""
        ...

    @property
    def plan(self) -> bytes:
        """The plan, as it is stored."""
        ...


def apply(model: ir.Model, candidates: Sequence[Chosen]) -> dict[str, bytes]:
    """Put the candidates' nodes into the graph and return their plans by the node's name."""
    plans: dict[str, bytes] = {}
    replaced: dict[ir.Value, ir.Value] = {}
    names = UniqueNames(model)
    for candidate in candidates:
        name = names.node(f"region_{len(plans)}")
        insert(model, candidate.region, candidate.plan, name, names.value(f"{name}.plan"), replaced)
        plans[name] = candidate.plan
    model.graph.sort()
    RemoveUnusedNodesPass()(model)
    return plans


def moved(candidates: Sequence[Candidate], model: ir.Model, clone: ir.Model) -> list[Candidate]:
    """Return the candidates of ``model`` in terms of a clone of it."""
    nodes = dict(zip(model.graph, clone.graph, strict=True))
    values: dict[ir.Value, ir.Value] = dict(
        zip(model.graph.inputs, clone.graph.inputs, strict=True)
    )
    for name, value in model.graph.initializers.items():
        values[value] = clone.graph.initializers[name]
    for old, new in nodes.items():
        values.update(zip(old.outputs, new.outputs, strict=True))

    def of_item(item: Item) -> Item:
        inputs = tuple(None if v is None else values[v] for v in item.inputs)
        own = tuple(nodes[node] for node in item.nodes)
        return dataclasses.replace(item, nodes=own, inputs=inputs, output=values[item.output])

    def of_region(region: Region) -> Region:
        items = tuple(map(of_item, region.items))
        inputs = tuple(values[v] for v in region.inputs)
        return Region(items, inputs, tuple(values[v] for v in region.outputs))

    return [dataclasses.replace(c, region=of_region(c.region)) for c in candidates]


def insert(
    model: ir.Model,
    region: Region,
    plan: bytes,
    name: str,
    plan_name: str,
    replaced: dict[ir.Value, ir.Value],
) -> None:
    """Replace a region of the main graph by one node.

    Parameters
    ----------
    name, plan_name : str
        Of the node and of the initializer that holds its plan.
    replaced : dict
        What earlier insertions put in place of a value that ``region`` may still name; extended.
    """
    graph = model.graph
    weight = ir.Value(
        name=plan_name, type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([len(plan)])
    )
    weight.const_value = ir.tensor(np.frombuffer(plan, np.uint8), name=weight.name)
    graph.initializers[plan_name] = weight
    operands = [replaced.get(value, value) for value in region.inputs]
    outputs = [ir.Value(name=None, type=v.type, shape=v.shape) for v in region.outputs]
    node = ir.Node(
        DOMAIN, OP_TYPE, [weight, *operands], outputs=outputs, name=name, version=DOMAIN_VERSION
    )
    write_labels(node, region.items)
    graph.insert_before(region.items[-1].nodes[-1], node)
    for old, new in zip(region.outputs, outputs, strict=True):
        label = old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name, new.name = f"{label}.replaced", label
        replaced[old] = new
    graph.remove(region.nodes, safe=True)
    model.opset_imports[DOMAIN] = DOMAIN_VERSION
