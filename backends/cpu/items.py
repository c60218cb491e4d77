"""Items: what the graph computes, in the words of a plan.

An item stands for one operator of a plan and for all nodes of the graph that it replaces: a decomposed
LayerNorm of nine nodes is one item. Regions are sets of items.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.cpu.plan import Kind, OpCode
from sparsec.ir.sites import WeightSite

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One operator of a plan and the nodes behind it.

    Parameters
    ----------
    nodes : tuple of onnx_ir.Node
        Replaced as a whole; only ``output`` is read from outside.
    inputs : tuple of onnx_ir.Value or None
        Operands in the order of the plan's operator: x, residual or second, third, mask.
    fields : mapping
        Further fields of :class:`~sparsec.backends.cpu.plan.Op`.
    tensors : mapping
        ``weight`` float32 [M, K], ``bias`` and ``gain`` float32 [M].
    flat : bool
        ``output`` [N, M] is an image of one pixel to the plan.
    """

    code: OpCode
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value | None, ...]
    output: ir.Value
    kind: Kind
    channels: int  # of the output
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    tensors: dict[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    site: WeightSite | None = None
    flat: bool = False

    def merged(self, nodes: tuple[ir.Node, ...], output: ir.Value, **changes: Any) -> Item:
        """Return the item with ``nodes`` absorbed and ``output`` as its result."""
        return dataclasses.replace(self, nodes=(*self.nodes, *nodes), output=output, **changes)


class Scene:
    """A main graph with the shapes that its values had on the feeds.

    Parameters
    ----------
    shapes : mapping of value name to shapes
        One shape for each feed that was run; values without float data are absent.
    """

    def __init__(self, model: ir.Model, shapes: dict[str, list[Shape]]) -> None:
        self.model = model
        self.graph = model.graph
        self.order = {node: i for i, node in enumerate(model.graph)}
        self.opset = model.graph.opset_imports.get("", 1)
        self._shapes = shapes

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Return the shape of a float value on the first feed; None if it is not known."""
        seen = self._shapes.get(value.name or "") if value is not None else None
        return seen[0] if seen else None

    def shapes(self, *values: ir.Value | None) -> list[tuple[Shape, ...]] | None:
        """Return on each feed the shapes of some float values; None if not all are known."""
        seen = [self._shapes.get(v.name or "") if v is not None else None for v in values]
        known = [shapes for shapes in seen if shapes]
        if len(known) < len(seen) or len({len(shapes) for shapes in known}) > 1:
            return None
        return list(zip(*known, strict=True))

    def rank(self, value: ir.Value | None) -> int:
        """Return the rank of a value; 0 if it is not known."""
        shape = self.shape(value)
        return 0 if shape is None else len(shape)

    def same_shape(self, a: ir.Value | None, b: ir.Value | None) -> bool:
        """Whether two values have one shape always, as far as declarations and feeds tell."""
        if a is None or b is None or not a.name or not b.name:
            return False
        seen = self._shapes.get(a.name)
        if not seen or seen != self._shapes.get(b.name):
            return False
        first, second = a.shape, b.shape
        if first is None or second is None:
            return True
        for x, y in zip(first, second, strict=True):
            broadcast = isinstance(x, int) != isinstance(y, int)
            if broadcast and (x == 1 or y == 1):
                return False
        return True

    def constant(self, value: ir.Value | None) -> NDArray[Any] | None:
        """Return a copy of a constant value; None if it is computed at run time."""
        if value is None or value.is_graph_input():
            return None
        if value.const_value is not None:  # a view would keep its data file mapped
            return np.array(value.const_value.numpy())
        node = value.producer()
        if node is not None and node.op_type == "Constant" and "value" in node.attributes:
            return node.attributes["value"].as_tensor().numpy()
        return None

    def scalar(self, value: ir.Value | None) -> float | None:
        """Return the one element of a constant; None if it is no such constant."""
        array = self.constant(value)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def consumers(self, value: ir.Value) -> set[ir.Node]:
        """Return the nodes that read a value."""
        return {node for node, _ in value.uses()}

    def only_read_by(self, value: ir.Value, nodes: tuple[ir.Node, ...] | set[ir.Node]) -> bool:
        """Whether no one but ``nodes`` reads ``value``, and the graph does not return it."""
        return not value.is_graph_output() and self.consumers(value) <= set(nodes)

    def single_reader(self, value: ir.Value) -> ir.Node | None:
        """Return the only node that reads ``value``; None if there are more or the graph returns it."""
        readers = self.consumers(value)
        if value.is_graph_output() or len(readers) != 1:
            return None
        (reader,) = readers
        return reader if reader in self.order else None


def is_op(node: ir.Node | None, *op_types: str) -> TypeGuard[ir.Node]:
    """Whether there is a node, and it is one of these standard operators."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types


def other_operand(node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """Return what a node of two operands reads besides ``value``."""
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]
