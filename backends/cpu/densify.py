"""Region nodes as stock operators again, from the bytes of their plans alone.

This is the oracle that lowering is verified against, so it shares nothing with lowering but the format.
Weight sites come back under their names and with the patterns they claim, as the nodes note them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.assemble import DOMAIN, OP_TYPE
from sparsec.backends.cpu.labels import Label, read_labels
from sparsec.backends.cpu.pack import unpack
from sparsec.backends.cpu.plan import (
    NONE,
    Activation,
    Dense,
    Kind,
    Op,
    OpCode,
    Plan,
    Tensor,
    Value,
)
from sparsec.ir.errors import ArtifactError
from sparsec.ir.names import UniqueNames
from sparsec.ir.patterns import KEY, to_metadata


def densify_model(model: ir.Model, where: str = "the graph") -> ir.Model:
    """Replace every Region node of the main graph by stock operators.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place.
    where : str
        What messages call it: the artifact.

    Raises
    ------
    ArtifactError
        If a plan is damaged or does not fit its node.
    """
    names = UniqueNames(model)
    for node in [n for n in model.graph if n.domain == DOMAIN and n.op_type == OP_TYPE]:
        try:
            _replace(model, node, names)
        except ArtifactError as error:
            raise ArtifactError(
                f"{where}: the artifact is damaged: node {node.name!r}: {error.message}; compile it "
                "again",
                where=where,
            ) from error
    model.opset_imports.pop(DOMAIN, None)
    return model


def _replace(model: ir.Model, node: ir.Node, names: UniqueNames) -> None:
    weight = node.inputs[0] if node.inputs else None
    if weight is None or weight.const_value is None:
        raise ArtifactError("its plan must be stored in the model")
    plan = Plan.from_bytes(weight.const_value.numpy().tobytes())
    given = node.inputs[1:]
    if len(given) != len(plan.inputs) or len(node.outputs) != len(plan.outputs) or None in given:
        raise ArtifactError("it has other inputs or outputs than its plan")
    labels = read_labels(node, plan)
    writer = _Writer(model, node.name or "region", names)
    values: dict[int, ir.Value] = {}
    for index, value in zip(plan.inputs, given, strict=True):
        assert value is not None
        values[index] = value
    for index, op in enumerate(plan.ops):
        writer.label = labels.get(index)
        values[op.output] = _op(writer, plan, op, values)
    model.graph.insert_before(node, writer.nodes)
    for index, old in zip(plan.outputs, node.outputs, strict=True):
        new, label = values[index], old.name
        new.type, new.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name, new.name = f"{label}.region", label
    model.graph.remove(node, safe=True)
    if not weight.uses():
        del model.graph.initializers[weight.name or ""]


class _Writer:
    """Makes nodes and initializers with names that nothing else has.

    ``label`` is that of the operator at hand, if it stands for a weight site.
    """

    def __init__(self, model: ir.Model, prefix: str, names: UniqueNames) -> None:
        self.graph = model.graph
        self.opset = model.opset_imports.get("", 17)
        self.nodes: list[ir.Node] = []
        self.label: Label | None = None
        self._base = f"{prefix}.dense"
        self._names = names

    def constant(self, array: Any, dtype: Any = np.float32) -> ir.Value:
        return self._initializer(self._names.value(self._base), array, dtype)

    def weight(self, array: np.ndarray, reduction_axis: int) -> ir.Value:
        """Store the weight of the site at hand under its name, marked with its pattern."""
        if self.label is None:
            return self.constant(array)
        value = self._initializer(self._names.value(self.label.name), array, np.float32)
        if self.label.pattern is not None:
            value.metadata_props[KEY] = to_metadata(self.label.pattern, reduction_axis)
        return value

    def product(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add the operator that reads the weight; it has the name of the site at hand."""
        y = self.add(op_type, *inputs, **attributes)
        node = y.producer()
        if self.label is not None and node is not None:
            node.name = self._names.node(self.label.name)
        return y

    def _initializer(self, name: str, array: Any, dtype: Any) -> ir.Value:
        value = ir.Value(name=name)
        value.const_value = ir.tensor(np.asarray(array, dtype), name=name)
        self.graph.initializers[name] = value
        return value

    def add(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        name = self._names.node(self._base)
        converted = ir.convenience.convert_attributes(attributes)
        node = ir.Node("", op_type, list(inputs), converted, num_outputs=1, name=name)
        node.outputs[0].name = self._names.value(f"{name}.y")
        self.nodes.append(node)
        return node.outputs[0]

    def mean(self, x: ir.Value) -> ir.Value:
        """Return the mean over the last axis, kept."""
        if self.opset >= 18:
            return self.add("ReduceMean", x, self.constant([-1], np.int64), keepdims=1)
        return self.add("ReduceMean", x, axes=[-1], keepdims=1)


def _op(w: _Writer, plan: Plan, op: Op, values: dict[int, ir.Value]) -> ir.Value:
    inputs = [None if i == NONE else values[i] for i in op.inputs]
    y = _RULES[op.code](w, plan, op, inputs)
    if op.code in (OpCode.LINEAR, OpCode.CONV) and len(inputs) > 1 and inputs[1] is not None:
        y = w.add("Add", y, inputs[1])
    return _activation(w, op, y)


def _matrix(plan: Plan, op: Op, columns: int) -> np.ndarray:
    """Return the weight of an operator, float32 [channels of its output, columns]."""
    tensor: Tensor | None = None if op.weight == NONE else plan.tensors[op.weight]
    wanted = plan.values[op.output].channels, columns
    if tensor is None or tensor.shape != wanted:
        got = "none" if tensor is None else list(tensor.shape)
        raise ArtifactError(f"plan: {op.code.name} needs a weight {list(wanted)}, got {got}")
    return unpack(tensor)


def _vector(plan: Plan, op: Op, index: int) -> np.ndarray:
    """Return a bias or gain, float32 [channels of the operator's output]."""
    tensor = None if index == NONE else plan.tensors[index]
    channels = plan.values[op.output].channels
    if not isinstance(tensor, Dense) or tensor.values.size != channels:
        raise ArtifactError(f"plan: {op.code.name} needs a vector of {channels} numbers")
    return unpack(tensor).reshape(-1)


_Inputs = Sequence[ir.Value | None]


def _linear(w: _Writer, plan: Plan, op: Op, inputs: _Inputs) -> ir.Value:
    x = inputs[0]
    if _value(plan, op.inputs[0]).kind is Kind.IMAGE:
        if _value(plan, op.output).rank != 2:
            return _conv(w, plan, op, inputs)
        assert x is not None
        x = w.add("Flatten", x)
    weight = _matrix(plan, op, _value(plan, op.inputs[0]).channels)
    y = w.product("MatMul", x, w.weight(weight.T.copy(), 0))
    return y if op.bias == NONE else w.add("Add", y, w.constant(_vector(plan, op, op.bias)))


def _value(plan: Plan, index: int) -> Value:
    return plan.values[index]


def _conv(w: _Writer, plan: Plan, op: Op, inputs: _Inputs) -> ir.Value:
    depthwise = op.code is OpCode.DEPTHWISE
    channels = _value(plan, op.inputs[0]).channels
    each = 1 if depthwise else channels
    weight = _matrix(plan, op, each * op.kernel[0] * op.kernel[1])
    return w.product(
        "Conv",
        inputs[0],
        w.weight(weight.reshape(-1, each, *op.kernel), 1),
        *([] if op.bias == NONE else [w.constant(_vector(plan, op, op.bias))]),
        kernel_shape=list(op.kernel),
        strides=list(op.stride),
        pads=list(op.pads),
        dilations=list(op.dilation),
        group=channels if depthwise else 1,
    )


def _add(w: _Writer, plan: Plan, op: Op, inputs: _Inputs) -> ir.Value:
    return w.add("Add", inputs[0], inputs[1])


def _nothing(w: _Writer, plan: Plan, op: Op, inputs: _Inputs) -> ir.Value:
    assert inputs[0] is not None
    return inputs[0]


def _layer_norm(w: _Writer, plan: Plan, op: Op, inputs: _Inputs) -> ir.Value:
    x = inputs[0]
    if len(inputs) > 1 and inputs[1] is not None:
        x = w.add("Add", x, inputs[1])
    assert x is not None
    centred = w.add("Sub", x, w.mean(x))
    variance = w.mean(w.add("Mul", centred, centred))
    root = w.add("Sqrt", w.add("Add", variance, w.constant(op.alpha)))
    gain, shift = (w.constant(_vector(plan, op, index)) for index in (op.gain, op.bias))
    return w.add("Add", w.add("Mul", w.add("Div", centred, root), gain), shift)


def _rms_norm(w: _Writer, plan: Plan, op: Op, inputs: _Inputs) -> ir.Value:
    x = inputs[0]
    assert x is not None
    root = w.add("Sqrt", w.add("Add", w.mean(w.add("Mul", x, x)), w.constant(op.alpha)))
    return w.add("Mul", w.add("Div", x, root), w.constant(_vector(plan, op, op.gain)))


def _multiply(w: _Writer, plan: Plan, op: Op, inputs: _Inputs) -> ir.Value:
    return w.add("Mul", inputs[0], inputs[1])


def _attention(w: _Writer, plan: Plan, op: Op, inputs: _Inputs) -> ir.Value:
    channels = _value(plan, op.inputs[0]).channels
    if not op.heads or channels % op.heads:
        raise ArtifactError(f"plan: {channels} channels do not make {op.heads} heads")
    split = w.constant([0, 0, op.heads, channels // op.heads], np.int64)

    def heads(x: ir.Value | None, perm: list[int]) -> ir.Value:
        return w.add("Transpose", w.add("Reshape", x, split), perm=perm)

    q, k, v = (
        heads(inputs[0], [0, 2, 1, 3]),
        heads(inputs[1], [0, 2, 3, 1]),
        heads(inputs[2], [0, 2, 1, 3]),
    )
    scores = w.add("Mul", w.add("MatMul", q, k), w.constant(op.alpha))
    if len(inputs) > 3 and inputs[3] is not None:
        scores = w.add("Add", scores, inputs[3])
    mixed = w.add("MatMul", w.add("Softmax", scores, axis=3), v)
    return w.add(
        "Reshape",
        w.add("Transpose", mixed, perm=[0, 2, 1, 3]),
        w.constant([0, 0, channels], np.int64),
    )


def _max_pool(w: _Writer, plan: Plan, op: Op, inputs: _Inputs) -> ir.Value:
    attributes: dict[str, Any] = {
        "kernel_shape": list(op.kernel), "strides": list(op.stride), "pads": list(op.pads),
    }  # fmt: skip
    if op.dilation != (1, 1):
        attributes["dilations"] = list(op.dilation)
    return w.add("MaxPool", inputs[0], **attributes)


def _average(w: _Writer, plan: Plan, op: Op, inputs: _Inputs) -> ir.Value:
    return w.add("GlobalAveragePool", inputs[0])


_RULES: dict[OpCode, Callable[[_Writer, Plan, Op, _Inputs], ir.Value]] = {
    OpCode.LINEAR: _linear,
    OpCode.CONV: _conv,
    OpCode.DEPTHWISE: _conv,
    OpCode.ADD: _add,
    OpCode.ACTIVATION: _nothing,
    OpCode.LAYER_NORM: _layer_norm,
    OpCode.RMS_NORM: _rms_norm,
    OpCode.MULTIPLY: _multiply,
    OpCode.ATTENTION: _attention,
    OpCode.MAX_POOL: _max_pool,
    OpCode.GLOBAL_AVERAGE_POOL: _average,
}


def _activation(w: _Writer, op: Op, x: ir.Value) -> ir.Value:
    match op.activation:
        case Activation.NONE:
            return x
        case Activation.CLIP if w.opset < 8:  # where Max and Min do not broadcast
            bounds = {"min": op.low, "max": op.high}
            finite = {name: bound for name, bound in bounds.items() if math.isfinite(bound)}
            return w.add("Clip", x, **finite) if finite else x
        case Activation.CLIP:
            if op.low > -math.inf:
                x = w.add("Max", x, w.constant(op.low))
            return w.add("Min", x, w.constant(op.high)) if op.high < math.inf else x
        case Activation.GELU:
            erf = w.add("Erf", w.add("Mul", x, w.constant(math.sqrt(0.5))))
            half = w.add("Mul", x, w.constant(0.5))
            return w.add("Mul", half, w.add("Add", erf, w.constant(1.0)))
        case Activation.GELU_TANH:
            cube = w.add("Mul", w.add("Mul", x, x), x)
            inner = w.add("Add", x, w.add("Mul", cube, w.constant(0.044715)))
            gate = w.add("Tanh", w.add("Mul", inner, w.constant(math.sqrt(2 / math.pi))))
            half = w.add("Mul", x, w.constant(0.5))
            return w.add("Mul", half, w.add("Add", gate, w.constant(1.0)))
        case Activation.SILU:
            return w.add("Mul", x, w.add("Sigmoid", x))
        case Activation.HARD_SWISH:
            gate = w.add("HardSigmoid", x, alpha=1 / 6, beta=0.5)
            return w.add("Mul", x, gate)
