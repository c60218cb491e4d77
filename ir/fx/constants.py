"""Constants and attributes of ONNX nodes as Python and torch values."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch

from sparsec.ir.fx import host as hv
from sparsec.ir.fx.dtypes import to_torch, torch_dtype

#: Attributes that hold an element type as a number.
DTYPE_ATTRIBUTES = frozenset(
    {"to", "dtype", "output_dtype", "output_datatype", "softmax_precision"}
)

#: Longest int64 or bool constant that is written into a call instead of kept as a buffer.
LITERAL_LIMIT = 16


def constant_of(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer or of a Constant node; None for a computed value."""
    producer = value.producer()
    if producer is None:
        return value.const_value if value.is_initializer() else None
    if producer.op_type != "Constant" or producer.domain not in ("", "ai.onnx"):
        return None
    (attribute,) = producer.attributes.values()
    if attribute.name == "value":
        return attribute.as_tensor()
    if attribute.name in ("value_int", "value_ints"):
        return ir.tensor(attribute.value, dtype=ir.DataType.INT64)
    if attribute.name in ("value_float", "value_floats"):
        return ir.tensor(attribute.value, dtype=ir.DataType.FLOAT)
    return None


def small_literal(tensor: ir.TensorProtocol) -> hv.Value:
    """Return a short int64 or bool number or vector as a host value, None for other constants."""
    small = len(tensor.shape) <= 1 and math.prod(tensor.shape.numpy()) <= LITERAL_LIMIT
    if small and tensor.dtype in (ir.DataType.INT64, ir.DataType.BOOL):
        return hv.to_host(to_torch(tensor))
    return None


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """Return a node's attributes as keyword arguments, graphs left out.

    Element types come as :class:`torch.dtype`, lists as tuples, and the one-element tensor of
    ConstantOfShape as ``value`` and ``dtype``. Raises KeyError for an element type torch lacks.
    """
    result: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        kind = attribute.type
        if kind in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            continue
        if kind == ir.AttributeType.TENSOR:
            tensor = to_torch(attribute.as_tensor()).reshape(-1)
            result[name], result["dtype"] = tensor[0].item(), tensor.dtype
        elif name in DTYPE_ATTRIBUTES and kind == ir.AttributeType.INT:
            if attribute.as_int():
                result[name] = _dtype(attribute.as_int())
        else:
            value = attribute.value
            result[name] = tuple(value) if isinstance(value, (list, tuple)) else value
    return result


def _dtype(code: int) -> torch.dtype:
    dtype = torch_dtype(code)
    if dtype is None:
        raise KeyError(ir.DataType(code).name)
    return dtype
