"""Constant targets for reshapes whose target is computed from the shape of their input.

``Reshape(x, Concat(Shape(x)[0], -1))`` with x of [b, 1280, 1, 1] is ``Reshape(x, [0, 1280])``: a
0 copies a dimension, one -1 takes what is left. The shape arithmetic behind it becomes dead, and
what a dimension is split into or merged from can be read off the node.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.ir.cleanup.facts import Dim, infer_facts
from sparsec.ir.cleanup.operators import is_constant, is_standard
from sparsec.ir.cleanup.rewire import display_name, new_constant


def fix_reshapes(model: ir.Model) -> list[str]:
    """Replace computed targets of Reshape by constants where shapes allow it, in place.

    Returns
    -------
    list of str
        Names of the Reshape nodes that changed.
    """
    facts = infer_facts(model)
    changed = []
    for node in model.graph:
        if not is_standard(node, "Reshape") or len(node.inputs) != 2 or is_constant(node.inputs[1]):
            continue
        before, after = facts.shapes.get(node.inputs[0]), facts.shapes.get(node.outputs[0])  # type: ignore[arg-type]
        target = None if before is None or after is None else _target(before, after)
        if target is None:
            continue
        value = new_constant(model.graph, f"{node.outputs[0].name}.shape", target)
        node.replace_input_with(1, value)
        node.attributes.pop("allowzero", None)
        changed.append(display_name(node))
    return changed


def _target(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> np.ndarray | None:
    """Return the target that turns ``before`` into ``after`` for every size of the symbols.

    Examples
    --------
    >>> _target(("b", 1280, 1, 1), ("b", 1280))
    array([   0, 1280])
    >>> _target(("b", "s", 6), ("n", 6))
    array([-1,  6])
    """
    sizes: list[int] = []
    for axis, dim in enumerate(after):
        if isinstance(dim, int):
            if dim == 0:
                return None  # -1 has no answer beside it
            sizes.append(dim)
        elif dim is not None and axis < len(before) and before[axis] == dim:
            sizes.append(0)
        else:
            sizes.append(-1)
    return np.array(sizes, dtype=np.int64) if sizes.count(-1) <= 1 else None
