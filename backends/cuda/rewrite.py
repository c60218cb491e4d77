"""From stock operators to ``sparsec::PackedMatMul``, which computes what the kernels do.

::

    Y = PackedMatMul(X, *arrays, bias?, residual?)     Y = activation(X W^T + bias) + residual
    X     dtype [..., K]        arrays    the packed weight, in the order of its format; a scale last
    bias  float32 [M]           residual  out [..., M]          Y    out [..., M]
    attributes: M, K, format, values, dtype, out, kernels, splits, activation?, dense_from?

``dtype`` is float16 or bfloat16. The sum is kept in float32 up to the residual; ``out`` is
float32, or ``dtype`` for one rounding at the end. A float32 graph gets a Cast of X and keeps the
sum as it is. ``activation`` is one of ``variants.ACTIVATIONS``, none if absent. ``kernels`` has one
entry for each bucket of N, smallest first: the names of the compiled kernels to launch one after
the other, separated by spaces. ``splits`` has for each the shares S of the reduction. From
``dense_from`` rows of x on, the weight is unpacked once and multiplied densely; without it, never.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import onnx_ir.convenience
from numpy.typing import NDArray

from sparsec.backends.cuda.cost import dense_from
from sparsec.backends.cuda.epilogue import Epilogue, find_epilogue
from sparsec.backends.cuda.formats import Packed
from sparsec.backends.cuda.formats.base import SCALE
from sparsec.backends.cuda.formats.nm24 import numpy_dtype
from sparsec.backends.cuda.select import site_dtype
from sparsec.ir.cleanup.facts import infer_facts
from sparsec.ir.cleanup.rewire import constant
from sparsec.ir.names import UniqueNames
from sparsec.ir.patterns import KEY, to_metadata
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
        value = constant(self.names.value(base), array)
        graph.register_initializer(value)
        return value


class Rewriter:
    """Replaces nodes of one model, in place; nodes that read one value share its cast."""

    def __init__(self, model: ir.Model) -> None:
        self._make = Maker(model)
        self._casts: dict[tuple[ir.Graph, ir.Value], ir.Value] = {}
        self._shapes = dict(infer_facts(model).shapes)

    def pack(
        self,
        site: WeightSite,
        packed: Packed,
        launches: Callable[[Epilogue], Sequence[tuple[str, int]]],
    ) -> None:
        """Replace the nodes of ``site``, each with what the kernel can do of what follows it.

        ``launches`` returns for what follows a node, by bucket, the names of its kernels and S.
        """
        graph = site.weight.graph
        assert isinstance(graph, ir.Graph)
        names = [name for name in (*packed.format.arrays, SCALE) if name in packed.arrays]
        arrays = [
            self._make.initializer(graph, f"{site.weight.name}.{name}", packed.arrays[name])
            for name in names
        ]
        for node in site.nodes:
            # One at a time: what follows one node may be another of them.
            epilogue = find_epilogue(node, packed.shape[0], site_dtype(site), self._shapes)
            buckets = launches(epilogue)
            attributes = {
                "M": packed.shape[0],
                "K": packed.shape[1],
                "format": packed.format.name,
                "values": packed.values,
                "dtype": packed.values,
                "out": site_dtype(site),
                "kernels": [names for names, _ in buckets],
                "splits": [shares for _, shares in buckets],
            }
            if epilogue.activation != "none":
                attributes["activation"] = epilogue.activation
            if rows := dense_from(packed.format.name, packed.shape, packed.nbytes):
                attributes["dense_from"] = rows
            replaced = self._replace(node, arrays, epilogue, attributes)
            replaced.metadata_props[SITE] = site.name
            if site.pattern is not None:  # its format may hold other patterns too
                replaced.metadata_props[KEY] = to_metadata(site.pattern, axis=0)

    def _replace(
        self,
        node: ir.Node,
        weight: list[ir.Value],
        epilogue: Epilogue,
        attributes: dict[str, Any],
    ) -> ir.Node:
        graph, x = node.graph, node.inputs[0]
        assert isinstance(graph, ir.Graph)
        assert x is not None
        if attributes["dtype"] != attributes["out"]:
            x = self._cast(graph, x, data_type(attributes["dtype"]))
        inputs: list[ir.Value | None] = [x, *weight]
        if epilogue.bias is not None:
            inputs.append(self._make.initializer(graph, f"{node.name}.bias", epilogue.bias))
        if epilogue.residual is not None:
            inputs += [None] * (epilogue.bias is None)
            inputs.append(epilogue.residual)
        packed = ir.node(OP, inputs, attributes, domain=DOMAIN, name=node.name)
        packed.outputs[0].type = ir.TensorType(data_type(attributes["out"]))
        replaced = [node, *epilogue.nodes]
        # At the place of the last one, where a residual has been computed too.
        last = replaced[-1]
        if (shape := self._shapes.get(last.outputs[0])) is not None:
            self._shapes[packed.outputs[0]] = shape
        onnx_ir.convenience.replace_nodes_and_values(
            graph, last, replaced[::-1], [packed], last.outputs, packed.outputs
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


def name_kernels(model: ir.Model, called: Mapping[str, str]) -> None:
    """Give the kernels that nodes launch other names, in place; those not in ``called`` keep theirs."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if (node.domain, node.op_type) == (DOMAIN, OP) and "kernels" in node.attributes:
            chains = node.attributes["kernels"].as_strings()
            renamed = [" ".join(called.get(n, n) for n in chain.split()) for chain in chains]
            node.attributes["kernels"] = ir.AttrStrings("kernels", renamed)


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
