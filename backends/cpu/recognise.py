"""From nodes to items: which parts of a graph a plan can express.

Distinctive patterns (attention, LayerNorm, GELU) are looked for first, single nodes after them; then
items absorb what a microkernel does in passing: bias, activation, residual.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.items import Item, Scene, is_op, other_operand
from sparsec.backends.cpu.match_attention import attention_items
from sparsec.backends.cpu.match_linear import linear_item
from sparsec.backends.cpu.match_norm import layer_norm_items
from sparsec.backends.cpu.match_pointwise import activation_items, add_item, multiply_item
from sparsec.backends.cpu.match_rms_norm import rms_norm_items
from sparsec.backends.cpu.match_window import window_item
from sparsec.backends.cpu.plan import Activation, Kind, OpCode
from sparsec.ir.chain import DequantizeStep
from sparsec.ir.sites import WeightSite

_PRODUCTS = (OpCode.LINEAR, OpCode.CONV)


def recognise(scene: Scene, sites: Iterable[WeightSite]) -> list[Item]:
    """Return the items of a graph in execution order; every node is in at most one."""
    by_node = {site.node: site for site in sites if len(site.nodes) == 1 and not is_quantised(site)}
    items: list[Item] = []
    taken: set[ir.Node] = set()

    def take(found: Iterable[Item | None]) -> None:
        for item in found:
            if item is not None and taken.isdisjoint(item.nodes) and _keeps_rank(scene, item):
                items.append(item)
                taken.update(item.nodes)

    take(attention_items(scene))
    take(layer_norm_items(scene))
    take(rms_norm_items(scene))
    take(activation_items(scene))
    for node in scene.order:
        if node not in taken:
            site = by_node.get(node)
            take(
                [
                    linear_item(scene, node, site)
                    or window_item(scene, node, site)
                    or add_item(scene, node)
                    or multiply_item(scene, node)
                ]
            )
    return fuse(scene, items)


def _keeps_rank(scene: Scene, item: Item) -> bool:
    """Whether the output has the rank of the input: a constant of more axes would add some."""
    shapes = scene.shapes(item.inputs[0], item.output)
    return item.flat or shapes is None or all(len(x) == len(y) for x, y in shapes)


def is_quantised(site: WeightSite) -> bool:
    """Whether a weight is stored as integers behind DequantizeLinear.

    Such a graph stays as it is: its integers are what the runtime's own kernels work on.
    """
    return any(isinstance(step, DequantizeStep) for step in site.steps)


def fuse(scene: Scene, items: list[Item]) -> list[Item]:
    """Let items absorb the bias, the activation and the residual that follow them."""
    by_node = {node: item for item in items for node in item.nodes}
    result: list[Item] = []
    gone: set[Item] = set()
    for item in sorted(items, key=lambda item: position(scene, item)):
        if item in gone:
            continue
        while True:
            reader = _only_reader(scene, item, by_node)
            merged = None if reader is None else _absorb(scene, item, reader, by_node)
            if merged is None:
                break
            if isinstance(reader, Item):
                gone.add(reader)
            for node in merged.nodes:
                by_node[node] = merged
            item = merged
        result.append(item)
    return sorted((i for i in result if i not in gone), key=lambda item: position(scene, item))


def position(scene: Scene, item: Item) -> int:
    """Return where an item stands in execution order: at its last node."""
    return max(scene.order[node] for node in item.nodes)


def _only_reader(scene: Scene, item: Item, by_node: dict[ir.Node, Item]) -> Item | ir.Node | None:
    """Return the one item, or the one node outside items, that reads the item's output."""
    output = item.output
    readers = scene.consumers(output)
    if output.is_graph_output() or not readers:
        return None
    owners = {by_node.get(node, node) for node in readers}
    (owner,) = owners if len(owners) == 1 else (None,)
    return owner if not isinstance(owner, ir.Node) or owner in scene.order else None


def _absorb(
    scene: Scene, item: Item, reader: Item | ir.Node, by_node: dict[ir.Node, Item]
) -> Item | None:
    if isinstance(reader, ir.Node):
        return _with_bias(scene, item, reader)
    if reader.code is OpCode.ACTIVATION and item.code in (*_PRODUCTS, OpCode.DEPTHWISE, OpCode.ADD):
        return _with_activation(item, reader)
    if reader.code is OpCode.ADD and item.code in _PRODUCTS:
        return _with_residual(scene, item, reader, by_node)
    if reader.code is OpCode.LAYER_NORM and item.code is OpCode.ADD:
        return _with_norm(item, reader)
    return None


def _with_bias(scene: Scene, item: Item, node: ir.Node) -> Item | None:
    """Absorb ``Add(x, constant per channel)``."""
    fresh = "activation" not in item.fields and len(item.inputs) == 1
    if item.code not in (*_PRODUCTS, OpCode.DEPTHWISE) or not is_op(node, "Add") or not fresh:
        return None
    other = other_operand(node, item.output)
    bias = channel_vector(scene, other, item.channels, item.kind, scene.rank(item.output))
    if bias is None:
        return None
    bias = bias + item.tensors.get("bias", np.float32(0))
    tensors = {**item.tensors, "bias": bias.astype(np.float32)}
    return item.merged((node,), node.outputs[0], tensors=tensors)


def channel_vector(
    scene: Scene, value: ir.Value | None, channels: int, kind: Kind, rank: int
) -> np.ndarray | None:
    """Return a float32 constant [channels] that broadcasts over all else; None if it is none."""
    array = scene.constant(value)
    if array is None or array.dtype != np.float32 or array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    axis = 1 if kind is Kind.IMAGE else rank - 1
    elsewhere = any(size != 1 for i, size in enumerate(shape) if i != axis)
    if elsewhere or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)).astype(np.float32)


def _with_activation(item: Item, reader: Item) -> Item | None:
    if "activation" in item.fields:
        return None
    fields = {**item.fields, **reader.fields}
    return item.merged(reader.nodes, reader.output, fields=fields)


def _with_residual(
    scene: Scene, item: Item, reader: Item, by_node: dict[ir.Node, Item]
) -> Item | None:
    if "activation" in item.fields or len(item.inputs) > 1 or item.flat:
        return None
    first, second = reader.inputs
    other = second if first is item.output else first
    if other is None or other is item.output:
        return None
    # Both branches may be products; the later one in execution order adds.
    producer = other.producer()
    if producer is not None and (late := by_node.get(producer)) is not None:
        if position(scene, late) > position(scene, item):
            return None
    elif producer is not None and scene.order.get(producer, math.inf) > position(scene, item):
        return None
    fields = {**item.fields, **reader.fields}
    return item.merged(reader.nodes, reader.output, inputs=(item.inputs[0], other), fields=fields)


def _with_norm(item: Item, reader: Item) -> Item | None:
    """LayerNorm(a + b) in one operator, if nothing else reads the sum."""
    if item.fields.get("activation", Activation.NONE) is not Activation.NONE:
        return None
    return reader.merged(item.nodes, reader.output, inputs=item.inputs)
