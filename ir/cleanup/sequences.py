"""Splitting without sequences: SplitToSequence read at constant positions is a Split.

The torch exporter writes ``chunk`` and ``split`` this way. Few runtimes and no channel analysis
can see through a sequence.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.ir.cleanup.facts import Facts, infer_facts
from sparsec.ir.cleanup.operators import is_standard, opset, small_constant
from sparsec.ir.cleanup.rewire import bypass, display_name, new_constant


def replace_sequences(model: ir.Model) -> list[str]:
    """Replace SplitToSequence and the SequenceAt behind it by Split, in place.

    Returns
    -------
    list of str
        Names of the nodes that are gone.
    """
    facts = infer_facts(model)
    gone: list[str] = []
    for node in list(model.graph):
        if not is_standard(node, "SplitToSequence"):
            continue
        sizes, readers = _sizes(node, facts), _positions(node)
        if sizes is None or readers is None or any(i >= len(sizes) for i in readers.values()):
            continue
        split = _split(model, node, sizes)
        for reader, position in readers.items():
            if bypass(reader, split.outputs[position]):
                gone.append(display_name(reader))
        if not node.outputs[0].uses():
            model.graph.remove(node, safe=True)
            gone.append(display_name(node))
    return gone


def _sizes(node: ir.Node, facts: Facts) -> list[int] | None:
    """Return the sizes of the parts; None if they are not constant, or lose the axis."""
    split = small_constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if split is None:
        return None
    if split.ndim == 1:
        sizes: list[int] = split.tolist()
        return sizes
    shape = facts.shapes.get(node.inputs[0])  # type: ignore[arg-type]
    axis = node.attributes.get_int("axis", 0) or 0
    total = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    part = int(split)
    if not isinstance(total, int) or part < 1 or total < 1:
        return None
    return [part] * (total // part) + ([total % part] if total % part else [])


def _positions(node: ir.Node) -> dict[ir.Node, int] | None:
    """Return the readers of the sequence and what each takes; None if one does anything else."""
    if node.outputs[0].is_graph_output():
        return None
    readers: dict[ir.Node, int] = {}
    for reader, index in node.outputs[0].uses():
        position = small_constant(reader.inputs[1]) if len(reader.inputs) > 1 else None
        if not is_standard(reader, "SequenceAt") or index != 0 or position is None or position < 0:
            return None
        readers[reader] = int(position)
    return readers


def _split(model: ir.Model, node: ir.Node, sizes: list[int]) -> ir.Node:
    """Insert a Split of ``sizes`` before ``node``; older opsets take the sizes as an attribute."""
    attributes: dict[str, int | list[int]] = {"axis": node.attributes.get_int("axis", 0) or 0}
    inputs = [node.inputs[0]]
    if opset(model) >= 13:
        name = f"{node.outputs[0].name}.sizes"
        inputs.append(new_constant(model.graph, name, np.array(sizes, dtype=np.int64)))
    else:
        attributes["split"] = sizes
    names = [ir.Value(name=f"{node.outputs[0].name}.{i}") for i in range(len(sizes))]
    split = ir.node("Split", inputs, attributes=attributes, outputs=names, name=node.name)
    split.metadata_props.update(node.metadata_props)
    model.graph.insert_before(node, split)
    return split
