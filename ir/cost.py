"""What a graph costs: parameters, nonzero parameters, multiply-accumulates.

Shapes come from shape inference with the sizes of an actual feed put in; where inference gives up
(shapes that depend on data) the graph is run once and the shapes of the products are read off.
Counted are Conv, ConvTranspose, Gemm and MatMul of the main graph, their integer forms too, with
constant weights or without; recurrent cells and the bodies of If and Loop are not. Zeros count: a
mask saves no operation until a kernel skips it, and that is reported per layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.memory import release
from sparsec.ir.run import Feeds, OrtRunner
from sparsec.ir.sites import weight_sites

PRODUCTS = ("Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger")
_KEEP_VALUES_UP_TO = 1024  # elements: shape arithmetic needs the small tensors, and only those

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SiteCost:
    """Work of one weight site in one run of the model.

    Parameters
    ----------
    macs : int
        Multiply-accumulates of all its nodes.
    columns : int
        N of its product [out, reduction] x [reduction, N], summed over its nodes.
    """

    macs: int
    columns: int


@dataclasses.dataclass(frozen=True, slots=True)
class GraphCost:
    """Totals of a graph.

    Parameters
    ----------
    params : int
        Elements of all floating-point tensors, and of integer tensors that store weights: those of
        weight sites, and all of at most 8 bits with two axes or more.
    nonzero : int
        Those of them that are not zero; of an integer weight site, that do not stand for zero.
    macs : int
        Multiply-accumulates of one run, zeros included.
    sites : mapping of str to SiteCost
        By site name; sites whose shapes are not known, or that lie in a body of If or Loop, are
        absent.
    """

    params: int
    nonzero: int
    macs: int
    sites: Mapping[str, SiteCost]


def graph_cost(model: ir.Model, feeds: Feeds | None) -> GraphCost:
    """Count parameters and multiply-accumulates.

    Parameters
    ----------
    model : onnx_ir.Model
    feeds : mapping of str to array, optional
        One valid input; without it products of unknown shape count nothing.
    """
    params, nonzero = count_parameters(model)
    shapes = product_shapes(model, feeds)
    macs = {node: _macs(node, shapes) for node in model.graph if node.op_type in PRODUCTS}
    sites = {}
    for site in weight_sites(model):
        if work := sum(macs.get(node, 0) for node in site.nodes):
            sites[site.name] = SiteCost(work, work // site.size)
    return GraphCost(params, nonzero, sum(macs.values()), sites)


def count_parameters(model: ir.Model) -> tuple[int, int]:
    """Return the number of parameters and of nonzero ones, each tensor counted once."""
    weights = {site.weight: site for site in weight_sites(model)}
    params = nonzero = 0
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or not (value in weights or holds_parameters(tensor)):
                continue
            params += tensor.size
            if value in weights and tensor.dtype.is_integer():
                nonzero += int(np.count_nonzero(weights[value].matrix()))  # zero points are zeros
            else:
                nonzero += int(np.count_nonzero(tensor.numpy()))
            release(tensor)  # a large model is never wholly in memory
    return params, nonzero


def holds_parameters(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor is learned, as far as its type tells: indices and shapes are wider."""
    if tensor.dtype.is_integer():
        return tensor.dtype.bitwidth <= 8 and len(tensor.shape) > 1
    return tensor.dtype.is_floating_point()


def product_shapes(model: ir.Model, feeds: Feeds | None) -> dict[str, Shape]:
    """Return the shapes of what every product reads and writes, by value name."""
    nodes = [node for node in model.graph if node.op_type in PRODUCTS]
    wanted = {v.name or "": v for node in nodes for v in (*node.inputs[:2], *node.outputs) if v}
    known = {
        name: tuple(int(size) for size in value.const_value.shape.numpy())
        for name, value in wanted.items()
        if value.const_value is not None
    }
    missing = [name for name in wanted if name not in known]
    known |= _inferred(model, feeds or {}, missing)
    missing = [name for name in missing if name not in known]
    if missing and feeds is not None:
        known |= _observed(model, feeds, missing)
    return known


def _inferred(model: ir.Model, feeds: Feeds, names: list[str]) -> dict[str, Shape]:
    """Infer shapes with the sizes of the feeds in place of the dynamic axes."""
    proto = ir.to_proto(_skeleton(model, feeds))
    try:
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    found = {}
    graph = proto.graph
    for value in (*graph.value_info, *graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        known = value.type.tensor_type.HasField("shape") and all(
            dim.HasField("dim_value") for dim in dims
        )
        if known and value.name in names:
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _skeleton(model: ir.Model, feeds: Feeds) -> ir.Model:
    """Return the graph without its large values: inputs stand in for them, of the same shape."""
    copy = model.clone()
    for value in copy.graph.inputs:
        if (name := value.name or "") in feeds:
            value.shape = ir.Shape(feeds[name].shape)
    for node in copy.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    for graph in (copy.graph, *copy.graph.subgraphs()):
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is not None and tensor.size > _KEEP_VALUES_UP_TO:
                value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
                value.const_value = None
                del graph.initializers[name]
                graph.inputs.append(value)
    return copy


def _observed(model: ir.Model, feeds: Feeds, names: list[str]) -> dict[str, Shape]:
    """Run the graph once with a Shape node behind every value of interest."""
    copy = model.clone()
    graph = copy.graph
    values = {v.name: v for v in (*graph.inputs, *(out for node in graph for out in node.outputs))}
    asked: dict[str, str] = {}
    for index, name in enumerate(names):
        if (value := values.get(name)) is None:
            continue
        node = ir.node("Shape", inputs=[value])
        node.outputs[0].name = asked[name] = f"sparsec.shape.{index}"
        node.outputs[0].dtype = ir.DataType.INT64
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    runner = OrtRunner(copy, optimise=False, low_memory=True)
    outputs: Mapping[str, NDArray[Any]] = runner.run(feeds)
    return {name: tuple(int(size) for size in outputs[shape]) for name, shape in asked.items()}


def product_axes(node: ir.Node, shapes: Mapping[str, Shape]) -> list[tuple[ir.Value, int]] | None:
    """Return the axes whose sizes multiply to the work of one product; None if a shape is unknown."""
    left, right = node.inputs[:2]
    out = node.outputs[0]
    if (
        left is None
        or right is None
        or any((v.name or "") not in shapes for v in (left, right, out))
    ):
        return None
    every = [(out, axis) for axis in range(len(shapes[out.name or ""]))]
    kernel = [(right, axis) for axis in range(1, len(shapes[right.name or ""]))]
    match node.op_type:
        case "Conv" | "ConvInteger":
            return every + kernel
        case "ConvTranspose":
            return [(left, axis) for axis in range(len(shapes[left.name or ""]))] + kernel
        case "Gemm":
            return [*every, (left, 0 if node.attributes.get_int("transA", 0) else 1)]
    return [*every, (left, len(shapes[left.name or ""]) - 1)]


def _macs(node: ir.Node, shapes: Mapping[str, Shape]) -> int:
    """Return the multiply-accumulates of one product; 0 if a shape is unknown."""
    axes = product_axes(node, shapes)
    return 0 if axes is None else math.prod(shapes[value.name or ""][i] for value, i in axes)
