"""Names that nothing in a model has yet. Nodes and values have namespaces of their own."""

from __future__ import annotations

from collections.abc import Container

import onnx_ir as ir


class UniqueNames:
    """Names for new nodes and values of one model; each is given once."""

    def __init__(self, model: ir.Model) -> None:
        self._nodes: set[str | None] = set()
        self._values: set[str | None] = set()
        for graph in (model.graph, *model.graph.subgraphs()):
            self._values.update(value.name for value in graph.inputs)
            self._values.update(graph.initializers)
            for node in graph:
                self._nodes.add(node.name)
                self._values.update(value.name for value in node.outputs)

    def node(self, base: str) -> str:
        """Return ``base``, or ``base`` with a number, as the name of a node."""
        return _taking(base, self._nodes)

    def value(self, base: str) -> str:
        """Return ``base``, or ``base`` with a number, as the name of a value."""
        return _taking(base, self._values)

    def free_node(self, name: str | None) -> None:
        """Say that the node called ``name`` is about to go: its name may be given again."""
        self._nodes.discard(name)


def _taking(base: str, taken: set[str | None]) -> str:
    name = unused(base, taken)
    taken.add(name)
    return name


def unused(base: str, taken: Container[str | None]) -> str:
    """Return ``base``, or ``base`` with the first number that makes it a name not in ``taken``.

    Examples
    --------
    >>> unused("plan", {"plan", "plan_1"})
    'plan_2'
    """
    name, count = base, 0
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    return name
