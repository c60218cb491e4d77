"""What an executor is: it walks a graph from stop to stop and shows what flows there.

A *point* is a value as one graph sees it. A *stop* is a set of points that a visitor wants to see
together. At each stop the executor shows the points for every sample; then the visitor may rewrite
weights, and everything that runs later uses the new ones. No node runs before a stop needs it, so
an executor that walks a whole graph costs one forward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import onnx_ir as ir

from sparsec.ir.run import Feeds

Progress: TypeAlias = Callable[[str, float], None]
"""Given a sentence and the fraction done, 0..1."""


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """A value as one graph sees it.

    Parameters
    ----------
    value : onnx_ir.Value
    graph : onnx_ir.Graph
        The main graph, or the body of an If or Loop. A value that a body captures from outside is
        seen as often as the body runs, which may be never.
    """

    value: ir.Value
    graph: ir.Graph


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Stop:
    """Points that are shown together; two stops may have the same points."""

    points: tuple[Point, ...]


class Visitor(Protocol):
    """Who looks at the values, and may rewrite weights."""

    def wants(self, stop: Stop) -> Sequence[Point]:
        """Return the points of ``stop`` that must be shown; with none, nothing is run for it."""
        ...

    def observe(self, sample: int, shown: Mapping[Point, Sequence[Any]]) -> None:
        """Look at the points for one sample.

        Each has all the arrays that it took, in order: one in the main graph; none in a branch that
        was not taken; one an iteration in the body of a Loop. The arrays must not be changed.
        """
        ...

    def leave(self, stop: Stop) -> None:
        """Every sample was shown: initializers that only later nodes read may now be replaced."""
        ...


class Executor(Protocol):
    """Something that can walk a graph."""

    def walk(
        self,
        model: ir.Model,
        stops: Sequence[Stop],
        feeds: Sequence[Feeds],
        visitor: Visitor,
        *,
        key: str = "",
        progress: Progress = lambda text, done: None,
    ) -> None:
        """Show every stop to ``visitor``, in order, for every sample.

        Parameters
        ----------
        model : onnx_ir.Model
            Its structure must not change on the way; its initializers may, in ``visitor.leave``.
        stops : sequence of Stop
            In an order in which they can be reached: see :mod:`sparsec.ir.execute.schedule`.
        feeds : sequence of mappings
            One complete set of inputs a sample.
        visitor : Visitor
        key : str
            Names everything that decides what the walk does: model, feeds, and what the visitor
            rewrites. An executor that can resume goes on with a walk of the same key.
        progress : callable
        """
        ...
