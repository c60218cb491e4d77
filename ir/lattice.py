"""The lattice: the axes of every value of a graph in terms of atoms.

One walk over the graph applies the rule of every operator (:mod:`sparsec.ir.op_rules`). An operator
without a rule is a barrier: it freezes every axis that it reads, and nothing is guessed about what
it returns. The same holds for the bodies of If, Loop and Scan, and for graph outputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.atoms import Atoms, Labels
from sparsec.ir.cleanup.facts import Facts, infer_facts
from sparsec.ir.cleanup.operators import is_constant, opset
from sparsec.ir.cycles import bodies, reads
from sparsec.ir.op_rules import rule_of
from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.view import Dim, NodeView
from sparsec.ir.verify import describe


@dataclasses.dataclass(frozen=True, slots=True)
class Barrier:
    """Something that froze axes.

    Parameters
    ----------
    value : str
        The value whose axes were frozen, or the node that froze them.
    reason : str
    """

    value: str
    reason: str


class Lattice:
    """Axes of the values of one graph; see :func:`build_lattice`.

    Attributes
    ----------
    atoms : Atoms
    axes : dict of onnx_ir.Value to axes
    makers : list of (node, labels)
        Which weights make which atoms, in graph order.
    marks : list of (kind, labels)
        What rules noted of an axis: ``head``, ``head_dim``.
    readers : dict of (onnx_ir.Value, int) to bool
        Weights that sum over an axis of an activation, by the axis of the weight; whether what they
        read vanishes.
    summed : list of labels
        Axes that are summed over without a weight of the graph.
    constants : set of onnx_ir.Value
        Initializers and what is computed from them alone.
    never_zero : set of onnx_ir.Value
        Variances and divisors.
    scales : set of onnx_ir.Value
        Factors of BatchNormalization, one for each channel.
    followed : dict of onnx_ir.Node to OpRule
        Nodes whose rule applied; all others are barriers.
    barriers : dict of Barrier
        Ordered, each once.
    """

    def __init__(self, model: ir.Model, facts: Facts) -> None:
        self.model = model
        self.atoms = Atoms()
        self.axes: dict[ir.Value, Axes] = {}
        self.makers: list[tuple[ir.Node, Labels]] = []
        self.marks: list[tuple[str, Labels]] = []
        self.readers: dict[tuple[ir.Value, int], bool] = {}
        self.summed: list[Labels] = []
        self.constants: set[ir.Value] = set()
        self.never_zero: set[ir.Value] = set()
        self.followed: dict[ir.Node, OpRule] = {}
        self.scales: set[ir.Value] = set()
        self.barriers: dict[Barrier, None] = {}
        self.opset = opset(model)
        self._facts = facts

    def shape_of(self, value: ir.Value) -> tuple[Dim, ...] | None:
        """Return what is known of a shape for certain.

        Behind an operator of another domain, no shape is inferred; its rule still gives axes.
        """
        shape = self._facts.shapes.get(value)
        axes = self.axes.get(value)
        if shape is not None or axes is None:
            return shape
        return tuple(None if axis is None or axis.cyclic else axis.size for axis in axes)

    def axes_of(self, value: ir.Value) -> Axes:
        """Return the axes of a value; those of a constant are free until somebody ties them."""
        if value not in self.axes:
            self.axes[value] = self._first_axes(value)
        return self.axes[value]

    def _first_axes(self, value: ir.Value) -> Axes:
        shape = self.shape_of(value)
        if shape is None:
            return None
        if not is_constant(value):
            return (None,) * len(shape)
        sizes = [int(size) if isinstance(size, int) else 0 for size in shape]
        return tuple(Axis(self.atoms.fresh(size)) if size > 1 else None for size in sizes)

    def freeze(self, labels: Labels, node: ir.Node | None, reason: str) -> None:
        """Freeze atoms and remember who did it."""
        where = describe(node) if node is not None else reason
        self.barriers[Barrier(where, reason)] = None
        self.atoms.freeze(labels, reason)

    def removed(self, value: ir.Value, gone: NDArray[Any]) -> dict[int, Labels]:
        """Return which positions of which axes of ``value`` go."""
        found = {}
        for index, axis in enumerate(self.axes.get(value) or ()):
            if axis is not None and (mask := gone[axis.atoms]).any():
                found[index] = mask.nonzero()[0]
        return found


def build_lattice(model: ir.Model) -> Lattice:
    """Follow the channels of ``model`` through every operator of its main graph.

    The model is not changed. Costs a few array operations a node, whatever the weights' size: no
    weight is read.
    """
    lattice = Lattice(model, infer_facts(model))
    for value in model.graph.initializers.values():
        if is_constant(value):
            lattice.constants.add(value)
    for node in model.graph:
        _apply(node, lattice)
    for value in model.graph.outputs:
        for axis in lattice.axes_of(value) or ():
            if axis is not None:
                lattice.freeze(axis.atoms, None, f"the graph output {value.name!r} keeps its shape")
    lattice.atoms.settle()
    return lattice


def _apply(node: ir.Node, lattice: Lattice) -> None:
    """Add what one node does to the lattice."""
    rule = rule_of(node)
    view = NodeView(node, lattice, cyclic=rule is not None and rule.cyclic)
    given = [value for value in node.inputs if value is not None]
    if given and all(value in lattice.constants for value in given):
        lattice.constants.update(node.outputs)
    inner = any(True for _ in bodies(node))
    unranked = [value for value in given if lattice.axes_of(value) is None]
    if rule is None or inner or unranked:
        why = "has no rule for how its axes hang together"
        if inner:
            why = "has a body that reads it"
        elif rule is not None:
            why = f"reads {unranked[0].name!r}, whose rank is not known"
        for value in reads(node):
            view.freeze_all(lattice.axes_of(value) or (), why)
        found: Sequence[Axes] = [_fixed(lattice, value) for value in node.outputs]
    else:
        found = rule.couple(view)
        lattice.followed[node] = rule
    for value, axes in zip(node.outputs, found, strict=True):
        lattice.axes[value] = axes


def _fixed(lattice: Lattice, value: ir.Value) -> Axes:
    """Return the axes of a value that nothing is known of but, perhaps, its rank."""
    shape = lattice.shape_of(value)
    return None if shape is None else (None,) * len(shape)
