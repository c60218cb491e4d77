"""Multi-head attention of primitive operators as one item.

::

    softmax(alpha * Q K^T + mask) V     with Q, K, V [B, L, h * d] split into heads by
                                        Reshape [B, L, h, d] and Transpose, and merged again
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from sparsec.backends.cpu.items import Item, Scene, is_op
from sparsec.backends.cpu.plan import Kind, OpCode

_SPLIT = (0, 2, 1, 3)
_SPLIT_TRANSPOSED = (0, 2, 3, 1)


@dataclasses.dataclass(slots=True)
class _Trail:
    """Nodes walked over, and the product of the scalar factors among them."""

    nodes: list[ir.Node]
    factor: float = 1.0


def attention_items(scene: Scene) -> Iterator[Item]:
    """Yield every attention of the graph that a plan can express."""
    for node in scene.order:
        if is_op(node, "Softmax") and _last_axis(scene, node):
            item = _attention(scene, node)
            if item is not None:
                yield item


def _last_axis(scene: Scene, node: ir.Node) -> bool:
    # Before opset 13 all axes from the second on were the default.
    default = -1 if scene.opset >= 13 else 1
    return scene.rank(node.inputs[0]) == 4 and node.attributes.get_int("axis", default) in (-1, 3)


def _attention(scene: Scene, softmax: ir.Node) -> Item | None:
    trail = _Trail([softmax])
    value, mask = softmax.inputs[0], None
    node = _producer(value)
    if is_op(node, "Add"):
        scores, mask = _scores_and_mask(scene, node)
        if scores is None:
            return None
        trail.nodes.append(node)
        value, node = scores, _producer(scores)
    value = _unscale(scene, value, trail)
    product = _producer(value)
    weighted = scene.single_reader(softmax.outputs[0])
    if not is_op(product, "MatMul") or not is_op(weighted, "MatMul"):
        return None
    if weighted.inputs[0] is not softmax.outputs[0]:
        return None
    trail.nodes += [product, weighted]
    q = _head_source(scene, product.inputs[0], trail, transposed=False)
    k = _head_source(scene, product.inputs[1], trail, transposed=True)
    plain = _Trail(trail.nodes)
    v = _head_source(scene, weighted.inputs[1], plain, transposed=False)
    merged = _merge(scene, weighted.outputs[0], trail)
    shapes = scene.shapes(q, k, v, merged)
    if shapes is None or any(len(set(four)) != 1 for four in shapes) or plain.factor != 1.0:
        return None
    if mask is not None and scene.rank(mask) != 4:
        return None
    if not all(
        scene.only_read_by(n.outputs[0], set(trail.nodes))
        for n in trail.nodes
        if n.outputs[0] is not merged
    ):
        return None
    heads = (scene.shape(softmax.inputs[0]) or (0, 0))[1]
    assert merged is not None
    fields = {"heads": heads, "alpha": trail.factor}
    inputs = (q, k, v) if mask is None else (q, k, v, mask)
    return Item(
        OpCode.ATTENTION,
        tuple(dict.fromkeys(trail.nodes)),
        inputs,
        merged,
        Kind.ROWS,
        shapes[0][0][-1],
        fields,
    )


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _scores_and_mask(scene: Scene, add: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """Tell the scores from the mask: the mask does not come from a product of its own shape."""
    for scores, mask in (add.inputs, reversed(list(add.inputs))):
        node = _producer(scores)
        shapes = scene.shapes(scores, add.outputs[0])
        if shapes is None or not is_op(node, "MatMul", "Div", "Mul"):
            continue
        if all(old == new for old, new in shapes):
            return scores, mask
    return None, None


def _unscale(scene: Scene, value: ir.Value | None, trail: _Trail) -> ir.Value | None:
    """Walk back over multiplications and divisions by a constant."""
    while is_op(node := _producer(value), "Mul", "Div"):
        divisor = scene.scalar(node.inputs[1])
        if divisor is not None:
            trail.factor *= divisor if node.op_type == "Mul" else 1.0 / divisor
            value = node.inputs[0]
        elif node.op_type == "Mul" and (factor := scene.scalar(node.inputs[0])) is not None:
            trail.factor *= factor
            value = node.inputs[1]
        else:
            return value
        trail.nodes.append(node)
    return value


def _head_source(
    scene: Scene, value: ir.Value | None, trail: _Trail, *, transposed: bool
) -> ir.Value | None:
    """Walk back from ``[B, h, L, d]`` (transposed: ``[B, h, d, L]``) to ``[B, L, h * d]``."""
    value = _unscale(scene, value, trail)
    perms = []
    while is_op(node := _producer(value), "Transpose"):
        perms.append(tuple(node.attributes.get_ints("perm", ()) or ()))
        trail.nodes.append(node)
        value = _unscale(scene, node.inputs[0], trail)
    if any(len(perm) != 4 for perm in perms):
        return None
    total = tuple(range(4))
    for perm in reversed(perms):  # the earliest acts first
        total = tuple(total[axis] for axis in perm)
    reshape = _producer(value)
    wanted = _SPLIT_TRANSPOSED if transposed else _SPLIT
    if total != wanted or not is_op(reshape, "Reshape"):
        return None
    source = reshape.inputs[0]
    shapes = scene.shapes(source, value)
    if shapes is None or any(len(old) != 3 or new[:2] != old[:2] for old, new in shapes):
        return None
    trail.nodes.append(reshape)
    return _unscale(scene, source, trail)


def _merge(scene: Scene, value: ir.Value, trail: _Trail) -> ir.Value | None:
    """Walk on from ``[B, h, L, d]`` to ``[B, L, h * d]``."""
    transpose = scene.single_reader(value)
    if not is_op(transpose, "Transpose"):
        return None
    if tuple(transpose.attributes.get_ints("perm", ()) or ()) != _SPLIT:
        return None
    reshape = scene.single_reader(transpose.outputs[0])
    if not is_op(reshape, "Reshape"):
        return None
    shapes = scene.shapes(transpose.outputs[0], reshape.outputs[0])
    if shapes is None or any(len(new) != 3 or new[:2] != old[:2] for old, new in shapes):
        return None
    trail.nodes += [transpose, reshape]
    return reshape.outputs[0]
