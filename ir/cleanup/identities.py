"""Removal of operators that return what they are given.

Each rule proves from constants and from inferred facts (:mod:`sparsec.ir.cleanup.facts`) that the
result equals the input, bit for bit. ``x + 0.0`` is not among them: it turns -0.0 into 0.0, and
1/x tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.cleanup.facts import Facts, infer_facts
from sparsec.ir.cleanup.operators import (
    has_parameter,
    is_standard,
    opset,
    parameter,
    small_constant,
)
from sparsec.ir.cleanup.rewire import bypass, display_name

# Given a node, return the input that its first output equals, or None.
Rule = Callable[[ir.Node, Facts, int], ir.Value | None]

_TO_THE_END = np.iinfo(np.int32).max  # exporters write this, or more, for "up to the end"


def eliminate_identities(model: ir.Model) -> list[str]:
    """Remove operators without effect, in place.

    Returns
    -------
    list of str
        Names of the removed nodes.
    """
    facts, version = infer_facts(model), opset(model)
    removed = []
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        rule = _RULES.get(node.op_type) if is_standard(node) and node.inputs else None
        if rule is None or any(attribute.is_ref() for attribute in node.attributes.values()):
            continue
        source = rule(node, facts, version)
        if source is not None and bypass(node, source):
            removed.append(display_name(node))
    return removed


def _identity(node: ir.Node, facts: Facts, version: int) -> ir.Value | None:
    return node.inputs[0]


def _dropout(node: ir.Node, facts: Facts, version: int) -> ir.Value | None:
    """From opset 12 on an input says whether the node drops; before, it never does."""
    if version >= 12 and has_parameter(node, 2, "training_mode"):
        training = small_constant(node.inputs[2])
        if training is None or training.any():
            return None
    return node.inputs[0]


def _cast(node: ir.Node, facts: Facts, version: int) -> ir.Value | None:
    source = node.inputs[0]
    if source is None or source not in facts.dtypes:
        return None
    if node.op_type == "Cast":
        to: int | None = node.attributes.get_int("to", 0)
    else:
        to = facts.dtypes.get(node.inputs[1])  # type: ignore[arg-type]
    return source if facts.dtypes[source] == to else None


def _transpose(node: ir.Node, facts: Facts, version: int) -> ir.Value | None:
    """Compose with a Transpose before it; what is left may be no permutation at all."""
    source = node.inputs[0]
    perm = node.attributes.get_ints("perm")
    if source is None or perm is None:
        return None
    before = source.producer()
    first = None
    if before is not None and is_standard(before, "Transpose") and before.inputs[0] is not None:
        first = before.attributes.get_ints("perm")
    if before is not None and first is not None and before.graph is node.graph:
        source = before.inputs[0]
        perm = tuple(first[axis] for axis in perm)
        node.replace_input_with(0, source)
        node.attributes["perm"] = ir.AttrInt64s("perm", perm)
    return source if list(perm) == sorted(perm) else None


def _reshape(node: ir.Node, facts: Facts, version: int) -> ir.Value | None:
    """Skip views before it, whose shape it does not keep; then compare the shapes."""
    target = parameter(node, 1, "shape")
    source = node.inputs[0]
    if target is None or target.ndim != 1 or source is None:
        return None
    allow_zero = bool(node.attributes.get_int("allowzero", 0))
    if allow_zero or not np.any(target == 0):
        while (before := source.producer()) is not None:
            if not is_standard(before, "Reshape", "Flatten", "Squeeze", "Unsqueeze"):
                break
            if before.inputs[0] is None or before.graph is not node.graph:
                break
            source = before.inputs[0]
        node.replace_input_with(0, source)
    shape = facts.shapes.get(source)
    if shape is None or len(shape) != target.size or np.count_nonzero(target == -1) > 1:
        return None
    for size, wanted in zip(shape, target.tolist(), strict=True):
        copied = wanted == 0 and not allow_zero
        if not (copied or wanted == -1 or (size == wanted and wanted > 0)):
            return None
    return source


def _expand(node: ir.Node, facts: Facts, version: int) -> ir.Value | None:
    target, shape = parameter(node, 1, "shape"), facts.shapes.get(node.inputs[0])  # type: ignore[arg-type]
    if target is None or shape is None or target.size > len(shape):
        return None
    aligned = shape[len(shape) - target.size :]
    same = all(to in (1, size) for size, to in zip(aligned, target.tolist(), strict=True))
    return node.inputs[0] if same else None


def _pad(node: ir.Node, facts: Facts, version: int) -> ir.Value | None:
    pads = parameter(node, 1, "pads")
    return node.inputs[0] if pads is not None and not np.any(pads) else None


def _slice(node: ir.Node, facts: Facts, version: int) -> ir.Value | None:
    """Whether it takes everything from the start, in steps of one."""
    source = node.inputs[0]
    starts, ends = parameter(node, 1, "starts"), parameter(node, 2, "ends")
    if source is None or starts is None or ends is None or np.any(starts):
        return None
    if has_parameter(node, 4, "steps"):
        steps = parameter(node, 4, "steps")
        if steps is None or np.any(steps != 1):
            return None
    if np.all(ends >= _TO_THE_END):
        return source
    shape = facts.static_shape(source)
    axes = parameter(node, 3, "axes") if has_parameter(node, 3, "axes") else np.arange(ends.size)
    if shape is None or axes is None:
        return None
    pairs = zip(ends.tolist(), axes.tolist(), strict=True)
    return source if all(end >= shape[axis] for end, axis in pairs) else None


def _only_input(node: ir.Node, facts: Facts, version: int) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _neutral(node: ir.Node, facts: Facts, version: int) -> ir.Value | None:
    """``x * 1``, ``x / 1``, ``x - 0``, ``x + -0.0``, and ``x + 0`` of integers."""
    both = list(node.inputs)
    if len(both) != 2 or None in both:
        return None
    for index in (1, 0) if node.op_type in ("Add", "Mul") else (1,):
        source, constant = both[1 - index], small_constant(both[index])
        if source is None or constant is None or constant.size != 1:
            continue
        shape = facts.shapes.get(source)
        keeps_rank = constant.ndim == 0 or (shape is not None and constant.ndim <= len(shape))
        if keeps_rank and _is_neutral(node.op_type, constant.reshape(())):
            return source
    return None


def _is_neutral(op_type: str, scalar: NDArray[Any]) -> bool:
    if op_type in ("Mul", "Div"):
        return bool(scalar == 1)
    if scalar != 0:
        return False
    if np.issubdtype(scalar.dtype, np.integer):
        return True
    return bool(np.signbit(scalar)) == (op_type == "Add")


_RULES: dict[str, Rule] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Expand": _expand,
    "Pad": _pad,
    "Slice": _slice,
    "Concat": _only_input,
    "Sum": _only_input,
    "Max": _only_input,
    "Min": _only_input,
    "Mean": _only_input,
    "Add": _neutral,
    "Sub": _neutral,
    "Mul": _neutral,
    "Div": _neutral,
}
