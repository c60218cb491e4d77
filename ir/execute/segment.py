"""One segment of a graph as a small model: some nodes, what they read, what is wanted of them.

Large weights are inputs of the segment, fed from the memory where they lie (mapped from the
source's file, usually), so that cutting and opening one copies no weight. Small constants stay in
it: many operators take their shapes and axes only so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper

from sparsec.ir.errors import CalibrationError
from sparsec.ir.execute.dependencies import Dependencies, bodies, members
from sparsec.ir.execute.executor import Point
from sparsec.ir.execute.expose import expose
from sparsec.ir.layout import STANDARD_DOMAIN

Array = NDArray[Any]

_LARGE_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Some nodes of a graph as a model of their own.

    Parameters
    ----------
    proto : onnx.ModelProto
        Its inputs are ``reads`` and ``weights``; its outputs ``outputs``, then one sequence of
        tensors for each of ``inner``.
    reads : tuple of onnx_ir.Value
        What differs from sample to sample.
    weights : dict of str to array
        Inputs that are the same for every sample; not to be changed.
    outputs : tuple of onnx_ir.Value
        Values of the main graph that are returned.
    inner : tuple of Point
        Points in bodies that are returned.
    """

    proto: onnx.ModelProto
    reads: tuple[ir.Value, ...]
    weights: dict[str, Array]
    outputs: tuple[ir.Value, ...]
    inner: tuple[Point, ...]


def reads_of(dependencies: Dependencies, positions: int) -> Iterator[ir.Value]:
    """Yield what some nodes read and do not produce themselves, constants left out; each once."""
    seen: set[ir.Value] = set()
    for position in members(positions):
        for value in dependencies.reads[position]:
            source = dependencies.source(value)
            inside = source is not None and positions >> source & 1
            if not inside and not value.is_initializer() and value not in seen:
                seen.add(value)
                yield value


def cut_segment(
    dependencies: Dependencies,
    positions: int,
    outputs: Sequence[ir.Value],
    inner: Sequence[Point],
    example: Callable[[ir.Value], Array],
) -> Segment:
    """Build the segment of the nodes ``positions``, with the weights as they are now.

    Parameters
    ----------
    dependencies : Dependencies
    positions : int
        Set of nodes of the main graph.
    outputs : sequence of onnx_ir.Value
        Wanted values of the main graph that these nodes produce.
    inner : sequence of Point
        Wanted points in bodies of these nodes.
    example : callable
        Returns an array of a value that the segment reads; its type is taken from it.

    Raises
    ------
    CalibrationError
        If a value that the segment reads is no tensor.
    """
    graph = onnx.GraphProto(name="segment")
    places: dict[int, int] = {}
    for position in members(positions):
        places[position] = len(graph.node)
        proto = ir.serde.serialize_node(dependencies.nodes[position])
        _bring_inside(proto, dependencies.nodes[position])
        graph.node.append(proto)
    reads = tuple(reads_of(dependencies, positions))
    for value in reads:
        graph.input.append(_declared(value, example(value)))
    weights: dict[str, Array] = {}
    for value in _constants(dependencies, positions):
        array = _as_input(value)
        if array is None:
            graph.initializer.append(_inline(value))
        else:
            weights[value.name or ""] = array
            graph.input.append(_declared(value, array))
    logs = expose(dependencies, graph, places, inner)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in [v.name for v in outputs] + logs)
    model = onnx.ModelProto(ir_version=dependencies.model.ir_version, graph=graph)
    for domain, version in dependencies.model.opset_imports.items():
        model.opset_import.append(helper.make_opsetid(domain, version))
    return Segment(model, reads, weights, tuple(outputs), tuple(inner))


def _declared(value: ir.Value, array: Any) -> onnx.ValueInfoProto:
    """Return a graph input of the type of ``array``, of any shape."""
    if not isinstance(array, np.ndarray):
        raise CalibrationError(
            f"the value {value.name!r} is no tensor but a {type(array).__name__}, which cannot be kept "
            "from one part of the graph to the next",
            where=value.name or "",
        )
    info = onnx.ValueInfoProto(name=value.name or "")
    text = array.dtype.kind in "OUS"
    kind = onnx.TensorProto.STRING if text else helper.np_dtype_to_tensor_dtype(array.dtype)
    info.type.tensor_type.elem_type = kind
    return info


def _constants(dependencies: Dependencies, positions: int) -> Iterator[ir.Value]:
    """Yield every constant of the main graph that some nodes read, once."""
    seen: set[ir.Value] = set()
    for position in members(positions):
        for value in dependencies.reads[position]:
            if value.is_initializer() and value not in seen:
                seen.add(value)
                yield value


def _as_input(value: ir.Value) -> Array | None:
    """Return a large weight of standard operators, to be fed; None for a constant to build in.

    Operators of other domains may insist on constants, so they get them.
    """
    tensor = value.const_value
    assert tensor is not None
    standard = all(node.domain in STANDARD_DOMAIN for node in value.consumers())
    if tensor.nbytes < _LARGE_BYTES or not standard:
        return None
    array = tensor.numpy()
    if array.dtype.kind not in "fiub":
        return None  # bfloat16 and the like, which the runtime does not take from numpy
    return np.require(array, requirements=("C", "A"))


def _inline(value: ir.Value) -> onnx.TensorProto:
    """Serialise a constant with its data, wherever that lies."""
    tensor = value.const_value
    assert tensor is not None
    if isinstance(tensor, ir.ExternalTensor):
        tensor = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
    proto = ir.serde.serialize_tensor(tensor)
    proto.name = value.name or ""
    return proto


def _bring_inside(proto: onnx.NodeProto, node: ir.Node) -> None:
    """Put the data of constants that bodies keep in a file into the bodies themselves."""
    protos = [a.g for a in proto.attribute if a.type == onnx.AttributeProto.GRAPH]
    for body_proto, (_, body) in zip(protos, bodies(node), strict=False):
        for index, value in enumerate(body.initializers.values()):
            if isinstance(value.const_value, ir.ExternalTensor):
                body_proto.initializer[index].CopyFrom(_inline(value))
        for inner_proto, inner in zip(body_proto.node, body, strict=True):
            _bring_inside(inner_proto, inner)
