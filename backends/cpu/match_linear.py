"""MatMul and Gemm with a constant weight as linear items."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.items import Item, Scene, is_op
from sparsec.backends.cpu.plan import Kind, OpCode
from sparsec.ir.sites import WeightSite


def linear_item(scene: Scene, node: ir.Node, site: WeightSite | None) -> Item | None:
    """Return ``y[.., M] = x[.., K] @ W.T`` for a node that computes it; else None."""
    if site is None or not is_op(node, "MatMul", "Gemm"):
        return None
    x, rank = node.inputs[0], scene.rank(node.inputs[0])
    if rank < 2 or scene.constant(x) is not None or site.layout.row_axes != 1 or not site.size:
        return None
    matrix = site.matrix().astype(np.float32)
    flatten = _flattened_pixel(scene, node)
    nodes, operand = ((node,), x) if flatten is None else ((flatten, node), flatten.inputs[0])
    item = Item(
        OpCode.LINEAR, nodes, (operand,), node.outputs[0],
        Kind.ROWS if flatten is None else Kind.IMAGE, matrix.shape[0],
        tensors={"weight": matrix}, site=site, flat=flatten is not None,
    )  # fmt: skip
    return item if node.op_type == "MatMul" else _gemm(scene, node, item)


def _flattened_pixel(scene: Scene, node: ir.Node) -> ir.Node | None:
    """Return what makes the rows that ``node`` reads of pooled images, as classifiers do; else None."""
    x = node.inputs[0]
    flatten = None if x is None else x.producer()
    if x is None or flatten not in scene.order or not scene.only_read_by(x, {node}):
        return None
    image = flatten.inputs[0] if is_op(flatten, "Flatten", "Reshape", "Squeeze") else None
    pooling = None if image is None else image.producer()
    if not is_op(pooling, "GlobalAveragePool", "ReduceMean"):
        return None
    if any(scene.constant(each) is None for each in flatten.inputs[1:]):
        return None  # a shape that nodes outside compute
    shapes = scene.shapes(image, x)
    pixels = shapes is not None and all(a[2:] == (1, 1) and a[:2] == b for a, b in shapes)
    return flatten if pixels and scene.rank(image) == 4 else None


def _gemm(scene: Scene, node: ir.Node, item: Item) -> Item | None:
    if node.attributes.get_int("transA", 0):
        return None
    alpha = node.attributes.get_float("alpha", 1.0)
    if not alpha:  # a plan holds alpha times the weights, and they are to be found in it
        return None
    tensors = {"weight": item.tensors["weight"] * np.float32(alpha)}
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = scene.constant(node.inputs[2])
        if bias is None or bias.dtype != np.float32 or bias.size not in (1, item.channels):
            return None
        if bias.ndim == 2 and bias.shape[0] != 1:
            return None
        beta = np.float32(node.attributes.get_float("beta", 1.0))
        tensors["bias"] = np.broadcast_to(bias.reshape(-1) * beta, (item.channels,)).astype(
            np.float32
        )
    return item.merged((), item.output, tensors=tensors)
