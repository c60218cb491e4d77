"""What a packed kernel does with a finished sum, found behind a product: bias, activation, residual.

::

    y = activation(x @ W.T + bias) + residual

Each of the three is optional. They are taken over where they alone read what comes before, so that
nothing else of the graph sees a value that no longer exists.

Activations come in many spellings: as one operator, or decomposed in an order of the exporter's
choice. They are told by what they compute: the operators behind a value that know nothing but it and
scalars are evaluated on a grid and compared with each activation of the kernels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.backends.cuda.select import constant_bias
from sparsec.backends.cuda.variants import ACTIVATIONS

Floats = NDArray[np.float64]
Dims = tuple[int | str | None, ...]

_STANDARD = ("", "ai.onnx")
_MAX_NODES = 12  # GELU by tanh takes up to nine
# Dense where activations bend, and far out. GELU and its approximation differ by 4.7e-4 near 2.3.
_GRID = np.concatenate([np.linspace(-12, 12, 4801), [-100.0, -40.0, -20.0, 20.0, 40.0, 100.0]])
# Constants of a graph are rounded to its type; relative to the larger of 1 and |x|.
_TOLERANCE = {"float32": 1e-5, "float16": 2e-4, "bfloat16": 4e-3}


@dataclasses.dataclass(frozen=True, slots=True)
class Epilogue:
    """What follows a product.

    Parameters
    ----------
    bias : float32 [out], optional
    activation : str
        One of ``variants.ACTIVATIONS``.
    residual : onnx_ir.Value, optional
        Of the type and shape of the result, added last.
    nodes : tuple of onnx_ir.Node
        The nodes that the kernel replaces beside the product; the last one gives the result.
    """

    bias: NDArray[np.float32] | None = None
    activation: str = "none"
    residual: ir.Value | None = None
    nodes: tuple[ir.Node, ...] = ()

    @property
    def flags(self) -> dict[str, Any]:
        """What a kernel has to be compiled for."""
        return {
            "bias": self.bias is not None,
            "act": self.activation,
            "residual": self.residual is not None,
        }


def find_epilogue(node: ir.Node, out: int, dtype: str, shapes: Mapping[ir.Value, Dims]) -> Epilogue:
    """Return what the kernel can take over behind a MatMul or Gemm.

    Parameters
    ----------
    out : int
        Its outputs, M.
    dtype : str
        The type it computes in.
    shapes : mapping
        Shapes of values, as far as they are known.

    Raises
    ------
    ValueError
        If C of a Gemm is no constant of one value an output.
    """
    value, nodes = node.outputs[0], []
    bias = constant_bias(node, out)
    if bias is None and (found := _bias_add(value, out)) is not None:
        bias, add = found
        nodes.append(add)
        value = add.outputs[0]
    activation = "none"
    if (matched := _activation(value, dtype)) is not None:
        activation, cone = matched
        nodes += cone
        value = cone[-1].outputs[0]
    residual = None
    if (read := _residual_add(value, shapes.get(node.outputs[0]), shapes)) is not None:
        residual, add = read
        nodes.append(add)
    return Epilogue(bias, activation, residual, tuple(nodes))


def _only_reader(value: ir.Value) -> tuple[ir.Node, int] | None:
    """Return the one node that reads ``value``, of the same graph, and as which input."""
    uses = list(value.uses())
    producer = value.producer()
    if value.is_graph_output() or len(uses) != 1 or producer is None:
        return None
    return uses[0] if uses[0].node.graph is producer.graph else None


def _other_of_add(value: ir.Value) -> tuple[ir.Value, ir.Node] | None:
    """Return what an Add that alone reads ``value`` adds to it, and the Add."""
    reader = _only_reader(value)
    if reader is None or not _is(reader[0], "Add"):
        return None
    add, index = reader
    other = add.inputs[1 - index]
    return None if other is None else (other, add)


def _bias_add(value: ir.Value, out: int) -> tuple[NDArray[np.float32], ir.Node] | None:
    found = _other_of_add(value)
    constant = None if found is None else found[0].const_value
    if found is None or constant is None or tuple(constant.shape.numpy()) != (out,):
        return None
    return constant.numpy().astype(np.float32), found[1]


def _residual_add(
    value: ir.Value, shape: Dims | None, shapes: Mapping[ir.Value, Dims]
) -> tuple[ir.Value, ir.Node] | None:
    """Return the other operand of an Add, and the Add, if it surely has the shape of the product."""
    found = _other_of_add(value)
    if found is None or shape is None or None in shape or found[0].const_value is not None:
        return None
    return found if shapes.get(found[0]) == shape else None


def _activation(value: ir.Value, dtype: str) -> tuple[str, tuple[ir.Node, ...]] | None:
    """Return the activation that is all that reads ``value``, and its nodes, the last one at the end."""
    limit = _TOLERANCE[dtype] * np.maximum(1, np.abs(_GRID))
    for nodes, result in _cones(value):
        worst = {
            name: float(np.max(np.abs(result - reference(_GRID)) / limit))
            for name, reference in _REFERENCES.items()
        }
        best = min(worst, key=worst.__getitem__)
        if worst[best] <= 1:
            return best, nodes
    return None


def _cones(value: ir.Value) -> Iterator[tuple[tuple[ir.Node, ...], Floats]]:
    """Yield sets of nodes, growing, that compute one value from ``value`` alone, and that value.

    Nothing outside of a set reads what is inside, but for its result.
    """
    producer = value.producer()
    if producer is None or value.is_graph_output():
        return
    known: dict[ir.Value, Floats] = {value: _GRID}
    nodes: list[ir.Node] = []
    while len(nodes) < _MAX_NODES:
        grown = _next_node(known, nodes, producer.graph)
        if grown is None:
            return
        node, result = grown
        nodes.append(node)
        known[node.outputs[0]] = result
        open_ends = [each for each in known if _is_read_outside(each, nodes)]
        if open_ends == [node.outputs[0]]:
            yield tuple(nodes), result


def _next_node(
    known: dict[ir.Value, Floats], nodes: list[ir.Node], graph: Any
) -> tuple[ir.Node, Floats] | None:
    """Return a node behind ``known`` that reads nothing else but scalars, and its result."""
    for value in known:
        for node, _ in value.uses():
            rule = _RULES.get(node.op_type) if node.domain in _STANDARD else None
            if rule is None or node in nodes or node.graph is not graph or len(node.outputs) != 1:
                continue
            operands = [known[v] if v in known else _scalar(v) for v in node.inputs]
            if not any(each is None for each in operands):
                with np.errstate(all="ignore"):
                    return node, rule(node, *operands)
    return None


def _is_read_outside(value: ir.Value, nodes: list[ir.Node]) -> bool:
    uses = list(value.uses())
    return value.is_graph_output() or not uses or any(use.node not in nodes for use in uses)


def _scalar(value: ir.Value | None) -> Floats | None:
    """Return a constant of one element; None for anything else."""
    constant = None if value is None else value.const_value
    if constant is None or constant.size != 1 or len(constant.shape) > 1:
        return None
    return np.asarray(constant.numpy().astype(np.float64).reshape(()))


def _is(node: ir.Node, op: str) -> bool:
    return node.op_type == op and node.domain in _STANDARD


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def _erf(x: Floats) -> Floats:
    return np.asarray([math.erf(each) for each in np.ravel(x)]).reshape(np.shape(x))


def _gelu(x: Floats) -> Floats:
    return np.asarray(x * (1 + _erf(x / math.sqrt(2))) / 2)


def _gelu_tanh(x: Floats) -> Floats:
    return np.asarray(x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2)


_REFERENCES: dict[str, Callable[[Floats], Floats]] = {
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * _sigmoid(x),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
assert set(_REFERENCES) == set(ACTIVATIONS) - {"none"}


def _named_gelu(node: ir.Node, x: Floats) -> Floats:
    tanh = node.attributes.get_string("approximate", "none") == "tanh"
    return (_gelu_tanh if tanh else _gelu)(x)


def _swish(node: ir.Node, x: Floats) -> Floats:
    return np.asarray(x * _sigmoid(float(node.attributes.get_float("alpha", 1.0) or 0.0) * x))


_RULES: dict[str, Callable[..., Floats]] = {
    "Relu": lambda _, x: np.maximum(x, 0),
    "Gelu": _named_gelu,
    "Swish": _swish,
    "Sigmoid": lambda _, x: _sigmoid(x),
    "Tanh": lambda _, x: np.tanh(x),
    "Erf": lambda _, x: _erf(x),
    "Neg": lambda _, x: -x,
    "Identity": lambda _, x: x,
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Div": lambda _, a, b: a / b,
    "Pow": lambda _, a, b: a**b,
}
