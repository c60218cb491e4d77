"""What of a model has a torch form, found before anything is built, so that one error names all."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from sparsec.ir.errors import UnsupportedOpError
from sparsec.ir.fx import registry
from sparsec.ir.fx.constants import attributes_of, constant_of
from sparsec.ir.fx.dtypes import TORCH_DTYPES

#: Operators that the importer builds itself, with the first opset of each that it takes.
STRUCTURAL = {"Constant": 1, "If": 1, "Loop": 1, "Scan": 9}


def domain_of(node: ir.Node) -> str:
    """Return a node's domain, the default one as the empty string."""
    return "" if node.domain == "ai.onnx" else node.domain


def opset_of(node: ir.Node, opsets: Mapping[str, int]) -> int:
    """Return the opset version that a node is written in."""
    domain = domain_of(node)
    return node.version or opsets.get(domain, opsets.get("ai.onnx", 1) if domain == "" else 1)


def obstacle(node: ir.Node, opsets: Mapping[str, int]) -> str | None:
    """Say why a node has no torch form; None if it has one."""
    domain, opset = domain_of(node), opset_of(node, opsets)
    for value in node.inputs:
        tensor = None if value is None else constant_of(value)
        if tensor is not None and tensor.dtype not in TORCH_DTYPES:
            return f"torch has no element type {tensor.dtype.name}"
    if domain == "" and node.op_type in STRUCTURAL:
        return _structural_obstacle(node, opset)
    entry = registry.find(node.op_type, domain, opset)
    if entry is None:
        known = [o for o in registry.table() if (o.domain, o.name) == (domain, node.op_type)]
        return f"known from opset {known[0].since} on" if known else "no torch form"
    if len(node.inputs) > len(entry.inputs) and not entry.variadic:
        return f"takes {len(entry.inputs)} inputs, got {len(node.inputs)}"
    try:
        attributes = attributes_of(node)
    except KeyError as error:
        return f"torch has no element type {error.args[0]}"
    if stray := attributes.keys() - entry.attributes:
        return f"attribute {', '.join(sorted(stray))}"
    return entry.refuse(attributes) if entry.refuse else None


def _structural_obstacle(node: ir.Node, opset: int) -> str | None:
    first = STRUCTURAL[node.op_type]
    if opset < first:
        return f"known from opset {first} on"
    if node.op_type == "Constant":
        tensor = constant_of(node.outputs[0])
        if tensor is None:
            return f"a constant given by {', '.join(node.attributes)}"
        if tensor.dtype not in TORCH_DTYPES:
            return f"torch has no element type {tensor.dtype.name}"
    return None


def check_support(
    model: ir.Model, opsets: Mapping[str, int], ort_leaves: bool
) -> frozenset[ir.Node]:
    """Return the nodes that have to run in ONNX Runtime.

    Raises
    ------
    UnsupportedOpError
        If there are such nodes and ``ort_leaves`` is false, or if one of them has a body.
    """
    obstacles = {
        node: reason
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if (reason := obstacle(node, opsets)) is not None
    }
    leaves = frozenset(obstacles)
    if ort_leaves:
        obstacles = {
            node: reason
            for node, reason in obstacles.items()
            if node.op_type == "Constant"
            or any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
        }
    if obstacles:
        lines = [
            f"node {node.name!r} ({node.op_type}, domain {domain_of(node) or 'ai.onnx'!r}, opset "
            f"{opset_of(node, opsets)}): {reason}"
            for node, reason in obstacles.items()
        ]
        way_out = (
            "they cannot run as an ONNX Runtime leaf either"
            if ort_leaves
            else "import with ort_leaves=True to run them in ONNX Runtime, without gradients"
        )
        raise UnsupportedOpError(
            f"{model.graph.name or 'the model'}: {len(lines)} nodes cannot become torch code; "
            + "; ".join(lines)
            + f"; {way_out}",
            where=next(iter(obstacles)).name or "",
        )
    return leaves
