"""What the clean-ups must know of an operator before they touch its node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# Two evaluations differ, or may: merging or folding them would change the model.
_RANDOM = {
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip

# Constants above this many bytes are weights: they are neither read nor computed with.
SMALL = 1 << 16

# The dtypes that numpy and the runtime exchange.
PLAIN = {
    ir.DataType.BOOL, ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE,
    ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64,
    ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64,
}  # fmt: skip


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether ``node`` is of the standard domain, and one of ``op_types`` if any are given."""
    return node.domain in ("", "ai.onnx") and (not op_types or node.op_type in op_types)


def is_pure(node: ir.Node) -> bool:
    """Whether the outputs of ``node`` depend on its inputs and attributes only, as far as is known.

    An operator of another domain is never known, and one with a body may hold random nodes.
    """
    if not is_standard(node) or node.op_type in _RANDOM:
        return False
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return not any(a.is_ref() or a.type in graphs for a in node.attributes.values())


def opset(model: ir.Model) -> int:
    """Return the version of the standard domain; 0 if the model declares none."""
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield the graph of ``model`` and every body inside it."""
    yield model.graph
    yield from model.graph.subgraphs()


def is_constant(value: ir.Value | None) -> bool:
    """Whether ``value`` is an initializer that no caller can override."""
    return value is not None and value.is_initializer() and not value.is_graph_input()


def small_constant(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the array of a small constant of an ordinary dtype; None for everything else."""
    if value is None or not is_constant(value):
        return None
    tensor = value.const_value
    if tensor is None or tensor.dtype not in PLAIN or tensor.nbytes > SMALL:
        return None
    return tensor.numpy()


def parameter(node: ir.Node, index: int, attribute: str) -> NDArray[Any] | None:
    """Return a parameter that old opsets store as an attribute and new ones as a constant input.

    None if it is computed or left out; :func:`has_parameter` tells the two apart.
    """
    if attribute in node.attributes:
        return np.asarray(node.attributes[attribute].value)
    return small_constant(node.inputs[index]) if len(node.inputs) > index else None


def has_parameter(node: ir.Node, index: int, attribute: str) -> bool:
    """Whether the parameter is given at all."""
    given = len(node.inputs) > index and node.inputs[index] is not None
    return given or attribute in node.attributes
