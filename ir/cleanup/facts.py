"""What is certain about the values of a graph: dtypes and dimensions that follow from its inputs.

Types and shapes that a file states for inner values are claims: exporters write stale ones, and
tools edit graphs without updating them. A clean-up that trusts a wrong one changes the model.
Here they are dropped, and what is known is inferred anew (by ONNX's own inference) from the graph
inputs, which the runtime enforces, and the initializers, which are there to see.
"""

from __future__ import annotations

import dataclasses

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from sparsec.ir.cleanup.operators import SMALL

Dim = int | str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """Inferred dtypes and shapes; a value that is missing is unknown.

    Parameters
    ----------
    dtypes : dict of onnx_ir.Value to onnx_ir.DataType
    shapes : dict of onnx_ir.Value to tuple
        A dimension is an int, a symbol (equal symbols are equal sizes), or None.
    """

    dtypes: dict[ir.Value, ir.DataType] = dataclasses.field(default_factory=dict)
    shapes: dict[ir.Value, tuple[Dim, ...]] = dataclasses.field(default_factory=dict)

    def static_shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Return the shape if every dimension of ``value`` is a number."""
        shape = self.shapes.get(value) if value is not None else None
        if shape is None:
            return None
        sizes = tuple(dim for dim in shape if isinstance(dim, int))
        return sizes if len(sizes) == len(shape) else None


def infer_facts(model: ir.Model) -> Facts:
    """Infer dtypes and shapes of the values of the main graph.

    Bodies of If, Loop and Scan see what they capture from the main graph; their own values stay
    unknown. Where inference fails as a whole, only inputs and initializers are known.
    """
    facts = Facts()
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if value.const_value is not None:
                facts.dtypes[value] = value.const_value.dtype
                facts.shapes[value] = tuple(int(dim) for dim in value.const_value.shape.numpy())
    by_name = _infer(model)
    inner = [out for node in model.graph for out in node.outputs if out.name]
    for value in model.graph.inputs:
        _state(facts, value, value.dtype, _dims(value.shape))
    for value in inner:
        if value.name in by_name:
            _state(facts, value, *by_name[value.name])
    return facts


def _state(
    facts: Facts, value: ir.Value, dtype: ir.DataType | None, shape: tuple[Dim, ...] | None
) -> None:
    if dtype is not None and dtype != ir.DataType.UNDEFINED:
        facts.dtypes.setdefault(value, dtype)
    if shape is not None:
        facts.shapes.setdefault(value, shape)


def _dims(shape: ir.Shape | None) -> tuple[Dim, ...] | None:
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def _infer(model: ir.Model) -> dict[str, tuple[ir.DataType, tuple[Dim, ...] | None]]:
    """Return dtype and shape of inner values of the main graph by name."""
    skeleton = model.clone()
    graph = skeleton.graph
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for out in node.outputs:
            out.shape, out.type = None, None
    # Weights become inputs of the same type: inference needs their shapes, never their content.
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > SMALL:
            value.shape = ir.Shape([int(dim) for dim in tensor.shape.numpy()])
            value.type = ir.TensorType(tensor.dtype)
            del graph.initializers[name]
            if not value.is_graph_input():
                graph.inputs.append(value)
    try:
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(skeleton), data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, EncodeError):
        return {}  # an operator with wrong inputs, or a body of more than 2 GB
    found = {}
    for info in (*proto.graph.value_info, *proto.graph.output):
        if info.type.HasField("tensor_type"):
            tensor_type = info.type.tensor_type
            shape = None
            if tensor_type.HasField("shape"):
                shape = tuple(_dim(dim) for dim in tensor_type.shape.dim)
            found[info.name] = (ir.DataType(tensor_type.elem_type), shape)
    return found


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return dim.dim_param or None
