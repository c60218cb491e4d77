"""From ``sparsec::PackedMatMul`` back to stock operators with the same arithmetic.

The weight is unpacked from the packed tensors alone, under the name of its site; the product keeps
the name of its node. x is widened to float32, multiplied in
float32, the bias added, and the result rounded once to the type of y, as the kernel does it; only
the order of the sum differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.convenience
import onnx_ir.passes.common as onnx_passes
from numpy.typing import NDArray

from sparsec.backends.cuda import formats
from sparsec.backends.cuda.formats import Packed
from sparsec.backends.cuda.formats.base import SCALE
from sparsec.backends.cuda.formats.nm24 import DTYPES
from sparsec.backends.cuda.formats.values import SCALED
from sparsec.backends.cuda.rewrite import DOMAIN, OP, SITE, Maker, data_type
from sparsec.ir.errors import ArtifactError, PatternError, ShapeError
from sparsec.ir.patterns import KEY, parse_pattern, to_metadata


def densify(model: ir.Model, where: str) -> None:
    """Replace every PackedMatMul of ``model``, in place.

    Parameters
    ----------
    where : str
        The artifact, for messages.

    Raises
    ------
    ArtifactError
        If a node has not the inputs, attributes and packed data that it needs.
    """
    make = Maker(model)
    weights: dict[ir.Value, ir.Value] = {}
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if (node.domain, node.op_type) == (DOMAIN, OP):
            _replace(node, make, weights, where)
    onnx_passes.RemoveUnusedNodesPass()(model)  # takes the packed tensors away
    model.opset_imports.pop(DOMAIN, None)


def check_packed(model: ir.Model, where: str) -> None:
    """Accept only packed weights that the kernels can read; they check nothing themselves.

    Raises
    ------
    ArtifactError
        If a node has not the inputs, attributes and packed data that it needs.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if (node.domain, node.op_type) == (DOMAIN, OP):
            _packed(node, where)


def _replace(node: ir.Node, make: Maker, weights: dict[ir.Value, ir.Value], where: str) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    packed, out = _packed(node, where)
    x, first = node.inputs[0], node.inputs[1]
    assert x is not None
    assert first is not None
    bias = node.inputs[-1] if len(node.inputs) == len(packed.arrays) + 2 else None
    if first not in weights:  # several nodes may share one packed weight
        dense = np.ascontiguousarray(packed.unpack().T)
        home = first.graph
        assert isinstance(home, ir.Graph)
        name = node.metadata_props.get(SITE) or f"{first.name}.dense"
        weights[first] = make.initializer(home, name, dense)
        pattern = parse_pattern(packed.format.pattern)
        weights[first].metadata_props[KEY] = to_metadata(pattern, axis=0)

    make.names.free_node(node.name)  # the product takes it over, and with it the site's name
    wide = make.node("Cast", [x], f"{node.name}.x", to=ir.DataType.FLOAT)
    added = [wide, make.node("MatMul", [wide.outputs[0], weights[first]], node.name or "product")]
    if bias is not None:
        added.append(make.node("Add", [added[-1].outputs[0], bias], f"{node.name}.sum"))
    if out != "float32":
        to = data_type(out)
        added.append(make.node("Cast", added[-1].outputs, f"{node.name}.rounded", to=to))
    onnx_ir.convenience.replace_nodes_and_values(
        graph, node, [node], added, node.outputs, added[-1].outputs
    )


def _packed(node: ir.Node, where: str) -> tuple[Packed, str]:
    """Return the checked packed weight of a node, and the type of its result."""
    attributes = node.attributes
    try:
        rows, columns = attributes["M"].as_int(), attributes["K"].as_int()
        form, values = attributes["format"].as_string(), attributes["values"].as_string()
        dtype, out = attributes["dtype"].as_string(), attributes["out"].as_string()
    except (KeyError, TypeError) as error:
        needed = "attributes M, K, format, values, dtype and out are needed"
        raise _damaged(where, node, needed) from error
    if dtype not in DTYPES or out not in (dtype, "float32"):
        raise _damaged(where, node, f"dtype is {dtype!r} and out {out!r}")
    if values not in (dtype, *SCALED):
        raise _damaged(where, node, f"values of {values!r} are multiplied as {dtype}")
    try:
        packed = Packed(formats.get(form), {}, (rows, columns), values)
        names = [*packed.format.arrays, *([SCALE] if values in SCALED else [])]
        if len(node.inputs) not in (len(names) + 1, len(names) + 2) or None in node.inputs:
            raise _damaged(where, node, f"x, {', '.join(names)} or the bias is missing")
        for name, value in zip(names, node.inputs[1:], strict=False):
            assert value is not None
            packed.arrays[name] = _array(node, value, where)
        packed.check()
    except (PatternError, ShapeError) as error:
        raise _damaged(where, node, error.message) from error
    return packed, out


def _array(node: ir.Node, value: ir.Value, where: str) -> NDArray[Any]:
    if value.const_value is None:
        raise _damaged(where, node, f"{value.name!r} is no stored tensor")
    return value.const_value.numpy()


def _damaged(where: str, node: ir.Node, what: str) -> ArtifactError:
    return ArtifactError(
        f"{where}: the artifact is damaged: node {node.name!r}: {what}; compile it again",
        where=where,
    )
