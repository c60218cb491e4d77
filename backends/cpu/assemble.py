"""From items to a plan, and from a region of the graph to one node that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.items import Item, Scene
from sparsec.backends.cpu.narrow import narrow
from sparsec.backends.cpu.pack import best_block_rows, pack_blocks
from sparsec.backends.cpu.plan import NONE, Dense, Kind, Op, OpCode, Plan, Tensor, Value
from sparsec.ir.sites import sparsity

DOMAIN = "sparsec"
OP_TYPE = "Region"
DOMAIN_VERSION = 1

# Below this fraction of zeros the 4x1 kernel on all weights beats any list of non-zeros.
_DENSE_BELOW = 0.2


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Items that become one node: in execution order, with the values that cross its border."""

    items: tuple[Item, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All nodes that the region replaces."""
        return tuple(node for item in self.items for node in item.nodes)


def region_of(items: Sequence[Item]) -> Region:
    """Return the region that holds exactly ``items``, given in execution order."""
    made = {item.output for item in items}
    nodes = {node for item in items for node in item.nodes}
    read = dict.fromkeys(v for item in items for v in item.inputs if v is not None)
    inputs = tuple(value for value in read if value not in made)
    outputs = tuple(
        item.output
        for item in items
        if item.output.is_graph_output() or any(node not in nodes for node, _ in item.output.uses())
    )
    return Region(tuple(items), inputs, outputs)


def pack_weight(matrix: np.ndarray) -> Tensor:
    """Store a weight float32 [M, K] in the form that runs fastest."""
    if sparsity(matrix) < _DENSE_BELOW:
        return Dense(np.ascontiguousarray(matrix, np.float32))
    return narrow(pack_blocks(matrix, best_block_rows(matrix)))


def build_plan(scene: Scene, region: Region) -> Plan:
    """Return the plan of a region."""
    values: list[Value] = []
    index: dict[ir.Value, int] = {}
    tensors: list[Tensor] = []

    def value_of(value: ir.Value, kind: Kind, channels: int, rank: int) -> int:
        if value not in index:
            index[value] = len(values)
            values.append(Value(kind, channels, rank))
        return index[value]

    def tensor(array: Tensor | np.ndarray | None) -> int:
        if array is None:
            return NONE
        tensors.append(array if not isinstance(array, np.ndarray) else Dense(array.reshape(1, -1)))
        return len(tensors) - 1

    for value in region.inputs:
        kind, channels = _outside(region, value, scene)
        value_of(value, kind, channels, scene.rank(value))
    ops = []
    for item in region.items:
        operands = tuple(NONE if v is None else index[v] for v in item.inputs)
        if item.code is OpCode.ATTENTION and len(operands) < 4:
            operands = (*operands, NONE)
        weight = item.tensors.get("weight")
        packed = None
        if weight is not None:
            packed = Dense(weight) if item.code is OpCode.DEPTHWISE else pack_weight(weight)
        ops.append(
            Op(
                item.code,
                operands,
                value_of(item.output, item.kind, item.channels, _rank(scene, item)),
                weight=tensor(packed),
                bias=tensor(item.tensors.get("bias")),
                gain=tensor(item.tensors.get("gain")),
                **item.fields,
            )
        )
    inputs = tuple(index[value] for value in region.inputs)
    outputs = tuple(index[value] for value in region.outputs)
    return Plan(inputs, outputs, tuple(values), tuple(ops), tuple(tensors))


def _rank(scene: Scene, item: Item) -> int:
    return 4 if item.kind is Kind.IMAGE and not item.flat else scene.rank(item.output)


def _outside(region: Region, value: ir.Value, scene: Scene) -> tuple[Kind, int]:
    """Return what an input of the region is, from the first item that reads it."""
    for item in region.items:
        for i, operand in enumerate(item.inputs):
            if operand is not value:
                continue
            if item.code is OpCode.ATTENTION and i == 3:
                return Kind.RAW, 0
            shape = scene.shape(value)
            assert shape is not None
            return item.kind, shape[1] if item.kind is Kind.IMAGE else shape[-1]
    raise AssertionError(f"{value.name} is no input of the region")
