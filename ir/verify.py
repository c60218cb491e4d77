"""The verifier: one named check per invariant of the canonical graph.

It runs after loading and after every pass. A check yields sentences; all violations are reported at
once, each with the node or value it is about.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

import onnx
import onnx_ir as ir

from sparsec.ir.cycles import bodies, find_cycle, reads
from sparsec.ir.errors import SparsecError, VerifyError
from sparsec.ir.patterns import KEY, from_metadata

MIN_OPSET = 7
_STANDARD = ("", "ai.onnx")


def verify(
    model: ir.Model,
    *,
    where: str = "the graph",
    error: type[SparsecError] = VerifyError,
    sorted_graph: bool = True,
) -> None:
    """Check every invariant and raise one error that lists every violation.

    Parameters
    ----------
    model : onnx_ir.Model
    where : str
        Start of the message: the file, or the pass that has just run.
    error : type of SparsecError
        What to raise.
    sorted_graph : bool
        Whether nodes must stand behind what they read. Off while loading: order is then restored.

    Raises
    ------
    SparsecError
        Of type ``error``.
    """
    violations: list[str] = []
    for name, check in CHECKS.items():
        if name == "topological-order" and not sorted_graph:
            continue
        violations += (f"{sentence} [{name}]" for sentence in check(model))
    if violations:
        shown = violations[:20]
        more = len(violations) - len(shown)
        text = "; ".join(shown) + (f"; and {more} more" if more else "")
        raise error(f"{where}: {text}", where=where)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from ir.traversal.RecursiveGraphIterator(model.graph)


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    yield from model.graph.subgraphs()


def describe(node: ir.Node) -> str:
    """Return how messages call a node: its operator and name, or its first output if unnamed."""
    name = node.name or (node.outputs[0].name if node.outputs else "")
    return f"{node.op_type} {name!r}"


def _names_are_text(model: ir.Model) -> Iterator[str]:
    # Protobuf hands out a field that is no UTF-8 as bytes, and refuses to take it back.
    named: list[object] = []
    for graph in _graphs(model):
        named += (graph.name, graph.doc_string, *graph.initializers)
        named += (value.name for value in graph.inputs)
    for node in _nodes(model):
        named += (node.name, node.op_type, node.domain, node.doc_string, *node.attributes)
        named += (value.name for value in node.outputs)
    for name in named:
        if isinstance(name, bytes):
            yield f"the name {name!r} is not UTF-8"


def _has_outputs(model: ir.Model) -> Iterator[str]:
    if not model.graph.outputs:
        yield "the graph has no outputs"


def _version(model: ir.Model) -> int | None:
    """Return the opset of the standard domain."""
    return next((model.opset_imports[d] for d in _STANDARD if d in model.opset_imports), None)


def _opset(model: ir.Model) -> Iterator[str]:
    version = _version(model)
    newest = onnx.defs.onnx_opset_version()
    if version is None:
        if any(node.domain in _STANDARD for node in _nodes(model)):
            yield "no opset of the standard domain is declared; export the model again"
    elif not MIN_OPSET <= version <= newest:
        yield (
            f"opset {version} is not supported: needed {MIN_OPSET} to {newest}; "
            "convert the model with onnx.version_converter"
        )


def _domains(model: ir.Model) -> Iterator[str]:
    for node in _nodes(model):
        if node.domain not in model.opset_imports and node.domain not in _STANDARD:
            yield f"{describe(node)} uses the domain {node.domain!r}, which is not imported"


def _operands(model: ir.Model) -> Iterator[str]:
    # Rules of operators index what the standard says is there.
    version = _version(model)
    if version is None or not MIN_OPSET <= version <= onnx.defs.onnx_opset_version():
        return
    for node in _nodes(model):
        if node.domain in _STANDARD:
            given = [value is not None for value in node.inputs]
            for index, name in _required(node.op_type, version):
                if not any(given[index : index + 1]):
                    yield f"{describe(node)} lacks its input {name}"


@functools.cache
def _required(op_type: str, version: int) -> tuple[tuple[int, str], ...]:
    """Return position and name of the inputs that an operator must have; none if it is unknown."""
    try:
        schema = onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return ()
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return tuple((i, each.name) for i, each in enumerate(schema.inputs) if each.option == single)


def _inputs_exist(model: ir.Model) -> Iterator[str]:
    for graph, visible in _scopes(model.graph, frozenset()):
        for node in graph:
            for value in node.inputs:
                if value is not None and _dangles(value, visible):
                    yield f"{describe(node)} reads {value.name!r}, which nothing produces"
        for value in graph.outputs:
            if _dangles(value, visible):
                yield f"the graph output {value.name!r} is produced by nothing"


def _scopes(
    graph: ir.Graph, outer: frozenset[ir.Graph]
) -> Iterator[tuple[ir.Graph, frozenset[ir.Graph]]]:
    """Yield every graph with all graphs whose values it can read: itself and those around it."""
    visible = outer | {graph}
    yield graph, visible
    for node in graph:
        for body in bodies(node):
            yield from _scopes(body, visible)


def _dangles(value: ir.Value, visible: frozenset[ir.Graph]) -> bool:
    """Whether no visible graph has ``value`` as an input, an initializer or a node's output."""
    if (producer := value.producer()) is not None:
        return producer.graph not in visible
    given = value.is_graph_input() or value.is_initializer()
    return not given or value.graph not in visible


def _acyclic(model: ir.Model) -> Iterator[str]:
    for graph in _graphs(model):
        if cycle := find_cycle(graph):
            yield f"a cycle: {', '.join(describe(node) for node in cycle)} read from each other"


def _order(model: ir.Model) -> Iterator[str]:
    for graph in _graphs(model):
        seen: set[ir.Node] = set()
        for node in graph:
            for value in reads(node):
                producer = value.producer()
                if producer is not None and producer.graph is graph and producer not in seen:
                    yield f"{describe(node)} reads {value.name!r} before it is produced"
            seen.add(node)


def _unique_names(model: ir.Model) -> Iterator[str]:
    for graph in _graphs(model):
        names: dict[str, ir.Value] = {}
        for value in _values(graph):
            if not value.name:
                continue
            if names.setdefault(value.name, value) is not value:
                yield f"two values are called {value.name!r}"


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _initializer_values(model: ir.Model) -> Iterator[str]:
    for graph in _graphs(model):
        for name, value in graph.initializers.items():
            if value.const_value is None:
                yield f"the initializer {name!r} has no value"
            elif value.name != name:
                yield f"the initializer {name!r} is filed under another name than {value.name!r}"


def _patterns(model: ir.Model) -> Iterator[str]:
    for graph in _graphs(model):
        for name, value in graph.initializers.items():
            if text := value.metadata_props.get(KEY):
                try:
                    from_metadata(text)
                except SparsecError as error:
                    yield f"the initializer {name!r}: {error.message}"


CHECKS: dict[str, Callable[[ir.Model], Iterable[str]]] = {
    "names-are-text": _names_are_text,
    "has-outputs": _has_outputs,
    "opset": _opset,
    "domains-imported": _domains,
    "operands-given": _operands,
    "inputs-produced": _inputs_exist,
    "acyclic": _acyclic,
    "topological-order": _order,
    "unique-names": _unique_names,
    "initializers-valued": _initializer_values,
    "patterns-readable": _patterns,
}
