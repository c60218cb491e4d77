"""Computing one node on constants, with the runtime that would have computed it.

ONNX Runtime evaluates the node as it stands, so a folded value is the one that the model would have
seen, in every opset and for every dtype. The size of the result is inferred before anything runs:
what would need much memory, and what has a size that depends on data, is not computed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.operators import PLAIN, SMALL

Array = NDArray[Any]


class Evaluator:
    """Evaluates nodes on constants, and remembers what it has computed.

    Exporters repeat the same few shape computations hundreds of times.

    Parameters
    ----------
    opset : int
        Version of the standard domain.
    """

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._seen: dict[tuple[bytes, ...], list[Array] | None] = {}

    def __call__(self, node: ir.Node, inputs: list[Array | None]) -> list[Array] | None:
        """Return the outputs of a pure standard ``node``; None if it cannot or must not run."""
        return self.evaluate(ir.serde.serialize_node(node), inputs)

    def evaluate(self, proto: onnx.NodeProto, inputs: list[Array | None]) -> list[Array] | None:
        """As above, from the node's protobuf; its names are replaced."""
        del proto.metadata_props[:]
        proto.name = proto.doc_string = ""
        proto.input[:] = ["" if array is None else f"i{i}" for i, array in enumerate(inputs)]
        proto.output[:] = [f"o{i}" for i in range(len(proto.output))]
        constants = [
            onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), f"i{i}")
            for i, array in enumerate(inputs)
            if array is not None
        ]
        key = (proto.SerializeToString(), *(constant.SerializeToString() for constant in constants))
        if key not in self._seen:
            self._seen[key] = self._compute(proto, constants)
        return self._seen[key]

    def _compute(
        self, node: onnx.NodeProto, constants: list[onnx.TensorProto]
    ) -> list[Array] | None:
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
        graph = onnx.helper.make_graph([node], "constant", [], outputs, constants)
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", self._opset)], ir_version=8
        )
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
            return None
        if not all(_is_small(info.type) for info in inferred.graph.output):
            return None
        return _run(inferred)


def _is_small(kind: onnx.TypeProto) -> bool:
    """Whether a type is a tensor of known size that may be held in memory."""
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return False
    dtype, dims = ir.DataType(kind.tensor_type.elem_type), kind.tensor_type.shape.dim
    if dtype not in PLAIN or not all(dim.HasField("dim_value") for dim in dims):
        return False
    count: int = math.prod(dim.dim_value for dim in dims)
    return 0 <= count * dtype.itemsize <= SMALL


def _run(model: onnx.ModelProto) -> list[Array] | None:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    from sparsec.ir.run import session_options

    options = session_options(optimise=False)
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        results = session.run(None, {})
    except (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
    ):
        return None  # the runtime has no kernel for it, or refuses it: the node stays as it is
    return results if all(isinstance(array, np.ndarray) for array in results) else None
