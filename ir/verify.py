"""The verifier: one named check per invariant of the canonical graph.

It runs after loading and after every pass. A check yields sentences; all violations are reported at
once, each with the node or value it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from sparsec.ir.errors import ModelImportError, SparsecError, VerifyError
from sparsec.ir.patterns import KEY, from_metadata

MIN_OPSET = 7
OWN_DOMAIN = "sparsec"
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


def _has_outputs(model: ir.Model) -> Iterator[str]:
    if not model.graph.outputs:
        yield "the graph has no outputs"


def _opset(model: ir.Model) -> Iterator[str]:
    version = next((model.opset_imports[d] for d in _STANDARD if d in model.opset_imports), None)
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


def _known_operators(model: ir.Model) -> Iterator[str]:
    version = next((model.opset_imports[d] for d in _STANDARD if d in model.opset_imports), None)
    if version is None or version > onnx.defs.onnx_opset_version():
        return
    for node in _nodes(model):
        if node.domain in _STANDARD and not _exists(node.op_type, version):
            yield f"{describe(node)} is no operator of the standard domain at opset {version}"


def _exists(op_type: str, version: int) -> bool:
    try:
        return not onnx.defs.get_schema(op_type, version, "").deprecated
    except onnx.defs.SchemaError:
        return op_type in _EXPERIMENTAL


# Operators that runtimes execute although no released schema lists them.
_EXPERIMENTAL = {"ATen", "Affine", "Crop", "ParametricSoftplus", "Scale", "ScaledTanh"}


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


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that ``node`` holds in its attributes."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _dangles(value: ir.Value, visible: frozenset[ir.Graph]) -> bool:
    """Whether no visible graph has ``value`` as an input, an initializer or a node's output."""
    if (producer := value.producer()) is not None:
        return producer.graph not in visible
    given = value.is_graph_input() or value.is_initializer()
    return not given or value.graph not in visible


def _order(model: ir.Model) -> Iterator[str]:
    for graph in _graphs(model):
        seen: set[ir.Node] = set()
        for node in graph:
            for value in _reads(node):
                producer = value.producer()
                if producer is not None and producer.graph is graph and producer not in seen:
                    yield f"{describe(node)} reads {value.name!r} too early, or in a cycle"
            seen.add(node)


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, and what the graphs inside it capture."""
    yield from (value for value in node.inputs if value is not None)
    for body in bodies(node):
        for inner in body:
            yield from _reads(inner)


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
    "has-outputs": _has_outputs,
    "opset": _opset,
    "domains-imported": _domains,
    "known-operators": _known_operators,
    "inputs-produced": _inputs_exist,
    "topological-order": _order,
    "unique-names": _unique_names,
    "initializers-valued": _initializer_values,
    "patterns-readable": _patterns,
}


def check_external_data(model: ir.Model, path: Path) -> None:
    """Check that every external tensor lies inside its file, before anything maps it.

    Raises
    ------
    ModelImportError
        If a data file is missing or too short, or a location leaves the model's folder.
    """
    sizes: dict[Path, int] = {}
    for graph in _graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                _check_external(tensor, path, sizes)
    for node in _nodes(model):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR:
                tensor = attribute.as_tensor()
                if isinstance(tensor, ir.ExternalTensor):
                    _check_external(tensor, path, sizes)


def _check_external(tensor: ir.ExternalTensor, path: Path, sizes: dict[Path, int]) -> None:
    location = Path(tensor.location)
    if location.is_absolute() or ".." in location.parts:
        raise ModelImportError(
            f"{path}: the tensor {tensor.name!r} points to {str(location)!r}, outside the model's "
            "folder",
            where=str(path),
        )
    file = path.parent / location
    if file not in sizes:
        if not file.is_file():
            raise ModelImportError(
                f"{path}: the external data file {location} is missing; it must lie beside the "
                "model",
                where=str(file),
            )
        sizes[file] = file.stat().st_size
    offset = tensor.offset or 0
    length = tensor.length if tensor.length is not None else tensor.nbytes
    if offset < 0 or length < tensor.nbytes or offset + length > sizes[file]:
        raise ModelImportError(
            f"{path}: the tensor {tensor.name!r} needs bytes {offset} to {offset + tensor.nbytes} "
            f"of {location}, which has {sizes[file]}; the file is truncated or not the model's",
            where=str(file),
        )
