"""Sequences of tensors, as Python lists."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsec.ir.fx import host as hv
from sparsec.ir.fx.registry import op

Sequence = list[Tensor]


@op("SequenceEmpty", since=11)
def sequence_empty(*, dtype: torch.dtype = torch.float32) -> Sequence:
    """Make a sequence of no tensors."""
    return []


@op("SequenceConstruct", since=11)
def sequence_construct(*items: Tensor) -> Sequence:
    """Make a sequence of the operands."""
    return list(items)


@op("SequenceLength", since=11)
def sequence_length(items: Sequence) -> int:
    """Count the tensors, as a host value."""
    return len(items)


@op("SequenceAt", since=11, host=("position",))
def sequence_at(items: Sequence, position: hv.Host) -> Tensor:
    """Take one tensor."""
    return items[hv.scalar(position)]


@op("SequenceInsert", since=11, host=("position",))
def sequence_insert(items: Sequence, item: Tensor, position: hv.Host | None = None) -> Sequence:
    """Insert a tensor, at the end by default."""
    at = len(items) if position is None else hv.scalar(position)
    at = at + len(items) if at < 0 else at
    return [*items[:at], item, *items[at:]]


@op("SequenceErase", since=11, host=("position",))
def sequence_erase(items: Sequence, position: hv.Host | None = None) -> Sequence:
    """Leave one tensor out, the last by default."""
    at = (-1 if position is None else hv.scalar(position)) % len(items)
    return [*items[:at], *items[at + 1 :]]


@op("ConcatFromSequence", since=11)
def concat_from_sequence(items: Sequence, *, axis: int, new_axis: int = 0) -> Tensor:
    """Join the tensors along an axis, old or new."""
    return torch.stack(items, axis) if new_axis else torch.cat(items, axis)


@op("SplitToSequence", since=11, host=("split",))
def split_to_sequence(
    x: Tensor, split: hv.Host | None = None, *, axis: int = 0, keepdims: int = 1
) -> Sequence:
    """Cut a tensor along an axis into a sequence."""
    if split is None:
        parts = torch.split(x, 1, axis)
        return [p if keepdims else p.squeeze(axis) for p in parts]
    return list(torch.split(x, list(split) if isinstance(split, tuple) else split, axis))
