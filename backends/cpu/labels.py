"""Which weight sites a Region node holds. A plan knows no names, so its node carries them.

``metadata_props["sparsec.sites"]`` of the node is a JSON list with ``[operator, name, pattern]`` for
each operator of the plan that stands for a site; the pattern of a dense one is null.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from sparsec.backends.cpu.items import Item
from sparsec.backends.cpu.plan import NONE, Plan
from sparsec.ir.errors import ArtifactError, PatternError
from sparsec.ir.patterns import Pattern, parse_pattern

KEY = "sparsec.sites"


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """The name of a site, and the pattern that its weight claims to follow; None if it is dense."""

    name: str
    pattern: Pattern | None


def write_labels(node: ir.Node, items: Sequence[Item]) -> None:
    """Note on a Region node the sites of its items, which are its plan's operators in order."""
    entries = [
        [index, item.site.name, None if item.site.pattern is None else str(item.site.pattern)]
        for index, item in enumerate(items)
        if item.site is not None
    ]
    node.metadata_props[KEY] = json.dumps(entries)


def read_labels(node: ir.Node, plan: Plan) -> Mapping[int, Label]:
    """Return the label of each operator of ``plan`` that has one.

    Raises
    ------
    ArtifactError
        If the note is not of the form above, or names an operator without a weight.
    """
    try:
        entries = json.loads(node.metadata_props.get(KEY, "[]"))
        labels = {index: _label(name, pattern) for index, name, pattern in entries}
        sound = len(labels) == len(entries) and all(_has_weight(plan, index) for index in labels)
    except (ValueError, TypeError, RecursionError, PatternError) as error:
        raise ArtifactError(f"its metadata {KEY} is damaged: {error}") from error
    if not sound:
        raise ArtifactError(f"its metadata {KEY} names operators that hold no weight")
    return labels


def _label(name: object, pattern: object) -> Label:
    if not (isinstance(name, str) and name and isinstance(pattern, str | None)):
        raise ValueError(f"needed a name and a pattern, got {name!r} and {pattern!r}")
    return Label(name, None if pattern is None else parse_pattern(pattern))


def _has_weight(plan: Plan, index: object) -> bool:
    return type(index) is int and 0 <= index < len(plan.ops) and plan.ops[index].weight != NONE
