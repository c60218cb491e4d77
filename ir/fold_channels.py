"""Folding of constant channels into the biases of the layers that read them.

``W x + b`` with a constant channel c is ``W' x + (b + W[:, c] v)`` where W' no longer reads c. That is
exact for linear layers and for convolutions that pad nothing; where zeros are padded, the border sees
them instead of v, so that only ``v = 0`` can be folded. Afterwards nobody reads the channel.

Source: the constant that a BatchNormalization of scale zero leaves; Liu et al., "Learning Efficient
Convolutional Networks through Network Slimming", arXiv:1708.06519, drop it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.atoms import Labels
from sparsec.ir.bias import own_bias
from sparsec.ir.cleanup.rewire import display_name
from sparsec.ir.constant_channels import (
    Channels,
    constant_channels,
    layer_weight,
    padded,
    readers_of,
)
from sparsec.ir.edits import alike, replace_array
from sparsec.ir.exact import Slices, idle_units, slices_of
from sparsec.ir.groups import Groups

_AXES = {"Conv": 1, "Gemm": 1, "MatMul": 0}  # of the stored weight, that is summed over


@dataclasses.dataclass(slots=True)
class Folded:
    """What was folded.

    Parameters
    ----------
    count : int
        Units that nobody reads any more.
    left : dict of str to str
        Groups that have constant units which could not be folded, and why.
    """

    count: int = 0
    left: dict[str, str] = dataclasses.field(default_factory=dict)


def fold_constant_channels(groups: Groups) -> Folded:
    """Let no layer read a constant unit, in place; ``groups`` is stale afterwards.

    A unit is folded if every layer that reads it can do without.
    """
    known = constant_channels(groups.lattice.model)
    result = Folded()
    if not known:
        return result
    todo: list[tuple[Slices, Labels]] = []
    for group in groups:
        idle = np.concatenate(idle_units(groups, group))  # they go anyway
        for units in alike(groups.lattice, np.setdiff1d(group.units, idle)):
            if not units.size:
                continue
            chosen, parts, reason = _foldable(groups, units, known)
            if reason is not None:
                result.left[group.name] = reason
            if chosen.any():
                result.count += int(chosen.sum())
                todo += [(part, part.positions[chosen].reshape(-1)) for part in parts]
    for part, positions in todo:
        _fold(part.value, positions, known)
    return result


def _foldable(
    groups: Groups, units: Labels, known: dict[ir.Value, Channels]
) -> tuple[NDArray[np.bool_], list[Slices], str | None]:
    """Return which units can be folded, where they are read, and why constant ones cannot."""
    readers = groups.lattice.readers
    parts = [p for p in slices_of(groups, units) if (p.value, p.axis) in readers]
    constant = np.full(len(units), bool(parts))
    exact = constant.copy()
    reason = None
    for part in parts:
        nodes = [node for node, _ in part.value.uses()]
        states = readers_of(nodes, known) if _plain(part, nodes) else None
        if states is None:
            return np.zeros(len(units), np.bool_), [], None
        for node, state in zip(nodes, states, strict=True):
            if len(state.numbers) <= int(part.positions.max()):
                return np.zeros(len(units), np.bool_), [], None
            constant &= ~state.varies[part.positions].any(axis=1)
            here = (state.numbers[part.positions] == 0).all(axis=1)
            if node.op_type == "Conv" and padded(node):
                exact &= here
                if (constant & ~here).any():
                    reason = (
                        f"{int((constant & ~here).sum())} of its channels are constant but not zero, "
                        f"and {display_name(node)} pads them with zeros"
                    )
    return constant & exact, parts, reason


def _plain(part: Slices, nodes: list[ir.Node]) -> bool:
    """Whether all readers are layers that sum over this axis of the tensor as it is stored."""
    for node in nodes:
        axis = _AXES.get(node.op_type)
        if node.op_type == "Gemm":
            axis = 1 if node.attributes.get_int("transB", 0) else 0
        grouped = (node.attributes.get_int("group", 1) or 1) > 1
        if axis != part.axis or grouped or layer_weight(node) is None:
            return False
        if node.inputs[1] is not part.value or node.inputs[0] is part.value:
            return False
    return bool(nodes)


def _fold(value: ir.Value, positions: Labels, known: dict[ir.Value, Channels]) -> None:
    """Move what a weight makes of constant channels into the biases of its nodes."""
    nodes = [node for node, _ in value.uses()]
    for node in nodes:
        weight = layer_weight(node)
        source = node.inputs[0]
        assert weight is not None
        assert source is not None
        numbers = known[source].numbers[positions].astype(np.float64)
        columns = weight[:, positions].astype(np.float64).reshape(len(weight), len(positions), -1)
        shift = np.einsum("oik,i->o", columns, numbers)
        if node.op_type == "Gemm":
            shift *= node.attributes.get_float("alpha", 1.0)
        if shift.any():
            own_bias(node, 1, (len(weight),)).add(shift)
    tensor = value.const_value
    assert tensor is not None
    array = tensor.numpy().copy()
    axis = _AXES[nodes[0].op_type]
    if nodes[0].op_type == "Gemm" and not nodes[0].attributes.get_int("transB", 0):
        axis = 0
    array[(slice(None),) * axis + (positions,)] = 0
    replace_array(value, array)
