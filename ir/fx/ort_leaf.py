"""Operators that torch does not do here, run by ONNX Runtime inside an FX graph.

Such a leaf computes outputs but no gradients: a backward pass that reaches one is an error, never
a silent zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor

from sparsec.ir.errors import UnsupportedOpError
from sparsec.ir.fx import host as hv
from sparsec.ir.fx.dtypes import ONNX_DTYPES
from sparsec.ir.run import open_session, session_options


class _NoGradient(torch.autograd.Function):  # type: ignore[misc]
    """Marks results as made outside torch: going backward through them is an error."""

    @staticmethod
    def forward(ctx: Any, label: str, result: Tensor, *inputs: Tensor) -> Tensor:
        ctx.label = label
        return result.clone()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise UnsupportedOpError(
            f"{ctx.label} runs in ONNX Runtime and has no gradient; ask for gradients of values "
            "after it only, or detach it",
            where=ctx.label,
        )


class OrtLeaf(torch.nn.Module):  # type: ignore[misc]
    """One node that ONNX Runtime executes, on the CPU and in the types of the model.

    Parameters
    ----------
    node : onnx_ir.Node
        Without graph attributes; copied.
    opsets : dict of str to int
        Operator sets of the model.
    """

    def __init__(self, node: ir.Node, opsets: dict[str, int]) -> None:
        super().__init__()
        self.label = f"node {node.name!r} ({node.op_type})"
        self.op_type = node.op_type
        self.domain = node.domain
        self.attributes = dict(node.attributes)
        self.outputs = [bool(v.name) for v in node.outputs]
        self.expected = [None if v is None else v.dtype for v in node.inputs]
        self.opsets = {"": opsets.get("", 1), **opsets}
        self._sessions: dict[tuple[Any, ...], onnxruntime.InferenceSession] = {}

    def _session(self, key: tuple[Any, ...]) -> onnxruntime.InferenceSession:
        """Return a session for operands of the given element types and ranks (None: absent)."""
        if key not in self._sessions:
            inputs = [
                None
                if operand is None
                else ir.Value(
                    name=f"x{i}",
                    type=ir.TensorType(operand[0]),
                    shape=ir.Shape([None] * operand[1]),
                )
                for i, operand in enumerate(key)
            ]
            outputs = [
                ir.Value(name=f"y{i}" if named else "") for i, named in enumerate(self.outputs)
            ]
            node = ir.Node(
                self.domain, self.op_type, inputs, self.attributes.values(), outputs=outputs
            )
            graph = ir.Graph(
                [v for v in inputs if v is not None],
                [v for v in outputs if v.name],
                nodes=[node],
                opset_imports=self.opsets,
                name="leaf",
            )
            model = ir.to_proto(ir.Model(graph, ir_version=10))
            options = session_options(threads=None)
            self._sessions[key] = open_session(model.SerializeToString(), options, self.label)
        return self._sessions[key]

    def forward(self, *operands: hv.Value) -> Any:
        """Return the output tensor, or a tuple of them if the node has several."""
        tensors = [None if o is None else hv.to_tensor(o) for o in operands]
        present = [t for t in tensors if t is not None]
        working = next((t.dtype for t in present if t.is_floating_point()), torch.float32)
        device = present[0].device if present else torch.device("cpu")
        arrays = [
            None if t is None else self._array(t, expected)
            for t, expected in zip(tensors, self.expected, strict=False)
        ]
        key = tuple(
            None if a is None else (ir.DataType.from_numpy(a.dtype), a.ndim) for a in arrays
        )
        feeds = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
        results = iter(self._session(key).run(None, feeds))
        outputs = [
            self._tensor(next(results), working, device, present) if named else None
            for named in self.outputs
        ]
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    @staticmethod
    def _array(tensor: Tensor, expected: ir.DataType | None) -> np.ndarray[Any, Any]:
        dtype = expected or ONNX_DTYPES[tensor.dtype]
        if tensor.is_floating_point():
            wanted = np.dtype(np.float32) if expected is None else dtype.numpy()
            return np.asarray(tensor.detach().cpu().double().numpy().astype(wanted))
        return np.asarray(tensor.detach().cpu().numpy())

    def _tensor(
        self, array: Any, working: torch.dtype, device: torch.device, inputs: list[Tensor]
    ) -> Tensor:
        result = torch.from_numpy(np.ascontiguousarray(array)).to(device)
        if not result.is_floating_point():
            return result
        return _NoGradient.apply(self.label, result.to(working), *inputs)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_sessions": {}}
