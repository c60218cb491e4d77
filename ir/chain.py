"""Operators that may stand between a stored tensor and the operand it becomes, and their inverses.

A weight is often not the operand itself but stored in int8 behind Cast and Mul, behind
DequantizeLinear, or transposed. Each step maps the stored array forward to the operand and an edited operand
back, so that a pass can edit the operand and the change lands in the stored tensor. Zero maps to zero (or to the
zero point), and values that were not edited come back bit for bit.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]


class Step(abc.ABC):
    """One invertible operator between the stored tensor and the operand."""

    @abc.abstractmethod
    def forward(self, array: Array) -> Array:
        """Map the stored side to the operand side."""

    @abc.abstractmethod
    def backward(self, array: Array) -> Array:
        """Map the operand side to the stored side."""

    def source_axis(self, axis: int) -> int:
        """Return the axis of the stored side that ``axis`` of the operand side comes from."""
        return axis

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the operand side."""
        return stored


@dataclasses.dataclass(frozen=True, slots=True)
class TransposeStep(Step):
    """``y = Transpose(x, perm)``."""

    perm: tuple[int, ...]

    def forward(self, array: Array) -> Array:
        """Permute the axes."""
        return array.transpose(self.perm)

    def backward(self, array: Array) -> Array:
        """Permute the axes back."""
        return array.transpose(np.argsort(self.perm))

    def source_axis(self, axis: int) -> int:
        """Return the axis that ``axis`` was before."""
        return self.perm[axis]

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return the permuted shape."""
        return tuple(stored[axis] for axis in self.perm)


@dataclasses.dataclass(frozen=True, slots=True)
class CastStep(Step):
    """``y = Cast(x)`` from a narrower type, which every stored value survives."""

    to: np.dtype[Any]
    stored: np.dtype[Any]

    def forward(self, array: Array) -> Array:
        """Widen."""
        return array.astype(self.to)

    def backward(self, array: Array) -> Array:
        """Narrow, to the nearest integer for an integer type."""
        if np.issubdtype(self.stored, np.integer):
            limits = np.iinfo(self.stored)
            array = np.clip(np.rint(array), limits.min, limits.max)
        return array.astype(self.stored)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class ScaleStep(Step):
    """``y = x * scale`` with a constant that is nowhere zero."""

    scale: Array

    def forward(self, array: Array) -> Array:
        """Multiply."""
        return np.asarray(array * self.scale)

    def backward(self, array: Array) -> Array:
        """Divide."""
        return np.asarray(array / self.scale)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class DequantizeStep(Step):
    """``y = DequantizeLinear(x, scale, zero_point)``; scale and zero point broadcast to x."""

    scale: Array
    zero_point: Array
    stored: np.dtype[Any]

    def forward(self, array: Array) -> Array:
        """Dequantise."""
        shifted = array.astype(np.int32) - self.zero_point.astype(np.int32)
        return np.asarray(shifted.astype(self.scale.dtype) * self.scale)

    def backward(self, array: Array) -> Array:
        """Quantise to the nearest stored value."""
        limits = np.iinfo(self.stored)
        quantised = np.rint(array / self.scale) + self.zero_point.astype(np.float64)
        return np.clip(quantised, limits.min, limits.max).astype(self.stored)


@dataclasses.dataclass(frozen=True, slots=True)
class Operand:
    """What is known of the array that a chain has produced so far."""

    rank: int
    dtype: np.dtype[Any]


def step_of(node: ir.Node, index: int, array: Operand) -> Step | None:
    """Return how ``node`` carries on the array it reads at input ``index``.

    None if the operator is no step, or one that cannot be undone: the chain then ends at ``node``.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    match node.op_type:
        case "Transpose":
            perm = node.attributes.get_ints("perm") or range(array.rank)[::-1]
            return TransposeStep(tuple(int(axis) for axis in perm))
        case "Cast":
            return _cast(node, array)
        case "Mul":
            return _scale(node, index, array)
        case "DequantizeLinear" if index == 0:
            return _dequantize(node, array)
    return None


def after(step: Step, array: Operand) -> Operand:
    """Return what is known of the array behind ``step``."""
    match step:
        case CastStep():
            return Operand(array.rank, step.to)
        case DequantizeStep():
            return Operand(array.rank, step.scale.dtype)
    return array


def _cast(node: ir.Node, array: Operand) -> Step | None:
    to = np.dtype(ir.DataType(node.attributes.get_int("to", 0)).numpy())
    small_int = np.issubdtype(array.dtype, np.integer) and array.dtype.itemsize <= 2
    widens = small_int or array.dtype.itemsize < to.itemsize or array.dtype == to
    if not widens or np.issubdtype(to, np.integer) or to == np.bool_:
        return None
    return CastStep(to, array.dtype)


def _scale(node: ir.Node, index: int, array: Operand) -> Step | None:
    other = node.inputs[1 - index]
    if other is None or other.const_value is None:
        return None
    scale = other.const_value.numpy()
    if scale.ndim > array.rank or not np.all(np.isfinite(scale)) or np.any(scale == 0):
        return None
    # A scale of more elements than the stored tensor would make the product larger than the tensor.
    return ScaleStep(scale) if scale.size == 1 or scale.ndim == array.rank else None


def _dequantize(node: ir.Node, array: Operand) -> Step | None:
    constants = [value.const_value if value is not None else None for value in node.inputs[1:]]
    if not constants or constants[0] is None or not np.issubdtype(array.dtype, np.integer):
        return None
    if node.attributes.get_int("block_size", 0) or array.dtype.itemsize > 2:
        return None
    scale = constants[0].numpy()
    if np.any(scale == 0) or not np.all(np.isfinite(scale)):
        return None
    zero = np.zeros(scale.shape, array.dtype)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        if constants[1] is None:
            return None
        zero = constants[1].numpy()
    if scale.ndim == 1 and scale.size > 1:
        shape = [1] * array.rank
        shape[(node.attributes.get_int("axis", 1) or 0) % array.rank] = scale.size
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return DequantizeStep(scale, zero, array.dtype)
