"""RMSNorm over the last axis, decomposed as exporters write it, as items.

Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.items import Item, Scene, is_op, other_operand
from sparsec.backends.cpu.match_norm import is_square, over_last
from sparsec.backends.cpu.plan import Kind, OpCode


def rms_norm_items(scene: Scene) -> Iterator[Item]:
    """Yield every ``x / sqrt(mean(x^2) + eps) * gain``, divided or multiplied by the reciprocal."""
    for node in scene.order:
        if is_op(node, "ReduceMean") and over_last(scene, node):
            yield from _behind(scene, node)


def _behind(scene: Scene, mean: ir.Node) -> Iterator[Item]:
    square = mean.inputs[0].producer() if mean.inputs[0] is not None else None
    x = square.inputs[0] if square is not None and square.inputs else None
    if square is None or x is None or not is_square(scene, square, x):
        return
    nodes = [square, mean]
    for op_type in ("Add", "Sqrt"):
        following = scene.single_reader(nodes[-1].outputs[0])
        if not is_op(following, op_type):
            return
        nodes.append(following)
    plus = nodes[2]
    epsilon = scene.scalar(other_operand(plus, mean.outputs[0]))
    scaled = _scaled(scene, nodes, x)
    shape = scene.shape(x)
    if epsilon is None or epsilon < 0 or not scaled or shape is None or len(shape) < 2:
        return
    if not all(scene.only_read_by(n.outputs[0], set(nodes)) for n in nodes[:-1]):
        return
    channels = shape[-1]
    y, gain = nodes[-1].outputs[0], np.ones(channels, np.float32)
    last = scene.single_reader(y)
    if is_op(last, "Mul"):
        factor = scene.constant(other_operand(last, y))
        if factor is not None and factor.dtype == np.float32 and _per_channel(factor, channels):
            gain = np.broadcast_to(factor.reshape(-1), (channels,)).astype(np.float32)
            nodes.append(last)
            y = last.outputs[0]
    yield Item(
        OpCode.RMS_NORM, tuple(nodes), (x,), y, Kind.ROWS, channels, {"alpha": epsilon},
        {"gain": gain},
    )  # fmt: skip


def _scaled(scene: Scene, nodes: list[ir.Node], x: ir.Value) -> bool:
    """Append the node, or the two, that bring the root to ``x``; False if there are none."""
    root = nodes[-1].outputs[0]
    reader = scene.single_reader(root)
    if is_op(reader, "Div"):
        nodes.append(reader)
        return reader.inputs[0] is x and reader.inputs[1] is root
    if not is_op(reader, "Reciprocal"):
        return False
    product = scene.single_reader(reader.outputs[0])
    if not is_op(product, "Mul"):
        return False
    nodes += [reader, product]
    return other_operand(product, reader.outputs[0]) is x


def _per_channel(factor: np.ndarray, channels: int) -> bool:
    return factor.size in (1, channels) and (factor.ndim <= 1 or factor.shape[-1] == factor.size)
