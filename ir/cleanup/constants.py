"""Folding of constants: what depends on no input is computed once, here.

Exporters leave the arithmetic of shapes, paddings and limits in the graph; a reader then sees
``Clip(x, CastLike(0, x), ...)`` instead of a ReLU, and a runtime pays for it. Three rules bound it:

* A file does not grow: a result is stored if it is small change (:data:`FREE` bytes, what a node
  and its names take) or no larger than the constants that only it was computed from. A mask
  expanded from a scalar stays an Expand.
* Weights stay as they are stored: what leads to a weight operand (Cast, Mul and DequantizeLinear
  behind an int8 tensor) is left alone, and nothing is computed from a named parameter.
* Nothing random and no operator of a foreign domain is evaluated; the shape of a value counts as
  constant only if it follows from the graph inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.ir.cleanup.dead import remove_dead
from sparsec.ir.cleanup.evaluate import Array, Evaluator
from sparsec.ir.cleanup.facts import Dim, Facts, infer_facts
from sparsec.ir.cleanup.operators import is_pure, is_standard, opset, small_constant
from sparsec.ir.cleanup.rewire import display_name, replace_by_constants
from sparsec.ir.layout import matrix_layout

FREE = 256

# They carry the quantisation of a model, which lowering needs to see.
_KEPT = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant")

Known = dict[ir.Value, Array]


def fold_constants(model: ir.Model) -> list[str]:
    """Replace constant computations by their results, in place.

    Returns
    -------
    list of str
        Names of the nodes that were folded.
    """
    known = known_constants(model)
    dropped = _drop_zero_biases(known)
    folded = _choose(model, known)
    for node in folded:
        replace_by_constants(node, [known[out] for out in node.outputs])
    if folded or dropped:
        remove_dead(model)
    return [display_name(node) for node in folded] + dropped


def known_constants(model: ir.Model) -> Known:
    """Return the value of every node output that is constant and small; nothing is changed."""
    facts = infer_facts(model)
    known: Known = {}
    evaluate = Evaluator(opset(model))
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if is_pure(node) and node.op_type not in _KEPT and node.outputs:
            results = _value(node, facts, known, evaluate)
            if results is not None:
                known.update(zip(node.outputs, results, strict=True))
    return known


def _value(node: ir.Node, facts: Facts, known: Known, evaluate: Evaluator) -> list[Array] | None:
    """Return the outputs of ``node`` if they are constant."""
    if is_standard(node, "Shape", "Size") and node.inputs:
        return _size(node, facts.shapes.get(node.inputs[0]))  # type: ignore[arg-type]
    if is_standard(node, "CastLike"):
        array, to = _constant(node.inputs[0], known), facts.dtypes.get(node.inputs[1])  # type: ignore[arg-type]
        if array is None or to is None:
            return None
        return evaluate.evaluate(onnx.helper.make_node("Cast", ["x"], ["y"], to=int(to)), [array])
    arrays: list[Array | None] = []
    for value in node.inputs:
        array = None if value is None else _constant(value, known)
        if value is not None and array is None:
            return None
        arrays.append(array)
    return evaluate(node, arrays)


def _size(node: ir.Node, shape: tuple[Dim, ...] | None) -> list[Array] | None:
    """Return the result of Shape or Size if every dimension that it takes is a number."""
    if shape is None:
        return None
    if node.op_type == "Shape":
        start = node.attributes.get_int("start", 0)
        shape = shape[start : node.attributes.get_int("end", len(shape))]
    sizes = [dim for dim in shape if isinstance(dim, int)]
    if len(sizes) != len(shape):
        return None
    result = sizes if node.op_type == "Shape" else math.prod(sizes)
    return [np.array(result, dtype=np.int64)]


def _constant(value: ir.Value | None, known: Known) -> Array | None:
    """Return the array of a value that is constant and no named parameter."""
    if value is None or any(key.startswith("sparsec.") for key in value.metadata_props):
        return None
    return known[value] if value in known else small_constant(value)


def _choose(model: ir.Model, known: Known) -> list[ir.Node]:
    """Return the nodes to store the outputs of: constant themselves, and read by what is not."""
    chosen: list[ir.Node] = []
    left: set[ir.Node] = set()  # constant, but not stored
    to_weight: set[ir.Node] = set()  # constant, and on the way to a weight operand
    order = list(ir.traversal.RecursiveGraphIterator(model.graph))
    for node in reversed(order):
        if not node.outputs or node.outputs[0] not in known:
            continue
        uses = [use for out in node.outputs for use in out.uses()]
        inside = all(use.node.outputs[0] in known and use.node not in left for use in uses)
        is_output = any(out.is_graph_output() for out in node.outputs)
        if inside and not is_output:
            continue  # whatever reads it is folded itself
        if any(use.node in to_weight for use in uses) or _is_weight(node, known):
            to_weight.add(node)
            left.add(node)
        elif is_output or not _fits(node, known):
            left.add(node)
        else:
            chosen.append(node)
    return chosen


def _is_weight(node: ir.Node, known: Known) -> bool:
    """Whether an operator reads an output of ``node`` as a weight."""
    return any(
        matrix_layout(use.node, use.idx, known[out].shape) is not None
        for out in node.outputs
        for use in out.uses()
    )


def _fits(node: ir.Node, known: Known) -> bool:
    size = sum(known[out].nbytes for out in node.outputs)
    return size <= FREE or size <= sum(_owned(node))


def _owned(node: ir.Node) -> Iterator[int]:
    """Yield the bytes of the constants that nothing but ``node`` needs."""
    for value in dict.fromkeys(node.inputs):
        if value is None or len(value.consumers()) != 1 or value.is_graph_output():
            continue
        producer = value.producer()
        if producer is not None:
            yield from _owned(producer)
        elif value.const_value is not None:
            yield value.const_value.nbytes


def _drop_zero_biases(known: Known) -> list[str]:
    """Take the computed all-zero biases off convolutions: exporters expand them from a scalar 0."""
    names = []
    for value, array in known.items():
        for node, index in value.uses():
            if index == 2 and is_standard(node, "Conv", "ConvTranspose") and not np.any(array):
                node.resize_inputs(2)
                names.append(display_name(node))
    return names
