"""If, Loop and Scan as modules that run their bodies in Python.

A body is a graph module of its own. It sees the values of the graphs around it as extra operands
at the end (*captures*), so nothing is shared behind its back and gradients flow through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsec.ir.fx import host as hv


class If(torch.nn.Module):  # type: ignore[misc]
    """Run one of two bodies.

    Parameters
    ----------
    then_branch, else_branch : torch.fx.GraphModule
        Take their captures, return a tuple.
    then_captures : int
        How many of the operands belong to ``then_branch``.
    """

    def __init__(
        self,
        then_branch: torch.fx.GraphModule,
        else_branch: torch.fx.GraphModule,
        then_captures: int,
    ) -> None:
        super().__init__()
        self.then_branch = then_branch
        self.else_branch = else_branch
        self.then_captures = then_captures

    def forward(self, condition: hv.Value, *captures: hv.Value) -> tuple[Any, ...]:
        """Return the outputs of the branch that the condition chooses."""
        if bool(hv.scalar(hv.to_host(condition))):
            outputs = self.then_branch(*captures[: self.then_captures])
        else:
            outputs = self.else_branch(*captures[self.then_captures :])
        return tuple(outputs)


@dataclasses.dataclass(frozen=True, slots=True)
class Stacked:
    """One output that collects a value of every iteration along a new axis.

    ``dtype`` and ``shape`` say what an iteration gives, for loops that never run; an unknown axis
    counts as 0.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    axis: int = 0
    backward: bool = False

    def stack(self, items: Sequence[Tensor]) -> Tensor:
        """Join the values of all iterations."""
        if not items:
            return torch.empty((0, *self.shape), dtype=self.dtype).movedim(0, self.axis)
        ordered = list(reversed(items)) if self.backward else list(items)
        return torch.stack([hv.to_tensor(i) for i in ordered], self.axis)


class Loop(torch.nn.Module):  # type: ignore[misc]
    """Repeat a body while its condition holds and the trip count is not reached.

    Parameters
    ----------
    body : torch.fx.GraphModule
        Takes (iteration, condition, state..., captures...), returns (condition, state..., stacked
        outputs...).
    states : int
        Count of the values carried from one iteration to the next.
    stacked : sequence of Stacked
    """

    def __init__(self, body: torch.fx.GraphModule, states: int, stacked: Sequence[Stacked]) -> None:
        super().__init__()
        self.body = body
        self.states = states
        self.stacked = tuple(stacked)

    def forward(self, trips: hv.Value, condition: hv.Value, *operands: hv.Value) -> tuple[Any, ...]:
        """Return the last state and the stacked outputs."""
        limit = None if trips is None else hv.scalar(hv.to_host(trips))
        running = True if condition is None else bool(hv.scalar(hv.to_host(condition)))
        state, captures = operands[: self.states], operands[self.states :]
        collected: list[list[Tensor]] = [[] for _ in self.stacked]
        iteration = 0
        while running and (limit is None or iteration < limit):
            again, *outputs = self.body(iteration, True, *state, *captures)
            running = bool(hv.scalar(hv.to_host(again)))
            state = tuple(outputs[: self.states])
            for items, item in zip(collected, outputs[self.states :], strict=True):
                items.append(item)
            iteration += 1
        tails = (s.stack(items) for s, items in zip(self.stacked, collected, strict=True))
        return *state, *tails


class Scan(torch.nn.Module):  # type: ignore[misc]
    """Run a body over the slices of its scanned operands.

    Parameters
    ----------
    body : torch.fx.GraphModule
        Takes (state..., slices..., captures...), returns (state..., stacked outputs...).
    states, scanned : int
        Counts of carried values and of scanned operands.
    axes : sequence of int
        Axis along which each operand is scanned.
    backward : sequence of bool
        Whether each operand is scanned from its end.
    stacked : sequence of Stacked
    """

    def __init__(
        self,
        body: torch.fx.GraphModule,
        states: int,
        axes: Sequence[int],
        backward: Sequence[bool],
        stacked: Sequence[Stacked],
    ) -> None:
        super().__init__()
        self.body = body
        self.states = states
        self.axes = tuple(axes)
        self.backward_inputs = tuple(backward)
        self.stacked = tuple(stacked)

    def forward(self, *operands: hv.Value) -> tuple[Any, ...]:
        """Return the last state and the stacked outputs."""
        state = operands[: self.states]
        scanned = [hv.to_tensor(x) for x in operands[self.states : self.states + len(self.axes)]]
        captures = operands[self.states + len(self.axes) :]
        collected: list[list[Tensor]] = [[] for _ in self.stacked]
        length = scanned[0].shape[self.axes[0]]
        for step in range(length):
            slices = [
                x.select(axis, length - 1 - step if backward else step)
                for x, axis, backward in zip(scanned, self.axes, self.backward_inputs, strict=True)
            ]
            outputs = self.body(*state, *slices, *captures)
            state = tuple(outputs[: self.states])
            for items, item in zip(collected, outputs[self.states :], strict=True):
                items.append(item)
        tails = (s.stack(items) for s, items in zip(self.stacked, collected, strict=True))
        return *state, *tails
