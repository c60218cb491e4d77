"""What a graph costs: parameters, non-zeros and multiply-accumulates.

MACs are those of the dense operators, by shape, in the main graph: Conv, ConvTranspose, Gemm and
MatMul (their integer forms too), with a constant or a computed second operand. Bodies of If and
Loop, recurrent and fused attention operators are not counted. Zeros count: a mask saves no
operation until a kernel skips it, and that is reported per layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as onnx_passes

from sparsec.ir.layout import STANDARD_DOMAIN
from sparsec.ir.run import Feeds, run_model
from sparsec.ir.sites import WeightSite, weight_sites

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SiteCost:
    """Work of one weight site in one run of the model.

    Parameters
    ----------
    macs : int
        Multiply-accumulates of all its nodes.
    columns : int
        N of its matrix product [out, reduction] x [reduction, N], summed over its nodes.
    """

    macs: int
    columns: int


@dataclasses.dataclass(frozen=True, slots=True)
class GraphCost:
    """What a model costs.

    Parameters
    ----------
    params : int
        Elements of all floating-point initializers, of 8-bit and smaller integer ones, and of what
        else stores a weight site.
    nonzero : int
        Those that are not zero; behind a quantisation, those that do not dequantise to zero.
    macs : int or None
        None if shapes are not known: no feeds were given and the graph is dynamic.
    sites : dict of str to SiteCost
        By site name; empty where ``macs`` is None. Sites in bodies of If and Loop are absent.
    """

    params: int
    nonzero: int
    macs: int | None
    sites: dict[str, SiteCost]


def graph_cost(model: ir.Model, feeds: Feeds | None) -> GraphCost:
    """Count parameters and MACs.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    feeds : mapping of str to array, optional
        One valid input. Shapes are taken from a run on it in ONNX Runtime, unless the graph states
        them all.

    Raises
    ------
    UnsupportedOpError, CalibrationError
        If the model cannot be run on the feeds.
    """
    sites = weight_sites(model)
    params, nonzero = _parameters(model, list(sites))
    shapes = _shapes(model, feeds)
    if shapes is None:
        return GraphCost(params, nonzero, None, {})
    macs = {node: _macs(node, shapes) for node in _products(model)}
    work = {}
    for site in sites:
        total = sum(macs.get(node, 0) for node in site.nodes)
        if any(node in macs for node in site.nodes):
            work[site.name] = SiteCost(total, total // site.size if site.size else 0)
    return GraphCost(params, nonzero, sum(macs.values()), work)


def _parameters(model: ir.Model, sites: list[WeightSite]) -> tuple[int, int]:
    by_weight = {site.weight: site for site in sites}
    params = nonzero = 0
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                continue
            site = by_weight.get(value)
            small = tensor.dtype.is_integer() and tensor.dtype.bitwidth <= 8
            if site is not None and tensor.dtype.is_integer():
                nonzero += int(np.count_nonzero(site.matrix()))  # a zero point is a zero
            elif tensor.dtype.is_floating_point() or small:
                nonzero += int(np.count_nonzero(tensor.numpy()))
            else:
                continue
            params += tensor.size
    return params, nonzero


def _products(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the nodes of the main graph whose MACs are counted."""
    for node in model.graph:
        if node.domain in STANDARD_DOMAIN and _measured(node):
            yield node


def _measured(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None] | None:
    """Return the value with one element a dot product, and the one that has the reduction."""
    match node.op_type:
        case "Conv" | "ConvInteger":
            return node.outputs[0], node.inputs[1]
        case "QLinearConv":
            return node.outputs[0], node.inputs[3]
        case "ConvTranspose":  # each input element is multiplied with a whole kernel
            return node.inputs[0], node.inputs[1]
        case "Gemm" | "MatMul" | "MatMulInteger" | "QLinearMatMul":
            return node.outputs[0], node.inputs[0]
    return None


def _macs(node: ir.Node, shapes: dict[ir.Value, Shape]) -> int:
    measured = _measured(node)
    assert measured is not None
    elements, operand = (shapes[value] for value in measured if value is not None)
    match node.op_type:
        case "Gemm":
            reduction = operand[0 if node.attributes.get_int("transA", 0) else 1]
        case "MatMul" | "MatMulInteger" | "QLinearMatMul":
            reduction = operand[-1]
        case _:
            reduction = math.prod(operand[1:])
    return math.prod(elements) * reduction


def _shapes(model: ir.Model, feeds: Feeds | None) -> dict[ir.Value, Shape] | None:
    """Return the shapes that the count needs, or None if they cannot be known."""
    needed = [
        value for node in _products(model) for value in _measured(node) or () if value is not None
    ]
    needed = list(dict.fromkeys(needed))
    shapes = {value: shape for value in needed if (shape := _static(value)) is not None}
    unknown = [value for value in needed if value not in shapes]
    if not unknown:
        return shapes
    if feeds is not None:
        return shapes | _run_shapes(model, unknown, feeds)
    inferred = _inferred_shapes(model, unknown)
    return None if inferred is None else shapes | inferred


def _static(value: ir.Value) -> Shape | None:
    """Return the shape that the graph states, if it is one of numbers."""
    shape = value.const_value.shape if value.const_value is not None else value.shape
    if shape is None or not all(isinstance(size, int) and size >= 0 for size in shape):
        return None
    return tuple(int(size) for size in shape)  # type: ignore[arg-type]


def _run_shapes(model: ir.Model, values: list[ir.Value], feeds: Feeds) -> dict[ir.Value, Shape]:
    """Run a copy of the graph whose only outputs are the shapes of ``values``."""
    copy = model.clone()
    by_name = {
        value.name: value for value in ir.convenience.create_value_mapping(copy.graph).values()
    }
    outputs = []
    for index, value in enumerate(values):
        source = by_name[value.name]
        node = ir.Node("", "Shape", [source], name=f"sparsec.shape.{index}")
        node.outputs[0].name = f"sparsec.shape.{index}"
        node.outputs[0].dtype = ir.DataType.INT64
        copy.graph.append(node)
        outputs.append(node.outputs[0])
    copy.graph.outputs[:] = outputs
    got = run_model(copy, feeds)
    return {
        value: tuple(int(size) for size in got[f"sparsec.shape.{index}"])
        for index, value in enumerate(values)
    }


def _inferred_shapes(model: ir.Model, values: list[ir.Value]) -> dict[ir.Value, Shape] | None:
    """Return the shapes that inference finds, or None if it leaves one open."""
    copy = model.clone()
    onnx_passes.ShapeInferencePass()(copy)
    by_name = ir.convenience.create_value_mapping(copy.graph)
    found = {value: _static(by_name[value.name or ""]) for value in values}
    return None if None in found.values() else found  # type: ignore[return-value]
