"""What the examples in the documentation of rules are printed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.ir.cleanup.facts import Facts
from sparsec.ir.lattice import Lattice
from sparsec.ir.op_rules import op_rules
from sparsec.ir.op_rules.view import NodeView

_SHAPE_INPUTS = {"Reshape": 1, "Expand": 1, "Tile": 1}


def couplings(op_type: str, *, opset: int = 20, **operands: Any) -> str:
    """Return what the rule of an operator ties together, one line for each set of positions.

    Parameters
    ----------
    op_type : str
    opset : int
    **operands
        In order: a name and a shape for each input; a keyword that is an attribute of the operator
        is one. ``out`` is the shape of the output, ``outputs`` those of several, where the rule
        needs them. Inputs called w, table, slope and so on are like x: all are free to begin with.

    Returns
    -------
    str
        ``8 units: x.1 w.0/2``: removing one unit removes one position of axis 1 of x, and two of
        axis 0 of w.
    """
    import onnx

    schema = onnx.defs.get_schema(op_type, opset)
    outs: Sequence[Any] = operands.pop("outputs", [operands.pop("out", None)])
    attributes = {key: operands.pop(key) for key in list(operands) if key in schema.attributes}
    inputs = [ir.Value(name=name, shape=ir.Shape(shape)) for name, shape in operands.items()]
    node = ir.node(op_type, inputs, attributes=attributes, num_outputs=len(outs))
    node.name = "example"
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": opset})
    lattice = Lattice(ir.Model(graph, ir_version=10), Facts())
    for value in inputs:
        shape = tuple(int(str(size)) for size in value.shape or ())
        lattice._facts.shapes[value] = shape
        lattice.axes[value] = tuple(_axis(lattice, size) for size in shape)
    place = _SHAPE_INPUTS.get(op_type)
    if place is not None:
        target = np.array(operands[inputs[place].name or ""], np.int64)
        constant = ir.Value(name="target", const_value=ir.tensor(target))
        graph.register_initializer(constant)
        node.replace_input_with(place, constant)
        lattice.axes.pop(inputs[place])
        lattice._facts.shapes[constant] = (target.size,)
    for value, shape in zip(node.outputs, outs, strict=True):
        if shape is not None:
            lattice._facts.shapes[value] = tuple(shape)
    for index, axes in enumerate(op_rules.get(op_type).couple(NodeView(node, lattice))):
        node.outputs[index].name = "y" if len(outs) == 1 else f"y{index}"
        lattice.axes[node.outputs[index]] = axes
    lattice.atoms.settle()
    return _listing(lattice)


def _axis(lattice: Lattice, size: int) -> Any:
    from sparsec.ir.op_rules.rule import Axis

    return Axis(lattice.atoms.fresh(size)) if size > 1 else None


def _listing(lattice: Lattice) -> str:
    """Print the classes of atoms by where their positions lie."""
    places: dict[int, dict[str, int]] = {}
    for value, axes in lattice.axes.items():
        for index, axis in enumerate(axes or ()):
            if axis is None:
                continue
            for leaf in lattice.atoms.leaves(axis.atoms).reshape(-1):
                if leaf >= 0 and not lattice.atoms.is_frozen(np.array([leaf]))[0]:
                    found = places.setdefault(int(leaf), {})
                    name = f"{value.name}.{index}"
                    found[name] = found.get(name, 0) + 1
    classes: dict[tuple[tuple[str, int], ...], int] = {}
    for found in places.values():
        key = tuple(found.items())
        classes[key] = classes.get(key, 0) + 1
    return "\n".join(f"{count} units: {_places(dict(key))}" for key, count in classes.items())


def _places(found: Mapping[str, int]) -> str:
    return " ".join(name if count == 1 else f"{name}/{count}" for name, count in found.items())
