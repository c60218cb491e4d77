"""LayerNorm over the last axis, in one node or decomposed, as items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.cpu.items import Item, Scene, is_op, other_operand
from sparsec.backends.cpu.plan import Kind, OpCode


def layer_norm_items(scene: Scene) -> Iterator[Item]:
    """Yield every LayerNorm of the graph that a plan can express."""
    for node in scene.order:
        if is_op(node, "LayerNormalization"):
            yield from _single(scene, node)
        elif is_op(node, "ReduceMean"):
            yield from _decomposed(scene, node)


def _item(
    scene: Scene,
    nodes: tuple[ir.Node, ...],
    x: ir.Value | None,
    y: ir.Value,
    gain: NDArray[np.float32],
    shift: NDArray[np.float32],
    epsilon: float,
) -> Iterator[Item]:
    shape = scene.shape(x)
    if shape is None or len(shape) < 2:
        return
    channels = shape[-1]
    if gain.size not in (1, channels) or shift.size not in (1, channels):
        return
    tensors = {
        "gain": np.broadcast_to(gain.reshape(-1), (channels,)).astype(np.float32),
        "bias": np.broadcast_to(shift.reshape(-1), (channels,)).astype(np.float32),
    }
    yield Item(OpCode.LAYER_NORM, nodes, (x,), y, Kind.ROWS, channels, {"alpha": epsilon}, tensors)


def _single(scene: Scene, node: ir.Node) -> Iterator[Item]:
    rank = scene.rank(node.inputs[0])
    if node.attributes.get_int("axis", -1) not in (-1, rank - 1) or len(node.outputs) != 1:
        return
    gain = scene.constant(node.inputs[1])
    shift = scene.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.float32)
    if gain is None or shift is None or gain.ndim != 1:
        return
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    yield from _item(scene, (node,), node.inputs[0], node.outputs[0], gain, shift, epsilon)


def over_last(scene: Scene, node: ir.Node) -> bool:
    """Whether a reduction is over the last axis alone, which it keeps."""
    axes: Sequence[int] | None = node.attributes.get_ints("axes", ())
    if not axes and len(node.inputs) > 1:
        constant = scene.constant(node.inputs[1])
        axes = None if constant is None else [int(a) for a in constant.reshape(-1)]
    rank = scene.rank(node.inputs[0])
    return bool(
        rank and axes is not None and [axis % rank for axis in axes] == [rank - 1]
    ) and bool(node.attributes.get_int("keepdims", 1))


def _decomposed(scene: Scene, mean: ir.Node) -> Iterator[Item]:
    """Match ``(x - mean) / sqrt(mean((x - mean)^2) + eps) * gain + shift``; the last two may be absent."""
    found = _normalised(scene, mean)
    if found is None:
        return
    nodes, epsilon = found
    x, y = mean.inputs[0], nodes[-1].outputs[0]
    channels = (scene.shape(x) or (0,))[-1]
    factors = []
    for op_type, neutral in (("Mul", 1.0), ("Add", 0.0)):
        reader = scene.single_reader(y)
        constant = None
        if is_op(reader, op_type):
            constant = scene.constant(other_operand(reader, y))
        if reader is None or constant is None or constant.size not in (1, channels):
            factors.append(np.full(1, neutral, np.float32))
            continue
        if constant.ndim and constant.size != constant.shape[-1]:
            return
        factors.append(constant.astype(np.float32))
        nodes.append(reader)
        y = reader.outputs[0]
    gain, shift = factors
    yield from _item(scene, tuple(nodes), x, y, gain, shift, epsilon)


def _normalised(scene: Scene, mean: ir.Node) -> tuple[list[ir.Node], float] | None:
    """Return the nodes of ``(x - mean) / sqrt(mean((x - mean)^2) + eps)``, the division last, and eps."""
    centre = scene.single_reader(mean.outputs[0])
    if not over_last(scene, mean) or not is_op(centre, "Sub"):
        return None
    if centre.inputs[0] is not mean.inputs[0]:
        return None
    centred = centre.outputs[0]
    square = next((n for n in scene.consumers(centred) if is_square(scene, n, centred)), None)
    divide = next((n for n in scene.consumers(centred) if is_op(n, "Div")), None)
    if square is None or divide is None or scene.consumers(centred) != {square, divide}:
        return None
    chain = [square]
    for op_type in ("ReduceMean", "Add", "Sqrt", "Div"):
        following = scene.single_reader(chain[-1].outputs[0])
        if not is_op(following, op_type):
            return None
        chain.append(following)
    _, variance, plus, root, last = chain
    epsilon = scene.scalar(other_operand(plus, variance.outputs[0]))
    if last is not divide or epsilon is None or not over_last(scene, variance):
        return None
    if divide.inputs[0] is not centred or divide.inputs[1] is not root.outputs[0]:
        return None
    return [mean, centre, square, variance, plus, root, divide], epsilon


def is_square(scene: Scene, node: ir.Node, value: ir.Value) -> bool:
    """Whether a node squares ``value``."""
    if is_op(node, "Pow"):
        return node.inputs[0] is value and scene.scalar(node.inputs[1]) == 2.0
    return is_op(node, "Mul") and node.inputs[0] is value and node.inputs[1] is value
