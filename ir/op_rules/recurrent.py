"""Recurrent cells: hidden units go with their gates, their recurrent weights and their states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsec.ir.op_rules.rule import Axes, Axis, OpRule
from sparsec.ir.op_rules.shrink import ShrinkView, count
from sparsec.ir.op_rules.view import NodeView

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(view: NodeView) -> Sequence[Axes]:
    """Couple LSTM, GRU and RNN: x [T, N, I], w [D, gates H, I], r [D, gates H, H], b [D, 2 gates H].

    Unit ``h`` of the hidden state is one row of every gate, one column of ``r``, and one place in
    the states. Both directions of a bidirectional layer have the same number of units.

    Examples
    --------
    >>> from sparsec.ir.testing import couplings
    >>> print(couplings("GRU", x=[5, 1, 4], w=[1, 9, 4], r=[1, 9, 3], hidden_size=3))
    4 units: x.2 w.2
    3 units: w.1/3 r.1/3 r.2 y.3
    """
    gates = _GATES[view.node.op_type]
    x, w, r = view.known(0), view.known(1), view.known(2)
    view.freeze_all(x[:2], "steps through it")
    for axes in (w, r):
        view.freeze(axes[0], "is one direction of it")
    if x[-1] is not None or w[-1] is not None:
        view.tie([x[-1], w[-1]], "reads an input that is fixed")
    view.reads(1, 2, x[-1])
    # A cell of default activations stays at zero once its weights are, if it starts there.
    zero = view.node.attributes.get_strings("activations", None) is None
    hidden = r[-1]
    if hidden is not None:
        _rows(view, w[1], hidden, gates)
        _rows(view, r[1], hidden, gates)
        for index, copies in ((3, 2 * gates), (7, 3)):
            if view.has(index):
                _rows(view, view.known(index)[1], hidden, copies)
        for index in (5, 6):
            if view.has(index):
                state = view.known(index)[-1]
                view.tie([hidden, state], "starts from a state that is fixed")
                zero = zero and state is not None and state.vanishes
        view.made(hidden)
    made = hidden and Axis(hidden.atoms, zero)
    view.reads(2, 2, made)
    every = (None, None, None, made)
    last = (None, None, made)
    return [every, last, last][: len(view.node.outputs)]


def _rows(view: NodeView, rows: Axis | None, hidden: Axis, copies: int) -> None:
    """Tie the rows of all gates to the hidden units."""
    if rows is None or rows.size != copies * hidden.size:
        view.freeze(hidden, "has gates of another size")
        view.freeze(rows, "has gates of another size")
        return
    view.atoms.tie(rows.atoms, np.tile(hidden.atoms, copies))


def shrink_recurrent(view: ShrinkView) -> None:
    """Write the new number of hidden units."""
    size = count(view.kept(2)[-1])
    if size is not None and "hidden_size" in view.node.attributes:
        view.set_integer("hidden_size", size)


RULE = OpRule(recurrent, shrink_recurrent, "inputs and hidden units")
