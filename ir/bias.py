"""The bias of a layer that reads a weight: where it lies, and how to add to it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.operators import is_constant, is_standard
from sparsec.ir.cleanup.rewire import display_name, new_constant

SUFFIX = ".compensation"
"""Ends the names of the constants that are added to a graph here."""


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Bias:
    """A constant that is added to what one node returns, and read by nothing else.

    Parameters
    ----------
    value : onnx_ir.Value
    """

    value: ir.Value

    def add(self, shift: NDArray[Any]) -> None:
        """Add ``shift``, float [out], one number for each output of the layer."""
        tensor = self.value.const_value
        assert tensor is not None
        old = tensor.numpy()
        total = old.astype(np.float64) + shift.reshape(old.shape)
        self.value.const_value = ir.tensor(total.astype(old.dtype), name=self.value.name)


def own_bias(node: ir.Node, index: int, outputs: tuple[int, ...]) -> Bias:
    """Return the bias of a node, made if it has none of its own.

    What the graph returns does not change. A bias that is shared, or of another shape, is copied.

    Parameters
    ----------
    node : onnx_ir.Node
        Conv, Gemm or MatMul.
    index : int
        Which of its inputs is the weight.
    outputs : tuple of int
        Sizes of what each row of the weight makes: ``[out]``, or ``[*batch, out]`` of a batched
        MatMul.
    """
    dtype = _dtype(node)
    if node.op_type == "Conv":
        return _as_input(node, outputs, dtype)
    shape = (*outputs, 1) if index == 0 else (*outputs[:-1], 1, outputs[-1])
    if node.op_type == "Gemm":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        flat = (outputs[0], 1) if index == 0 else outputs
        if bias is None or (is_constant(bias) and _fits(bias, flat)):
            return _as_input(node, flat, dtype)
    elif index == 1 and len(outputs) == 1:
        shape = outputs
    return _as_add(node, shape, dtype)


def _dtype(node: ir.Node) -> np.dtype[Any]:
    for value in (*node.inputs[:2], *node.outputs[:1]):
        if value is not None and value.dtype is not None:
            return np.dtype(value.dtype.numpy())
    return np.dtype(np.float32)


def _fits(value: ir.Value, shape: tuple[int, ...]) -> bool:
    """Whether a constant can be spread to ``shape`` without losing numbers."""
    assert value.const_value is not None
    own = tuple(value.const_value.shape.numpy())
    try:
        return np.broadcast_shapes(own, shape) == shape
    except ValueError:
        return False


def _as_input(node: ir.Node, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Bias:
    """Return the third input of Conv or Gemm."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    beta = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    if bias is not None and beta == 1.0 and _is_own(bias, shape):
        return Bias(bias)
    if bias is None:
        array = np.zeros(shape, dtype)
    else:
        assert bias.const_value is not None
        array = np.broadcast_to(bias.const_value.numpy() * dtype.type(beta), shape)
    value = new_constant(graph, _name(node), np.ascontiguousarray(array, dtype))
    node.resize_inputs(3)
    node.replace_input_with(2, value)
    node.attributes.pop("beta", None)
    return Bias(value)


def _is_own(value: ir.Value, shape: tuple[int, ...]) -> bool:
    """Whether a constant of this very shape has one reader."""
    tensor = value.const_value
    return (
        is_constant(value)
        and tensor is not None
        and tuple(tensor.shape.numpy()) == shape
        and len(value.uses()) == 1
        and not value.is_graph_output()
    )


def _as_add(node: ir.Node, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Bias:
    """Return the constant of the Add behind a node; one is put there if there is none."""
    out, graph = node.outputs[0], node.graph
    assert isinstance(graph, ir.Graph)
    uses = out.uses()
    if len(uses) == 1 and not out.is_graph_output():
        reader = next(iter(uses))[0]
        others = [value for value in reader.inputs if value is not out]
        if is_standard(reader, "Add") and len(others) == 1:
            (constant,) = others
            if constant is not None and _is_own(constant, shape):
                return Bias(constant)
    value = new_constant(graph, _name(node), np.zeros(shape, dtype))
    add = ir.Node("", "Add", [out, value], num_outputs=1, name=f"{display_name(node)}{SUFFIX}")
    total = add.outputs[0]
    total.shape, total.type = out.shape, out.type
    name = out.name
    out.replace_all_uses_with(total, replace_graph_outputs=True)
    add.replace_input_with(0, out)
    graph.insert_after(node, add)
    # Whoever looks for the value by its name, the caller of the graph above all, finds the sum.
    out.name, total.name = f"{name}.uncompensated", name
    return Bias(value)


def _name(node: ir.Node) -> str:
    return f"{display_name(node)}{SUFFIX}"
