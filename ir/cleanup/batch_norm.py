"""Folding of BatchNormalization into the weights of the layer before it.

In inference BatchNormalization is an affine map of each channel c::

    y_c = s_c (z_c - mean_c) + beta_c        s_c = gamma_c / sqrt(var_c + epsilon)

and the layer before it is affine in its weight and bias, ``z_c = <W_c, x> + b_c``, so that::

    y_c = <s_c W_c, x> + s_c (b_c - mean_c) + beta_c

which is the same layer with weight ``s_c W_c`` and bias ``s_c (b_c - mean_c) + beta_c``. Zeros of
W stay zeros. The arithmetic is float64, rounded once to the dtype of the weight; the result
equals the source up to that rounding, which is why this is no part of ``clean_up``.

A layer is folded only if nothing else reads its output or its weight, everything involved is a
plain constant, and all results are finite.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.dead import remove_dead
from sparsec.ir.cleanup.operators import is_constant, is_standard, opset
from sparsec.ir.cleanup.rewire import bypass, display_name

Vector = NDArray[np.float64]

_FLOATS = (ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)


def fold_batch_norm(model: ir.Model) -> list[str]:
    """Fold every BatchNormalization that follows a Conv, ConvTranspose or Gemm, in place.

    Weights and biases keep their names. A layer without a bias takes over the ``beta`` of the
    normalisation, with its name, or gets one named after the weight.

    Returns
    -------
    list of str
        Names of the BatchNormalization nodes that are gone.
    """
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    norms = [node for node in nodes if is_standard(node, "BatchNormalization")]
    folded = [display_name(norm) for norm in norms if _fold(norm, opset(model))]
    if folded:
        remove_dead(model)
    return folded


def _fold(norm: ir.Node, version: int) -> bool:
    data = norm.inputs[0]
    layer = data.producer() if data is not None else None
    if data is None or layer is None or len(data.uses()) != 1 or data.is_graph_output():
        return False
    if not is_standard(layer, "Conv", "ConvTranspose", "Gemm") or layer.graph is not norm.graph:
        return False
    weight, affine = layer.inputs[1], _affine(norm, version)
    if affine is None or weight is None or not _is_own(weight):
        return False
    scaled = _scaled_weight(layer, _array(weight), affine.scale)
    shifted = _shifted_bias(layer, affine)
    dtype = weight.const_value.dtype.numpy()  # type: ignore[union-attr]
    if scaled is None or shifted is None:
        return False
    with np.errstate(over="ignore"):
        scaled, shifted = scaled.astype(dtype), shifted.astype(dtype)
    if not (np.all(np.isfinite(scaled)) and np.all(np.isfinite(shifted))):
        return False
    bias = _bias_value(layer, norm, weight)
    if not bypass(norm, data):
        return False
    _write(weight, scaled)
    _write(bias, shifted)
    if not bias.is_initializer():
        weight.graph.register_initializer(bias)  # type: ignore[union-attr]
    layer.resize_inputs(3)
    layer.replace_input_with(2, bias)
    layer.attributes.pop("beta", None)  # of Gemm: the bias holds it now
    return True


@dataclasses.dataclass(frozen=True, slots=True)
class _Affine:
    """The normalisation as ``scale * (z - mean) + beta`` [channels]."""

    scale: Vector
    mean: Vector
    beta: Vector


def _affine(norm: ir.Node, version: int) -> _Affine | None:
    """Return the map of a normalisation in inference, or None if it is not constant."""
    attribute = norm.attributes.get_int("training_mode", 0)
    training = bool(attribute) if version >= 14 else len(norm.outputs) > 1
    if training or len(norm.inputs) != 5 or not all(is_constant(v) for v in norm.inputs[1:]):
        return None
    gamma, beta, mean, var = (_array(value).astype(np.float64) for value in norm.inputs[1:])  # type: ignore[arg-type]
    shifted = var + norm.attributes.get_float("epsilon", 1e-5)
    if np.any(~(shifted > 0)) or not gamma.shape == beta.shape == mean.shape == var.shape:
        return None
    return _Affine(gamma / np.sqrt(shifted), mean, beta)


def _is_own(value: ir.Value) -> bool:
    """Whether ``value`` is a float constant with one reader, which may be rewritten."""
    if not is_constant(value) or value.is_graph_output() or len(value.uses()) != 1:
        return False
    return value.const_value is not None and value.const_value.dtype in _FLOATS


def _array(value: ir.Value) -> NDArray[Any]:
    assert value.const_value is not None
    return value.const_value.numpy()


def _scaled_weight(layer: ir.Node, weight: NDArray[Any], scale: Vector) -> Vector | None:
    """Return the weight with every output channel scaled, or None if the channels do not match."""
    wide = weight.astype(np.float64)
    channels = scale.size
    if layer.op_type == "Gemm":
        axis = 0 if layer.attributes.get_int("transB", 0) else 1
        if wide.ndim != 2 or wide.shape[axis] != channels:
            return None
        return wide * (scale[:, None] if axis == 0 else scale)
    spatial = (1,) * (wide.ndim - 2)
    if layer.op_type == "Conv":
        return wide * scale.reshape(-1, 1, *spatial) if wide.shape[0] == channels else None
    # ConvTranspose stores [in, out / groups, ...]: the rows of a group share outputs.
    groups = layer.attributes.get_int("group", 1) or 1
    rows, per_group = wide.shape[:2]
    if rows % groups or per_group * groups != channels:
        return None
    by_group = wide.reshape(groups, rows // groups, *wide.shape[1:])
    return (by_group * scale.reshape(groups, 1, per_group, *spatial)).reshape(wide.shape)


def _shifted_bias(layer: ir.Node, affine: _Affine) -> Vector | None:
    """Return ``scale (bias - mean) + beta`` [channels], or None if the bias is not of that form."""
    bias = np.zeros_like(affine.mean)
    value = layer.inputs[2] if len(layer.inputs) > 2 else None
    if value is not None:
        if not is_constant(value) or value.const_value is None:
            return None
        array = _array(value).astype(np.float64)
        if array.size not in (1, bias.size) or (array.ndim and array.shape[-1] != array.size):
            return None  # a Gemm bias that differs by row
        bias = bias + array.reshape(-1)
        if layer.op_type == "Gemm":
            bias = bias * layer.attributes.get_float("beta", 1.0)
    return affine.scale * (bias - affine.mean) + affine.beta


def _bias_value(layer: ir.Node, norm: ir.Node, weight: ir.Value) -> ir.Value:
    """Return the value to hold the new bias: the layer's, else the norm's beta, else a new one."""
    own = layer.inputs[2] if len(layer.inputs) > 2 else None
    for value in (own, norm.inputs[2]):
        if value is not None and _is_own(value) and value.graph is weight.graph:
            return value
    taken = weight.graph.initializers if weight.graph is not None else {}
    name = f"{weight.name}.folded_bias"
    while name in taken:
        name += "_"
    return ir.Value(name=name)


def _write(value: ir.Value, array: NDArray[Any]) -> None:
    tensor = ir.tensor(np.ascontiguousarray(array), name=value.name)
    value.const_value = tensor
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
