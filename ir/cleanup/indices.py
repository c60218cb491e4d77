"""Indices that are computed from constants, stored: a rule can only follow what it can read.

A general clean-up leaves them: ``Range(0, 288)`` is smaller than its result. Here they are positions
of an axis that is to shrink.
"""

from __future__ import annotations

import onnx_ir as ir

from sparsec.ir.cleanup.constants import known_constants
from sparsec.ir.cleanup.operators import is_standard
from sparsec.ir.cleanup.rewire import display_name, replace_by_constants

_INDEXED = {
    "Gather": (1,), "GatherElements": (1,), "GatherND": (1,), "ScatterElements": (1,),
    "ScatterND": (1,), "Slice": (1, 2, 3, 4),
}  # fmt: skip


def fold_indices(model: ir.Model) -> list[str]:
    """Store the indices that nodes of the main graph read, where they are constant, in place.

    Returns
    -------
    list of str
        Names of the nodes that computed them.
    """
    wanted = {
        value
        for node in model.graph
        if is_standard(node, *_INDEXED)
        for value in (node.inputs[i] for i in _INDEXED[node.op_type] if i < len(node.inputs))
        if value is not None and value.producer() is not None
    }
    if not wanted:
        return []
    known = known_constants(model)
    nodes = {value.producer(): None for value in wanted if value in known}
    folded = []
    for node in nodes:
        if node is None or node.graph is not model.graph or len(node.outputs) > 1:
            continue
        if not node.outputs[0].is_graph_output():
            folded.append(display_name(node))
            replace_by_constants(node, [known[node.outputs[0]]])
    return folded
