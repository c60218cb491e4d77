"""What has weights and is no site, and why: nothing is left out of a report in silence."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

import onnx_ir as ir

from sparsec.ir.codes import Code
from sparsec.ir.layout import STANDARD_DOMAIN

# Operators with weights that no pass can prune; the reason names them.
_OTHER_WEIGHTS = {
    "": {
        "ConvTranspose", "ConvInteger", "DeformConv", "Einsum", "GRU", "LSTM", "MatMulInteger",
        "QLinearConv", "QLinearMatMul", "RNN",
    },
    "com.microsoft": {
        "Attention", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "FusedConv", "FusedGemm",
        "FusedMatMul", "MatMulBnb4", "MatMulIntegerToFloat", "MatMulNBits", "MoE", "NhwcFusedConv",
        "QAttention", "QGemm", "QLinearConv", "QMoE",
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class NotASite:
    """Something with weights that cannot be pruned, and why."""

    name: str
    op: str
    code: Code
    reason: str


def constant_values(nodes: Iterable[ir.Node]) -> set[ir.Value]:
    """Return every node output that depends on constants only.

    Parameters
    ----------
    nodes : iterable of onnx_ir.Node
        In topological order.
    """
    constants: set[ir.Value] = set()
    for node in nodes:
        if node.op_type in _RANDOM or any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            continue
        if all(value is None or _is_constant(value, constants) for value in node.inputs):
            constants.update(node.outputs)
    return constants


_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"}


def _is_constant(value: ir.Value | None, constants: set[ir.Value]) -> bool:
    return value is not None and (value.const_value is not None or value in constants)


def not_a_site(
    node: ir.Node, names: Counter[str | None], constants: set[ir.Value]
) -> NotASite | None:
    """Return why a node with weights is no site; None for a node without weights."""
    name = node.name if node.name and names[node.name] == 1 else (node.outputs[0].name or "")
    domain = "" if node.domain in STANDARD_DOMAIN else node.domain
    if node.op_type in _OTHER_WEIGHTS.get(domain, ()):
        if not any(_is_constant(value, constants) for value in node.inputs):
            return None
        reason = f"no pass can prune the weights of {node.op_type}"
        return NotASite(name, node.op_type, Code.NOT_A_SITE, reason)
    if domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    operands = node.inputs[1:2] if node.op_type == "Conv" else node.inputs[:2]
    weight = next((value for value in operands if _is_constant(value, constants)), None)
    if weight is not None:
        return NotASite(name, node.op_type, *_why_no_weight(weight))
    if node.op_type == "Conv":
        reason = "its weight is computed at run time"
        return NotASite(name, node.op_type, Code.NOT_CONSTANT, reason)
    return None


def _why_no_weight(weight: ir.Value) -> tuple[Code, str]:
    """Return why a constant operand cannot be edited."""
    if (producer := weight.producer()) is not None:
        reason = (
            f"its weight is stored behind {producer.op_type}, which no pass undoes: if that is a "
            "parametrization of torch (weight_norm), remove it before the export"
        )
        return Code.NOT_A_SITE, reason
    assert weight.const_value is not None
    if not weight.const_value.dtype.is_floating_point():
        return Code.NOT_FLOAT, f"its weight is {weight.const_value.dtype.name}, not floating point"
    return Code.NOT_A_SITE, f"its weight has rank {len(weight.const_value.shape)}, so is no matrix"
