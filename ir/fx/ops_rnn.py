"""Recurrent layers: LSTM, GRU and plain RNN, all directions, with states and lengths.

The usual forms go to torch's own layers. One loop over time steps, as the ONNX specification writes
it, serves all others: activations, peepholes, clipping, sequence lengths. The gates' names are
those of the specification.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sparsec.ir.fx.registry import op

Activation = Callable[[Tensor], Tensor]
#: Given the input part of the gates at one step and the state, return the new state.
Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]

_ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "affine": lambda x, a, b: a * x + b,
    "elu": lambda x, a, b: F.elu(x, a),
    "hardsigmoid": lambda x, a, b: torch.clamp(a * x + b, 0.0, 1.0),
    "leakyrelu": lambda x, a, b: F.leaky_relu(x, a),
    "relu": lambda x, a, b: torch.relu(x),
    "scaledtanh": lambda x, a, b: a * torch.tanh(b * x),
    "sigmoid": lambda x, a, b: torch.sigmoid(x),
    "softplus": lambda x, a, b: F.softplus(x, threshold=40.0),
    "softsign": lambda x, a, b: F.softsign(x),
    "tanh": lambda x, a, b: torch.tanh(x),
    "thresholdedrelu": lambda x, a, b: torch.where(x > a, x, torch.zeros_like(x)),
}
_ALPHA = {"leakyrelu": 0.01, "thresholdedrelu": 1.0, "hardsigmoid": 0.2, "elu": 1.0}
_BETA = {"hardsigmoid": 0.5}


def _activations(
    names: Sequence[str], defaults: Sequence[str], alphas: Sequence[float], betas: Sequence[float]
) -> list[Activation]:
    """Return the functions of all directions; coefficients go in order to those that take them."""
    more_alphas, more_betas = list(alphas), list(betas)
    functions: list[Activation] = []
    for name in [n.lower() for n in names or defaults]:
        takes_alpha = name in _ALPHA or name in ("affine", "scaledtanh")
        takes_beta = name in _BETA or name in ("affine", "scaledtanh")
        a = more_alphas.pop(0) if takes_alpha and more_alphas else _ALPHA.get(name, 1.0)
        b = more_betas.pop(0) if takes_beta and more_betas else _BETA.get(name, 0.0)
        functions.append(functools.partial(_activate, _ACTIVATIONS[name], a, b))
    return functions


def _activate(function: Callable[..., Tensor], a: float, b: float, x: Tensor) -> Tensor:
    return function(x, a, b)


def _run(
    gates: Tensor, state: tuple[Tensor, ...], cell: Cell, lengths: Tensor | None, backward: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Step a cell through gates [length, batch, ...]; return all hidden states and the last one.

    Past a sequence's length the state stands still and the outputs are zero. Backward, a sequence
    starts at its own end.
    """
    steps = range(gates.shape[0])
    outputs: list[Tensor] = [gates] * len(steps)
    for t in reversed(steps) if backward else steps:
        new = cell(gates[t], state)
        if lengths is None:
            state, outputs[t] = new, new[0]
        else:
            live = (t < lengths)[:, None]
            state = tuple(torch.where(live, n, s) for n, s in zip(new, state, strict=True))
            outputs[t] = torch.where(live, new[0], torch.zeros_like(new[0]))
    return torch.stack(outputs), state


#: Where torch finds its gates among ONNX's: i f g o in iofc, r z n in zrh.
_TORCH_GATES = {"lstm": (0, 2, 3, 1), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}


def _torch_layer(
    kind: str,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    states: tuple[Tensor | None, ...],
    direction: str,
) -> tuple[Tensor, ...]:
    """Run a layer of the usual form by torch's kernel, with the gates brought to its order."""
    order, directions, hidden = _TORCH_GATES[kind], r.shape[0], r.shape[2]

    def arranged(v: Tensor) -> Tensor:
        return torch.cat([v[g * hidden : (g + 1) * hidden] for g in order]) if order[1:] else v

    weights = []
    for d in range(directions):
        weights += [arranged(w[d]), arranged(r[d])]
        weights += [] if b is None else [arranged(part) for part in b[d].chunk(2)]
    start = [x.new_zeros((directions, x.shape[1], hidden)) if s is None else s for s in states]
    run = getattr(torch, kind)
    reverse = direction == "reverse"
    y, *finals = run(
        x.flip(0) if reverse else x,
        start if kind == "lstm" else start[0],
        weights,
        b is not None,
        1,
        0.0,
        False,
        directions == 2,
        False,
    )
    y = y.flip(0) if reverse else y
    y = y.reshape(x.shape[0], x.shape[1], directions, hidden).transpose(1, 2)
    return y, *finals


def _layer(
    make_cell: Callable[[Tensor, Tensor | None, list[Activation]], Cell],
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    states: tuple[Tensor | None, ...],
    peepholes: Tensor | None,
    activations: list[Activation],
    direction: str,
    layout: int,
    *,
    split_bias: bool = False,
) -> tuple[Tensor, ...]:
    """Run all directions of a layer: x [length, batch, in], w [directions, gates, in].

    A cell is made from the recurrent weights, from its peepholes or, with ``split_bias``, from the
    recurrent bias that it adds itself, and from its activations.
    """
    if layout:
        x = x.transpose(0, 1)
        states = tuple(None if s is None else s.transpose(0, 1) for s in states)
    directions, hidden = r.shape[0], r.shape[2]
    per_direction = len(activations) // directions
    outputs, lasts = [], []
    for d in range(directions):
        functions = activations[d * per_direction : (d + 1) * per_direction]
        bias, recurrent_bias = (None, None) if b is None else b[d].chunk(2)
        if bias is not None and not split_bias:
            bias, recurrent_bias = bias + recurrent_bias, None
        gates = F.linear(x, w[d], bias)
        state = tuple(x.new_zeros((x.shape[1], hidden)) if s is None else s[d] for s in states)
        extra = recurrent_bias if peepholes is None else peepholes[d]
        cell = make_cell(r[d], extra, functions)
        y, last = _run(gates, state, cell, lengths, direction == "reverse" or d == 1)
        outputs.append(y)
        lasts.append(last)
    y = torch.stack(outputs, 1)  # [length, directions, batch, hidden]
    finals = tuple(torch.stack(parts) for parts in zip(*lasts, strict=True))
    if layout:
        return y.permute(2, 0, 1, 3), *(f.transpose(0, 1) for f in finals)
    return y, *finals


def _limit(x: Tensor, clip: float | None) -> Tensor:
    return x if clip is None else torch.clamp(x, -clip, clip)


@op("LSTM", since=7, many=True)
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Long short-term memory; gates in the order input, output, forget, cell."""
    special = sequence_lens is not None or peepholes is not None or activations or input_forget
    if not special and clip is None and not layout:
        return _torch_layer("lstm", x, w, r, b, (initial_h, initial_c), direction)

    def make_cell(r: Tensor, peephole: Tensor | None, functions: list[Activation]) -> Cell:
        f, g, h = functions
        pi, po, pf = (0.0,) * 3 if peephole is None else peephole.chunk(3)

        def cell(gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden, memory = state
            i, o, forget, c = (gates + hidden @ r.T).chunk(4, -1)
            if peephole is not None:
                i, forget = i + pi * memory, forget + pf * memory
            i, forget = f(_limit(i, clip)), f(_limit(forget, clip))
            forget = 1 - i if input_forget else forget
            memory = forget * memory + i * g(_limit(c, clip))
            o = o if peephole is None else o + po * memory
            return f(_limit(o, clip)) * h(memory), memory

        return cell

    functions = _activations(
        activations, ("Sigmoid", "Tanh", "Tanh") * r.shape[0], activation_alpha, activation_beta
    )
    return _layer(
        make_cell, x, w, r, b, sequence_lens, (initial_h, initial_c), peepholes, functions,
        direction, layout,
    )  # fmt: skip


@op("GRU", since=7, many=True)
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Gated recurrent unit; gates in the order update, reset, hidden."""
    special = sequence_lens is not None or activations or not linear_before_reset
    if not special and clip is None and not layout:
        return _torch_layer("gru", x, w, r, b, (initial_h,), direction)

    def make_cell(r: Tensor, bias: Tensor | None, functions: list[Activation]) -> Cell:
        f, g = functions
        size = r.shape[1]
        rzr, rh = r[: 2 * size], r[2 * size :]
        bzr, bh = (None, None) if bias is None else (bias[: 2 * size], bias[2 * size :])

        def cell(gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (hidden,) = state
            zr = gates[..., : 2 * size] + F.linear(hidden, rzr, bzr)
            z, reset = f(_limit(zr, clip)).chunk(2, -1)
            if linear_before_reset:
                recurrent = reset * F.linear(hidden, rh, bh)
            else:
                recurrent = F.linear(reset * hidden, rh, bh)
            candidate = g(_limit(gates[..., 2 * size :] + recurrent, clip))
            return ((1 - z) * candidate + z * hidden,)

        return cell

    functions = _activations(
        activations, ("Sigmoid", "Tanh") * r.shape[0], activation_alpha, activation_beta
    )
    return _layer(
        make_cell,
        x,
        w,
        r,
        b,
        sequence_lens,
        (initial_h,),
        None,
        functions,
        direction,
        layout,
        split_bias=True,
    )


@op("RNN", since=7, many=True)
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Plain recurrent layer."""
    kinds = {n.lower() for n in activations} or {"tanh"}
    if kinds in ({"tanh"}, {"relu"}) and sequence_lens is None and clip is None and not layout:
        return _torch_layer(f"rnn_{kinds.pop()}", x, w, r, b, (initial_h,), direction)

    def make_cell(r: Tensor, _: Any, functions: list[Activation]) -> Cell:
        (f,) = functions
        return lambda gates, state: (f(_limit(gates + state[0] @ r.T, clip)),)

    functions = _activations(activations, ("Tanh",) * r.shape[0], activation_alpha, activation_beta)
    return _layer(
        make_cell, x, w, r, b, sequence_lens, (initial_h,), None, functions, direction, layout
    )
