"""Convolutions and pooling over images as items."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.items import Item, Scene, is_op
from sparsec.backends.cpu.plan import Kind, OpCode
from sparsec.ir.sites import WeightSite

_MAX_WINDOW = 64
_PLAIN = {"kernel": (1, 1), "stride": (1, 1), "pads": (0, 0, 0, 0), "dilation": (1, 1)}


def window_item(scene: Scene, node: ir.Node, site: WeightSite | None) -> Item | None:
    """Return the item of a Conv, MaxPool or GlobalAveragePool over an image; else None."""
    shape = scene.shape(node.inputs[0]) if node.inputs else None
    if shape is None or len(shape) != 4 or scene.constant(node.inputs[0]) is not None:
        return None
    if is_op(node, "Conv"):
        return _conv(scene, node, site, shape[1])
    x, channels = node.inputs[0], shape[1]
    if is_op(node, "GlobalAveragePool"):
        return Item(
            OpCode.GLOBAL_AVERAGE_POOL, (node,), (x,), node.outputs[0], Kind.IMAGE, channels
        )
    if is_op(node, "ReduceMean") and _over_pixels(scene, node):
        return Item(
            OpCode.GLOBAL_AVERAGE_POOL, (node,), (x,), node.outputs[0], Kind.IMAGE, channels
        )
    if is_op(node, "MaxPool") and len(node.outputs) == 1:
        fields = _window(scene, node, None)
        if fields is None or node.attributes.get_int("ceil_mode", False):
            return None
        return Item(OpCode.MAX_POOL, (node,), (x,), node.outputs[0], Kind.IMAGE, channels, fields)
    return None


def _over_pixels(scene: Scene, node: ir.Node) -> bool:
    if not node.attributes.get_int("keepdims", 1):
        return False
    axes: Any = node.attributes.get_ints("axes", ())
    if not axes and len(node.inputs) > 1:
        constant = scene.constant(node.inputs[1])
        axes = None if constant is None else constant.tolist()
    return axes is not None and {int(axis) % 4 for axis in axes} == {2, 3}


def _conv(scene: Scene, node: ir.Node, site: WeightSite | None, channels: int) -> Item | None:
    weight = scene.constant(node.inputs[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim != 4:
        return None
    fields = _window(scene, node, weight.shape[2:])
    if fields is None:
        return None
    out, group = weight.shape[0], node.attributes.get_int("group", 1)
    tensors = {"weight": np.ascontiguousarray(weight.reshape(out, -1), np.float32)}
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = scene.constant(node.inputs[2])
        if bias is None:
            return None
        tensors["bias"] = bias.astype(np.float32)
    if group == 1:
        code = OpCode.LINEAR if fields == _PLAIN else OpCode.CONV
    elif group == channels == out:
        code = OpCode.DEPTHWISE
    else:
        return None
    if code is OpCode.LINEAR:
        fields = {}
    return Item(
        code, (node,), (node.inputs[0],), node.outputs[0], Kind.IMAGE, out, fields, tensors, site
    )


def _window(scene: Scene, node: ir.Node, kernel: tuple[int, ...] | None) -> dict[str, Any] | None:
    """Return the window's fields of a plan; None if a plan cannot express it."""
    attributes = node.attributes
    shape = kernel or tuple(attributes.get_ints("kernel_shape", ()) or ())
    if len(shape) != 2:
        return None
    fields = {
        "kernel": tuple(int(k) for k in shape),
        "stride": tuple(attributes.get_ints("strides", ()) or (1, 1)),
        "pads": (0, 0, 0, 0),
        "dilation": tuple(attributes.get_ints("dilations", ()) or (1, 1)),
    }
    auto_pad = attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    if auto_pad == "NOTSET":
        fields["pads"] = tuple(attributes.get_ints("pads", ()) or (0, 0, 0, 0))
    elif auto_pad != "VALID":
        pads = _same_pads(scene, node, fields, upper=auto_pad == "SAME_UPPER")
        if pads is None:
            return None
        fields["pads"] = pads
    sizes = (*fields["kernel"], *fields["stride"], *fields["dilation"])
    if max(sizes) > _MAX_WINDOW or min(fields["pads"]) < 0:
        return None
    return fields


def _same_pads(
    scene: Scene, node: ir.Node, fields: dict[str, Any], *, upper: bool
) -> tuple[int, ...] | None:
    """Return pads (beginnings, then ends) that make an output of ceil(input / stride).

    At a stride of 1 they are the same for every size, at another one known for a size that is
    declared; None if they depend on the feed.
    """
    if fields["dilation"] != (1, 1):  # which ONNX Runtime refuses, too
        return None
    declared = node.inputs[0].shape if node.inputs[0] is not None else None
    seen = scene.shape(node.inputs[0])
    less, more = [], []
    for axis, (k, stride) in enumerate(zip(fields["kernel"], fields["stride"], strict=True)):
        missing = k - 1
        if stride > 1 and k > 1:
            size = None if declared is None or len(declared) != 4 else declared[2 + axis]
            if not isinstance(size, int) or seen is None or seen[2 + axis] != size:
                return None
            missing = max((math.ceil(size / stride) - 1) * stride + k - size, 0)
        less.append(missing // 2)
        more.append(missing - missing // 2)
    return (*less, *more) if upper else (*more, *less)
