"""One fill for each reader: zeros that two layers share would make both shrink alike.

Merging duplicates leaves one ``Expand`` of a zero for every layer that starts from such a vector. It
costs nothing to make one for each, and then each may have its own size.
"""

from __future__ import annotations

import onnx_ir as ir

from sparsec.ir.cleanup.operators import is_constant, is_standard
from sparsec.ir.cleanup.rewire import display_name


def unshare_fills(model: ir.Model) -> list[str]:
    """Give every reader of an Expand of constants its own, in place.

    Returns
    -------
    list of str
        Names of the nodes that were copied.
    """
    copied = []
    taken = {out.name for node in model.graph for out in node.outputs}
    for node in list(model.graph):
        if not is_standard(node, "Expand") or not all(is_constant(v) for v in node.inputs):
            continue
        out = node.outputs[0]
        uses = [use for use in out.uses() if use.node.graph is model.graph]
        if len(uses) < 2:
            continue
        copied.append(display_name(node))
        for number, (user, index) in enumerate(uses[1:], start=1):
            copy = ir.node("Expand", list(node.inputs), name=f"{node.name}.{number}")
            made = copy.outputs[0]
            made.name, made.shape, made.type = f"{out.name}.{number}", out.shape, out.type
            while made.name in taken or made.name in model.graph.initializers:
                made.name += "_"
            taken.add(made.name)
            model.graph.insert_after(node, copy)
            user.replace_input_with(index, made)
    return copied
