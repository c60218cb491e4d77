"""Greedy decoding with a model that carries its past: names of the past, and the loop, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[dict[str, NDArray[Any]]], Arrays]


def past_names(layers: int) -> list[str]:
    """Return the inputs that hold the past, in the order of the graph."""
    return [f"past.{i}.{what}" for i in range(layers) for what in ("key", "value")]


def present_names(layers: int) -> list[str]:
    """Return the outputs that are the past of the next step, in the order of :func:`past_names`."""
    return [f"present.{i}.{what}" for i in range(layers) for what in ("key", "value")]


def greedy(
    run: Run, prompt: Sequence[int], *, layers: int, kv_heads: int, head_size: int
) -> Iterator[int]:
    """Yield the tokens that follow ``prompt``, each the most probable one, without end.

    Parameters
    ----------
    run : callable
        The model: ``input_ids`` int64 ``[1, 1]`` and the past to ``logits`` float32
        ``[1, 1, vocabulary]`` and the present.
    prompt : sequence of int
        At least one token id; fed one at a time.
    """
    past = dict.fromkeys(past_names(layers), np.zeros((1, kv_heads, 0, head_size), np.float32))
    pending = list(prompt)
    while True:
        outputs = run({"input_ids": np.array([[pending.pop(0)]], np.int64), **past})
        past = dict(zip(past, (outputs[name] for name in present_names(layers)), strict=True))
        if not pending:
            pending.append(int(outputs["logits"][0, -1].argmax()))
            yield pending[0]
