"""RotaryEmbedding: coordinates of a head turn in pairs, and a pair goes with its sine and cosine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsec.ir.op_rules.factor import split
from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.shrink import ShrinkView
from sparsec.ir.op_rules.view import NodeView


def rotary(view: NodeView) -> Sequence[Axes]:
    """Couple RotaryEmbedding: x [B, heads, L, D] or [B, L, heads * D], cos and sin [..., pairs].

    The first ``2 * pairs`` coordinates turn; what is behind them passes.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("RotaryEmbedding", opset=23, x=[1, 2, 5, 8], cos=[5, 4], sin=[5, 4]))
    2 units: x.1 y.1
    4 units: x.3/2 cos.1 sin.1 y.3/2
    """
    x = view.known(0)
    packed = len(x) == 3
    heads = view.integer("num_heads", 0)
    coordinates: Axis | None = x[-1]
    if packed and x[-1] is not None:
        if not heads or x[-1].size % heads:
            view.freeze(x[-1], "has heads that do not divide it")
            coordinates = None
        else:
            coordinates = split(view, x[-1], (heads, x[-1].size // heads))[1]
    view.freeze(x[1 if packed else 2], "turns each of its positions by other angles")
    tables = [axis for index in (1, 2) for axis in view.known(index)[-1:]]
    for index in (1, 2):
        view.freeze_all(view.known(index)[:-1], "is looked up by position")
    if view.has(3):
        view.freeze_input(3, "is looked up by position")
    if coordinates is None:
        view.freeze_all(tables, "turns coordinates that are fixed")
        return [tuple(x)]
    turned = view.integer("rotary_embedding_dim", 0) or coordinates.size
    first, second = _pairs(view, turned)
    left = Axis(coordinates.atoms[first], coordinates.vanishes)
    view.atoms.tie(left.atoms, coordinates.atoms[second])
    view.tie([left, *tables], "turns it by angles that are fixed")
    return [tuple(x)]


def _pairs(view: NodeView, turned: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two coordinates of every pair."""
    places = np.arange(turned)
    if view.integer("interleaved", 0):
        return places[::2], places[1::2]
    return places[: turned // 2], places[turned // 2 :]


def shrink_rotary(view: ShrinkView) -> None:
    """Write the numbers of heads and of coordinates that turn."""
    kept = view.kept(0)
    tables = view.kept(1)[-1]
    turned = view.node.attributes.get_int("rotary_embedding_dim", 0) or 0
    if turned and tables is not None:
        view.set_integer("rotary_embedding_dim", 2 * int(tables.sum()))
    heads = view.node.attributes.get_int("num_heads", 0) or 0
    if len(kept) == 3 and heads and (mask := kept[2]) is not None:
        view.set_integer("num_heads", int(mask.reshape(heads, -1).any(axis=1).sum()))


RULE = OpRule(rotary, shrink_rotary, "heads, and pairs of coordinates with their angles")
