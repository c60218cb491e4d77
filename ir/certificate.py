"""Certificates: proof that a removal of structure did what it says, for any weights.

The statement is that the shrunk graph returns what the dense one does with the removed units zeroed.
It is about structure, so a certificate holds no weights: two graphs without their parameters, and
which positions of which parameter go. Whoever replays it makes up weights, zeroes them in one graph,
takes them out of the other, and runs both in stock ONNX Runtime. Nothing of how the pruning groups
were found takes part in that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.edits import Removal

_INLINE = 16  # elements; smaller parameters stay in the skeleton: they bound and scale

Weights = Mapping[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Certificate:
    """One removal, replayable.

    Parameters
    ----------
    applied : str
        The pass.
    groups : sequence of (name, units, removed)
        Name of each pruning group, how many units it had, and which of them went.
    removal : Removal
    dense, shrunk : onnx_ir.Model
        The graph before and after; parameters are graph inputs.
    """

    applied: str
    groups: Sequence[tuple[str, int, tuple[int, ...]]]
    removal: Removal
    dense: ir.Model
    shrunk: ir.Model

    @property
    def parameters(self) -> dict[str, ir.Value]:
        """The parameters of the dense graph by name."""
        return {v.name or "": v for v in self.dense.graph.inputs if v.metadata_props.get(_MARK)}


_MARK = "sparsec.parameter"


def certify(
    applied: str,
    groups: Sequence[tuple[str, int, tuple[int, ...]]],
    removal: Removal,
    before: ir.Model,
    after: ir.Model,
) -> Certificate:
    """Return the certificate of a removal; neither graph is changed or kept."""
    names = {
        name
        for name, value in before.graph.initializers.items()
        if name in removal.tensors or _is_parameter(value)
    }
    return Certificate(applied, groups, removal, skeleton(before, names), skeleton(after, names))


def _is_parameter(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype.is_floating_point() and tensor.size > _INLINE


def skeleton(model: ir.Model, names: set[str]) -> ir.Model:
    """Return a copy of ``model`` in which the initializers ``names`` are inputs, without values."""
    copy = model.clone()
    graph = copy.graph
    for name in [name for name in graph.initializers if name in names]:
        value = graph.initializers.pop(name)
        tensor = value.const_value
        assert tensor is not None
        value.const_value = None
        value.shape = ir.Shape(tensor.shape.numpy())
        value.type = ir.TensorType(tensor.dtype)
        value.metadata_props[_MARK] = "1"
        if not value.is_graph_input():
            graph.inputs.append(value)
    return copy


def filled(graph: ir.Model, weights: Weights) -> ir.Model:
    """Return a copy of a skeleton with ``weights`` for its parameters."""
    copy = graph.clone()
    for value in [value for value in copy.graph.inputs if value.metadata_props.get(_MARK)]:
        copy.graph.inputs.remove(value)
        array = np.ascontiguousarray(weights[value.name or ""])
        value.const_value = ir.tensor(array, name=value.name, dtype=value.dtype)
        copy.graph.register_initializer(value)
    return copy
