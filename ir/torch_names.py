"""Stable names for what the torch exporter numbers: outputs, dimensions, nodes, parameters."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from sparsec.ir.cleanup.views import PARAM

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_SCOPES = "pkg.torch.onnx.name_scopes"
# What is worth keeping of the exporter's notes: the path through the modules and their classes.
_NAMESPACE = "namespace"


def output_names(program: ExportedProgram) -> list[str]:
    """Return a name for each tensor that ``forward`` returns, in order.

    Tensors in a mapping or a dataclass are called after their keys, others ``output``,
    ``output_1``, ...
    """
    from torch.export.graph_signature import ConstantArgument, OutputKind
    from torch.utils import _pytree as pytree

    specs = [
        spec for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT
    ]
    tree = pytree.tree_unflatten(range(len(specs)), program.call_spec.out_spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    names = []
    for spec, path in zip(specs, paths, strict=True):
        if isinstance(spec.arg, ConstantArgument):
            continue  # a number or None that forward returns: the graph has no such output
        keys = [getattr(key, "key", getattr(key, "name", None)) for key in path]
        if keys and isinstance(keys[0], str):
            indices = [str(getattr(key, "idx", name)) for key, name in zip(path, keys, strict=True)]
            names.append("_".join(indices))
        else:
            names.append(f"output_{len(names)}" if names else "output")
    return names


def name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Give the outputs of ``graph`` their names.

    An output that is also an input, a parameter or another output gets an Identity of its own: each
    of them has one name.
    """
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    outputs = list(graph.outputs)
    inner = {out.name: out for node in graph for out in node.outputs}
    for index, (value, wanted) in enumerate(zip(outputs, names, strict=True)):
        name = _unique(wanted, taken)
        taken.add(name)
        if value.producer() is None or value in outputs[:index]:
            node = ir.node("Identity", [value])
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            value = node.outputs[0]
            graph.outputs[index] = value
        if (other := inner.get(name)) is not None and other is not value:
            other.name = _unique(f"{name}_inner", {*taken, *inner})
        value.name = name


def name_dimensions(model: ir.Model) -> None:
    """Call every symbolic dimension after the first input and axis that has it, everywhere."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            symbol = dim.value if isinstance(dim, ir.SymbolicDim) else None
            if symbol is not None and symbol.isidentifier():
                names.setdefault(symbol, f"{value.name}_{axis}")
    for value in _values(model):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])


def _renamed(dim: int | ir.SymbolicDim, names: dict[str, str]) -> int | str | None:
    """Return a dimension with its symbols renamed, also inside an expression like ``2*s7 + 1``."""
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    return re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), str(dim.value))


def name_nodes(model: ir.Model) -> None:
    """Call every node after its module and operator, and drop notes that hold source paths."""
    used: Counter[str] = Counter()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        module = next((scope for scope in reversed(scopes[:-1]) if scope), "")
        name = f"{module}/{node.op_type}" if module else node.op_type
        node.name = f"{name}_{used[name]}" if used[name] else name
        used[name] += 1
        kept = node.metadata_props.get(_NAMESPACE)
        node.metadata_props.clear()
        if kept is not None:
            node.metadata_props[_NAMESPACE] = kept
    for value in _values(model):
        for key in [key for key in value.metadata_props if key.startswith("pkg.torch")]:
            del value.metadata_props[key]
    model.graph.metadata_props.clear()  # the printed signature of the program


def tie_parameters(graph: ir.Graph, program: ExportedProgram) -> None:
    """Make one initializer of every parameter, however many names it has, and record its name."""
    canonical: dict[Hashable, str] = {}
    first_name: dict[str, str] = {}
    for name, tensor in program.state_dict.items():
        first_name[name] = canonical.setdefault(_storage(tensor), name)
    buffers = set(program.graph_signature.buffers)
    kept: dict[str, ir.Value] = {}
    for name in list(graph.initializers):
        value = graph.initializers[name]
        first = first_name.get(name)
        if first is None:
            continue  # a constant of forward, no parameter
        if first in kept:
            value.replace_all_uses_with(kept[first], replace_graph_outputs=True)
            del graph.initializers[name]
            continue
        if first != name and first in graph.initializers:
            del graph.initializers[first]
        kept[first] = value
        value.name = first
        value.metadata_props[PARAM] = json.dumps(
            {
                "name": first,
                "kind": _kind(program.state_dict[first], first in buffers),
                "shape": list(program.state_dict[first].shape),
                "transform": [],
            }
        )


def _kind(tensor: Any, is_buffer: bool) -> str:
    return "buffer" if is_buffer else "parameter" if tensor.requires_grad else "frozen"


def _storage(tensor: Any) -> Hashable:
    """Return what two tensors share exactly if they are the same memory seen in the same way."""
    if not tensor.numel():
        return id(tensor)
    start = tensor.data_ptr()
    return tensor.device, start, tensor.dtype, tuple(tensor.shape), tuple(tensor.stride())


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _unique(name: str, taken: set[str | None]) -> str:
    while name in taken:
        name += "_"
    return name
