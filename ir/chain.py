"""Operators that may stand between a stored tensor and the operand it becomes, and their inverses.

A weight is often not the operand itself but stored in int8 behind Cast and Mul, behind
DequantizeLinear, or transposed. Each step maps the stored array forward to the operand and an
edited operand back, so that a pass can edit the operand and the change lands in the stored tensor.
Zero maps to zero (or to the zero point).
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Operand:
    """What is known of the array that a chain has produced so far."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating point, bfloat16 and the 8-bit types included."""
        return ir.DataType.from_numpy(self.dtype).is_floating_point()


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


@dataclasses.dataclass(frozen=True, slots=True)
class CastStep(Step):
    """``y = Cast(x)`` between floating types, or from an integer type whose values all survive."""

    to: np.dtype[Any]
    stored: np.dtype[Any]

    def forward(self, array: Array) -> Array:
        """Convert; what does not fit becomes infinite, as at run time."""
        with np.errstate(over="ignore"):
            return np.asarray(array, dtype=self.to)

    def backward(self, array: Array) -> Array:
        """Convert back, to the nearest integer for an integer type."""
        if np.issubdtype(self.stored, np.integer):
            limits = np.iinfo(self.stored)
            array = np.clip(np.rint(array), limits.min, limits.max)
        return array.astype(self.stored)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class ScaleStep(Step):
    """``y = x * scale`` with a constant that is nowhere zero and broadcasts to x."""

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
        return np.asarray(np.clip(quantised, limits.min, limits.max), dtype=self.stored)


def step_of(node: ir.Node, index: int, operand: Operand) -> Step | None:
    """Return how ``node`` carries on the array it reads at input ``index``.

    None if the operator is no step, or one that cannot be undone: the chain then ends at ``node``.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    rank = len(operand.shape)
    match node.op_type:
        case "Identity":
            return TransposeStep(tuple(range(rank)))
        case "Transpose":
            perm = node.attributes.get_ints("perm") or range(rank)[::-1]
            return TransposeStep(tuple(int(axis) for axis in perm))
        case "Cast":
            return _cast(node, operand)
        case "Mul":
            return _scale(node, index, operand)
        case "DequantizeLinear" if index == 0:
            return _dequantize(node, operand)
    return None


def after(step: Step, operand: Operand) -> Operand:
    """Return what is known of the array behind ``step``."""
    match step:
        case TransposeStep():
            return Operand(tuple(operand.shape[axis] for axis in step.perm), operand.dtype)
        case CastStep():
            return Operand(operand.shape, step.to)
        case DequantizeStep():
            return Operand(operand.shape, step.scale.dtype)
    return operand


def _cast(node: ir.Node, operand: Operand) -> Step | None:
    to = ir.DataType(node.attributes.get_int("to", 0))
    if not to.is_floating_point():
        return None
    exact = np.issubdtype(operand.dtype, np.integer) and np.can_cast(operand.dtype, to.numpy())
    return CastStep(to.numpy(), operand.dtype) if operand.is_float or exact else None


def _scale(node: ir.Node, index: int, operand: Operand) -> Step | None:
    other = node.inputs[1 - index]
    if other is None or other.const_value is None or not operand.is_float:
        return None
    # Of two factors the larger one is the weight; two of one size would be each other's scale.
    if not _broadcasts(tuple(other.const_value.shape.numpy()), operand.shape):
        return None
    scale = other.const_value.numpy()
    if not np.all(np.isfinite(scale)) or np.any(scale == 0):
        return None
    return ScaleStep(scale)


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether an array of the shape ``small`` broadcasts to ``large`` and has fewer elements."""
    if len(small) > len(large) or np.prod(small) >= np.prod(large):
        return False
    return all(a in (1, b) for a, b in zip(small[::-1], large[::-1], strict=False))


def _dequantize(node: ir.Node, operand: Operand) -> Step | None:
    """Read the constants; sub-byte types and blocked scales are not undone."""
    constants = [None if value is None else value.const_value for value in node.inputs[1:]]
    if not constants or constants[0] is None or not np.issubdtype(operand.dtype, np.integer):
        return None
    if node.attributes.get_int("block_size", 0) or operand.dtype.itemsize > 2:
        return None
    scale = constants[0].numpy()
    if np.any(scale == 0) or not np.all(np.isfinite(scale)):
        return None
    zero = np.zeros(scale.shape, operand.dtype)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        if constants[1] is None:
            return None
        zero = constants[1].numpy()
    if scale.ndim == 1 and scale.size > 1:
        rank = len(operand.shape)
        shape = [1] * rank
        axis = node.attributes.get_int("axis", 1)
        shape[(1 if axis is None else axis) % rank] = scale.size
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return DequantizeStep(scale, zero, operand.dtype)
