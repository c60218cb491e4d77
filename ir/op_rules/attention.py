"""The fused Attention operator: heads, grouped heads, and the coordinates within a head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from sparsec.ir.op_rules.factor import split
from sparsec.ir.op_rules.linear import contract
from sparsec.ir.op_rules.rule import Axes, Axis, OpRule, merge
from sparsec.ir.op_rules.shrink import ShrinkView
from sparsec.ir.op_rules.view import NodeView

Heads = tuple["Axis | None", "Axis | None"]  # heads, coordinates


def attention(view: NodeView) -> Sequence[Axes]:
    """Couple Attention: q, k, v [B, heads, L, D], or [B, L, heads * D] with the heads as attributes.

    A key-value head goes with all query heads that read it; a query head goes with its counterparts
    of every other key-value head, for all must be read by equally many.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("Attention", opset=23, q=[1, 1, 32], k=[1, 1, 16], v=[1, 1, 12],
    ...                 q_num_heads=4, kv_num_heads=2))
    2 units: q.2/16 k.2/8 v.2/6 y.2/12
    2 units: q.2/16 y.2/12
    8 units: q.2/4 k.2/2
    6 units: v.2/2 y.2/4
    """
    axes = [list(view.known(index)) for index in range(3)]
    if any(view.has(index) for index in range(3, 6)):
        for index in range(3, 6):
            view.freeze_input(index, "is a mask or a past that attention reads")
        if view.has(4):
            for side in axes:
                view.freeze_all(side, "joins them with a past that is fixed")
    packed = len(axes[0]) == 3
    counts = _counts(view, packed)
    if counts is None:
        for side in axes:
            view.freeze_all(side, "has a number of heads that is not known")
        return [tuple(None for _ in axes[0]), *(None for _ in view.node.outputs[1:])]
    q_heads, kv_heads = counts
    sides = [
        _heads(view, side, heads, packed, index)
        for index, (side, heads) in enumerate(zip(axes, (q_heads, kv_heads, kv_heads), strict=True))
    ]
    (q, q_inner), (k, k_inner), (v, v_inner) = sides
    view.mark(q, "head")
    group, member = _grouped(view, q, kv_heads, q_heads // kv_heads)
    shared = view.tie([group, k, v], "attends with heads that are fixed") if kv_heads > 1 else None
    view.mark(shared, "head")
    view.mark(member, "head")
    contract(view, q_inner, k_inner)
    for inner in (q_inner, k_inner, v_inner):
        view.mark(inner, "head_dim")
    out_heads = q and q.vanishing(v is not None and v.vanishes)
    if packed:
        sizes = [q_heads, _inner_size(view, 2, kv_heads)]
        out: Axes = (axes[0][0], axes[0][1], merge(view.atoms, [out_heads, v_inner], sizes))
    else:
        out = (axes[0][0], out_heads, axes[0][2], v_inner)
    present = [(None, shared, None, inner) for inner in (k_inner, v_inner)]
    scores = (None, q and q.vanishing(False), None, None)
    return [out, *present, scores][: len(view.node.outputs)]


def _counts(view: NodeView, packed: bool) -> tuple[int, int] | None:
    """Return the numbers of query and of key-value heads."""
    if packed:
        found = view.integer("q_num_heads", 0), view.integer("kv_num_heads", 0)
    else:
        sizes = view.size(0, 1), view.size(1, 1)
        found = sizes[0] or 0, sizes[1] or 0
    whole = all(found) and found[0] % found[1] == 0
    return found if whole and _inner_size(view, 2, found[1], packed) else None


def _inner_size(view: NodeView, index: int, heads: int, packed: bool = True) -> int:
    """Return the coordinates of one head; 0 if unknown."""
    size = view.size(index, -1)
    return 0 if size is None else size // heads if packed else size


def _heads(view: NodeView, side: list[Axis | None], heads: int, packed: bool, index: int) -> Heads:
    """Return the heads and coordinates of one operand."""
    if not packed:
        return side[1], side[3]
    last = side[2]
    if last is None:
        return None, None
    inner = _inner_size(view, index, heads)
    if inner * heads != last.size:
        view.freeze(last, "has heads that do not divide it")
        return None, None
    outer, rest = split(view, last, (heads, inner))
    return outer, rest


def _grouped(view: NodeView, q: Axis | None, groups: int, members: int) -> Heads:
    """Return the query heads as key-value heads x those that read each."""
    if q is None:
        return None, None
    group, member = split(view, q, (groups, members))
    return group, member


def shrink_attention(view: ShrinkView) -> None:
    """Write the numbers of heads, and the scale of the dense head where it was implied."""
    packed = len(view.kept(0)) == 3
    inner = _old_inner(view, packed)
    if "scale" not in view.node.attributes and inner:
        view.node.attributes["scale"] = ir.AttrFloat32("scale", 1 / math.sqrt(inner))
    if not packed:
        return
    for name, index in (("q_num_heads", 0), ("kv_num_heads", 1)):
        heads = view.node.attributes.get_int(name, 0) or 0
        kept = view.kept(index)[2]
        if kept is not None and heads:
            left = kept.reshape(heads, -1).any(axis=1)
            view.set_integer(name, int(left.sum()))


def _old_inner(view: ShrinkView, packed: bool) -> int:
    """Return the coordinates of a query head before the removal, if any of them go; else 0."""
    kept = view.kept(0)[-1]
    if kept is None or kept.all():
        return 0
    heads = (view.node.attributes.get_int("q_num_heads", 0) or 0) if packed else 1
    return len(kept) // max(heads, 1)


RULE = OpRule(attention, shrink_attention, "heads, grouped heads, coordinates of a head")
