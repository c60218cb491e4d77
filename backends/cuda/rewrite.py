"""From stock operators to ``sparsec::PackedMatMul``, which computes what the kernels do.

::

    Y = PackedMatMul(X, *arrays, bias?)      attributes: M, K, format, values, dtype, out, kernels, splits
    X     dtype [..., K]        arrays    the packed weight, in the order of its format; a scale last
    bias  float32 [M]           Y         out [..., M]

``dtype`` is float16 or bfloat16. The sum is kept in float32 and the bias added to it; ``out`` is
float32, or ``dtype`` for one rounding at the end. A float32 graph gets a Cast of X and keeps the
sum as it is. ``kernels`` has one entry for each bucket of N, smallest first: the names of the
compiled kernels to launch one after the other, separated by spaces. ``splits`` has for each the
shares S of the reduction. From ``dense_from`` rows of x on, the weight is unpacked once and multiplied
densely; without it, never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.convenience
from numpy.typing import NDArray

from sparsec.backends.cuda.cost import dense_from
from sparsec.backends.cuda.formats import Packed
from sparsec.backends.cuda.formats.base import SCALE
from sparsec.backends.cuda.formats.nm24 import numpy_dtype
from sparsec.backends.cuda.select import constant_bias, site_dtype
from sparsec.ir.names import UniqueNames
from sparsec.ir.sites import WeightSite

DOMAIN = "sparsec"
OP = "PackedMatMul"
SITE = "sparsec.site"  # metadata of the node: the name of the site whose weight it holds


class Maker:
    """Makes nodes and initializers of one model under names that nothing has yet."""

    def __init__(self, model: ir.Model) -> None:
        self.names = UniqueNames(model)

    def node(
        self, op: str, inputs: Sequence[ir.Value], base: str, **attributes: ir.DataType
    ) -> ir.Node:
        """Return a stock node with one output, both called ``base`` or nearly so."""
        node = ir.node(op, inputs, attributes, name=self.names.node(base))
        node.outputs[0].name = self.names.value(base)
        return node

    def initializer(self, graph: ir.Graph, base: str, array: NDArray[Any]) -> ir.Value:
        """Store ``array`` in ``graph`` under a fresh name."""
        tensor = ir.tensor(array, name=self.names.value(base))
        value = ir.Value(
            name=tensor.name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        graph.register_initializer(value)
        return value


class Rewriter:
    """Replaces nodes of one model, in place; nodes that read one value share its cast."""

    def __init__(self, model: ir.Model) -> None:
        self._make = Maker(model)
        self._casts: dict[tuple[ir.Graph, ir.Value], ir.Value] = {}

    def pack(
        self,
        site: WeightSite,
        packed: Packed,
        dtype: str,
        launches: Sequence[Sequence[tuple[str, int]]],
    ) -> None:
        """Replace the nodes of ``site``.

        ``launches`` holds for each of its nodes, by bucket, the names of its kernels and S.
        """
        graph = site.weight.graph
        assert isinstance(graph, ir.Graph)
        names = [name for name in (*packed.format.arrays, SCALE) if name in packed.arrays]
        arrays = [
            self._make.initializer(graph, f"{site.weight.name}.{name}", packed.arrays[name])
            for name in names
        ]
        for node, buckets in zip(site.nodes, launches, strict=True):
            attributes = {
                "M": packed.shape[0],
                "K": packed.shape[1],
                "format": packed.format.name,
                "values": packed.values,
                "dtype": dtype,
                "out": site_dtype(site),
                "kernels": [names for names, _ in buckets],
                "splits": [shares for _, shares in buckets],
            }
            if rows := dense_from(packed.format.name, packed.shape, packed.nbytes):
                attributes["dense_from"] = rows
            self._replace(node, arrays, attributes).metadata_props[SITE] = site.name

    def _replace(
        self, node: ir.Node, weight: list[ir.Value], attributes: dict[str, Any]
    ) -> ir.Node:
        graph, x = node.graph, node.inputs[0]
        assert isinstance(graph, ir.Graph)
        assert x is not None
        bias, add = fused_bias(node, attributes["M"])
        if attributes["dtype"] != attributes["out"]:
            x = self._cast(graph, x, data_type(attributes["dtype"]))
        inputs = [x, *weight]
        if bias is not None:
            inputs.append(self._make.initializer(graph, f"{node.name}.bias", bias))
        packed = ir.node(OP, inputs, attributes, domain=DOMAIN, name=node.name)
        packed.outputs[0].type = ir.TensorType(data_type(attributes["out"]))
        replaced = [node] if add is None else [add, node]
        onnx_ir.convenience.replace_nodes_and_values(
            graph, replaced[0], replaced, [packed], replaced[0].outputs, packed.outputs
        )
        return packed

    def _cast(self, graph: ir.Graph, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return ``x`` in ``dtype``, by one Cast for all nodes of ``graph`` that read it."""
        if found := self._casts.get((graph, x)):
            return found
        cast = self._make.node("Cast", [x], f"{x.name}.{dtype.name.lower()}", to=dtype)
        result = cast.outputs[0]
        result.type, result.shape = ir.TensorType(dtype), x.shape
        insert_behind(x, graph, [cast])
        self._casts[graph, x] = result
        return result


def insert_behind(x: ir.Value, graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Insert ``nodes`` straight behind ``x``, where every reader of x in ``graph`` comes later."""
    producer = x.producer()
    if producer is not None and producer.graph is graph:
        graph.insert_after(producer, nodes)
    else:
        graph.insert_before(graph[0], nodes)


def data_type(name: str) -> ir.DataType:
    """Return the ONNX type with the numpy name ``name``: that of ``float32`` is FLOAT."""
    return ir.DataType.from_numpy(numpy_dtype(name))


def fused_bias(node: ir.Node, out: int) -> tuple[NDArray[np.float32] | None, ir.Node | None]:
    """Return the bias that the kernel adds for ``node``: float32 [out], and the Add it replaces.

    It is beta * C of a Gemm, or the constant [out] of an Add that alone reads a MatMul; None where
    there is none.
    """
    if node.op_type == "Gemm":
        return constant_bias(node, out), None
    y = node.outputs[0]
    uses = list(y.uses())
    if y.is_graph_output() or len(uses) != 1:
        return None, None
    add, index = uses[0]
    if add.op_type != "Add" or add.domain not in ("", "ai.onnx") or add.graph is not node.graph:
        return None, None
    other = add.inputs[1 - index]
    constant = None if other is None else other.const_value
    if constant is None or tuple(constant.shape.numpy()) != (out,):
        return None, None
    return constant.numpy().astype(np.float32), add
