"""Activations, in one node or decomposed, and residual additions as items."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from sparsec.backends.cpu.items import Item, Scene, is_op, other_operand
from sparsec.backends.cpu.plan import Activation, Kind, OpCode

_SQRT2 = math.sqrt(2)


def activation_items(scene: Scene) -> Iterator[Item]:
    """Yield every activation of the graph that a plan knows."""
    for node in scene.order:
        if is_op(node, "Relu"):
            yield from _item(scene, (node,), node.inputs[0], node.outputs[0], clip(0.0, math.inf))
        elif is_op(node, "Clip"):
            bounds = _clip_bounds(scene, node)
            if bounds is not None:
                yield from _item(scene, (node,), node.inputs[0], node.outputs[0], clip(*bounds))
        elif is_op(node, "Gelu"):
            tanh = node.attributes.get_string("approximate", "none") == "tanh"
            kind = Activation.GELU_TANH if tanh else Activation.GELU
            yield from _item(scene, (node,), node.inputs[0], node.outputs[0], {"activation": kind})
        elif is_op(node, "HardSwish"):
            fields = {"activation": Activation.HARD_SWISH}
            yield from _item(scene, (node,), node.inputs[0], node.outputs[0], fields)
        elif is_op(node, "Erf"):
            yield from _gelu(scene, node)
        elif is_op(node, "Sigmoid"):
            yield from _silu(scene, node)


def clip(low: float, high: float) -> dict[str, Any]:
    """Return the fields of a clip."""
    return {"activation": Activation.CLIP, "low": low, "high": high}


def add_item(scene: Scene, node: ir.Node) -> Item | None:
    """Return the sum of two activations of one shape; else None."""
    return _of_two(scene, node, OpCode.ADD) if is_op(node, "Add") else None


def multiply_item(scene: Scene, node: ir.Node) -> Item | None:
    """Return the product of two activations of one shape, as behind a gate; else None."""
    item = _of_two(scene, node, OpCode.MULTIPLY) if is_op(node, "Mul") else None
    return item if item is not None and item.kind is Kind.ROWS else None


def _of_two(scene: Scene, node: ir.Node, code: OpCode) -> Item | None:
    """Return a node of two operands that nodes compute, of one shape; else None."""
    a, b = node.inputs
    if scene.constant(a) is not None or scene.constant(b) is not None or not scene.same_shape(a, b):
        return None
    kind, channels = _kind(scene, node.outputs[0])
    return None if kind is None else Item(code, (node,), (a, b), node.outputs[0], kind, channels)


def _kind(scene: Scene, value: ir.Value) -> tuple[Kind | None, int]:
    shape = scene.shape(value)
    if shape is None or len(shape) < 2:
        return None, 0
    return (Kind.IMAGE, shape[1]) if len(shape) == 4 else (Kind.ROWS, shape[-1])


def _item(
    scene: Scene,
    nodes: tuple[ir.Node, ...],
    x: ir.Value | None,
    y: ir.Value,
    fields: dict[str, Any],
) -> Iterator[Item]:
    kind, channels = _kind(scene, y)
    if kind is not None and x is not None:
        yield Item(OpCode.ACTIVATION, nodes, (x,), y, kind, channels, fields)


def _clip_bounds(scene: Scene, node: ir.Node) -> tuple[float, float] | None:
    low, high = -math.inf, math.inf
    if len(node.inputs) > 1 or not node.attributes:
        bounds = [*node.inputs[1:], None, None][:2]
        for i, bound in enumerate(bounds):
            if bound is None:
                continue
            number = scene.scalar(bound)
            if number is None:
                return None
            low, high = (number, high) if i == 0 else (low, number)
    else:
        low = node.attributes.get_float("min", low)
        high = node.attributes.get_float("max", high)
    return (low, high) if low <= high else None


def _gelu(scene: Scene, erf: ir.Node) -> Iterator[Item]:
    """Match ``x * (erf(x / sqrt 2) + 1) * 0.5`` in any order of its two multiplications."""
    inner = None if erf.inputs[0] is None else erf.inputs[0].producer()
    x = None if inner is None else _over_root_of_two(scene, inner)
    plus = scene.single_reader(erf.outputs[0])
    if inner is None or x is None or not is_op(plus, "Add"):
        return
    if scene.scalar(other_operand(plus, erf.outputs[0])) != 1.0:
        return
    nodes = [inner, erf, plus]
    value, has_x, has_half = plus.outputs[0], False, False
    while not (has_x and has_half):
        reader = scene.single_reader(value)
        if not is_op(reader, "Mul"):
            return
        other = other_operand(reader, value)
        half = None if other is None else other.producer()
        if scene.scalar(other) == 0.5 and not has_half:
            has_half = True
        elif other is x and not has_x:
            has_x = True
        elif not has_x and not has_half and half is not None and _is_half_of(scene, half, x):
            has_x = has_half = True
            nodes.append(half)
        else:
            return
        nodes.append(reader)
        value = reader.outputs[0]
    if all(scene.only_read_by(n.outputs[0], set(nodes)) for n in nodes[:-1]):
        yield from _item(scene, tuple(nodes), x, value, {"activation": Activation.GELU})


def _over_root_of_two(scene: Scene, node: ir.Node) -> ir.Value | None:
    """Return the x of a node that computes ``x / sqrt 2``; None for any other."""
    if is_op(node, "Div"):
        x, factor, wanted = node.inputs[0], scene.scalar(node.inputs[1]), _SQRT2
    elif is_op(node, "Mul"):
        x = node.inputs[0] if scene.scalar(node.inputs[1]) is not None else node.inputs[1]
        factor, wanted = scene.scalar(other_operand(node, x)), 1 / _SQRT2
    else:
        return None
    return x if factor is not None and abs(factor - wanted) < 1e-4 else None


def _is_half_of(scene: Scene, node: ir.Node, x: ir.Value) -> bool:
    return is_op(node, "Mul") and x in node.inputs and scene.scalar(other_operand(node, x)) == 0.5


def _silu(scene: Scene, sigmoid: ir.Node) -> Iterator[Item]:
    x, gate = sigmoid.inputs[0], sigmoid.outputs[0]
    reader = scene.single_reader(gate)
    if x is not None and is_op(reader, "Mul") and other_operand(reader, gate) is x:
        fields = {"activation": Activation.SILU}
        yield from _item(scene, (sigmoid, reader), x, reader.outputs[0], fields)
