"""From ``sparsec::PackedMatMul`` back to stock operators with the same arithmetic.

The weight is unpacked from the packed tensors alone, under the name of its site; the product keeps
the name of its node. x is widened to float32, multiplied in float32, bias, activation and residual
follow in float32, and the result is rounded once to the type of y, as the kernel does it; only the
order of the sum differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
    bias, residual = [*node.inputs[len(packed.arrays) + 1 :], None, None][:2]
    if first not in weights:  # several nodes may share one packed weight
        dense = np.ascontiguousarray(packed.unpack().T)
        home = first.graph
        assert isinstance(home, ir.Graph)
        name = node.metadata_props.get(SITE) or f"{first.name}.dense"
        weights[first] = make.initializer(home, name, dense)
        claimed = node.metadata_props.get(KEY)  # checked against the zeros by whoever verifies
        pattern = to_metadata(parse_pattern(packed.format.pattern), axis=0)
        weights[first].metadata_props[KEY] = claimed or pattern

    make.names.free_node(node.name)  # the product takes it over, and with it the site's name
    wide = make.node("Cast", [x], f"{node.name}.x", to=ir.DataType.FLOAT)
    added = [wide, make.node("MatMul", [wide.outputs[0], weights[first]], node.name or "product")]
    if bias is not None:
        added.append(make.node("Add", [added[-1].outputs[0], bias], f"{node.name}.sum"))
    activate = _STOCK[node.attributes.get_string("activation", "none")]
    activate(_Tail(make, graph, added, node.name or "product"))
    if residual is not None:
        wide = make.node("Cast", [residual], f"{node.name}.residual", to=ir.DataType.FLOAT)
        total = make.node("Add", [added[-1].outputs[0], wide.outputs[0]], f"{node.name}.total")
        added += [wide, total]
    if out != "float32":
        to = data_type(out)
        added.append(make.node("Cast", added[-1].outputs, f"{node.name}.rounded", to=to))
    onnx_ir.convenience.replace_nodes_and_values(
        graph, node, [node], added, node.outputs, added[-1].outputs
    )


class _Tail:
    """Appends stock nodes in float32 behind the last one."""

    def __init__(self, make: Maker, graph: ir.Graph, nodes: list[ir.Node], base: str) -> None:
        self.make, self.graph, self.nodes, self.base = make, graph, nodes, base
        self.x = nodes[-1].outputs[0]

    def add(self, op: str, *inputs: ir.Value | float) -> ir.Value:
        """Append a node; numbers become constants."""
        name = f"{self.base}.{op.lower()}"
        values = [
            self.make.initializer(self.graph, f"{name}.by", np.array(each, np.float32))
            if isinstance(each, float)
            else each
            for each in inputs
        ]
        self.nodes.append(self.make.node(op, values, name))
        return self.nodes[-1].outputs[0]


def _silu(tail: _Tail) -> None:
    tail.add("Mul", tail.x, tail.add("Sigmoid", tail.x))


def _gelu(tail: _Tail) -> None:
    gate = tail.add("Erf", tail.add("Mul", tail.x, math.sqrt(0.5)))
    tail.add("Mul", tail.add("Mul", tail.x, 0.5), tail.add("Add", gate, 1.0))


def _gelu_tanh(tail: _Tail) -> None:
    cube = tail.add("Mul", tail.add("Mul", tail.x, tail.x), tail.x)
    inner = tail.add("Add", tail.x, tail.add("Mul", cube, 0.044715))
    gate = tail.add("Tanh", tail.add("Mul", inner, math.sqrt(2 / math.pi)))
    tail.add("Mul", tail.add("Mul", tail.x, 0.5), tail.add("Add", gate, 1.0))


# Decomposed, since Gelu is an operator of the newest opsets only.
_STOCK: dict[str | None, Callable[[_Tail], object]] = {
    "none": lambda tail: None,
    "relu": lambda tail: tail.add("Relu", tail.x),
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}


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
    activation = attributes.get_string("activation", "none")
    if activation not in _STOCK:
        raise _damaged(where, node, f"the activation {activation!r} is not known")
    try:
        packed = Packed(formats.get(form), {}, (rows, columns), values)
        names = [*packed.format.arrays, *([SCALE] if values in SCALED else [])]
        given = node.inputs[: len(names) + 1]
        if len(given) <= len(names) or len(node.inputs) > len(names) + 3 or None in given:
            raise _damaged(where, node, f"x or one of {', '.join(names)} is missing")
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
