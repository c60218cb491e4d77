"""What is checked of an ONNX file before it becomes a graph.

The deserialiser takes sizes, offsets and names of a file on faith, repairs what does not fit
together, and reads tensor content only when it is used: a damaged file would show itself in the
middle of a compilation, or not at all. Everything here is looked at without reading any content.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from sparsec.ir.linked import is_within

_MOST_BYTES = 1 << 48  # beyond any machine: the product of damaged dimensions


def check_proto(proto: onnx.ModelProto, folder: Path | None) -> list[str]:
    """Return a sentence for everything that makes ``proto`` unusable; none if it is sound.

    Parameters
    ----------
    proto : onnx.ModelProto
    folder : Path, optional
        Where external data lies; without one (a model in memory) there may be none.
    """
    if not proto.HasField("graph"):
        return ["it holds no graph"]
    violations: list[str] = []
    for graph, where in _graphs(proto.graph, ""):
        violations += _names(graph, where)
    sizes: dict[Path, int] = {}
    for tensor in tensors_of(proto):
        violations += _tensor(tensor, folder, sizes)
    return violations


def _graphs(graph: onnx.GraphProto, where: str) -> Iterator[tuple[onnx.GraphProto, str]]:
    """Yield every graph with the end of a sentence that says which."""
    yield graph, where
    for node in graph.node:
        for body in _bodies(node):
            yield from _graphs(body, f" in the body {body.name!r} of {_call(node)}")


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _call(node: onnx.NodeProto) -> str:
    name = node.name or next(iter(node.output), "")
    return f"{node.op_type} {name!r}"


def _names(graph: onnx.GraphProto, where: str) -> Iterator[str]:
    """Every value has a name, and no two of one graph the same."""
    inputs = {value.name for value in graph.input}
    given: dict[str, str] = {}
    for value in graph.input:
        if value.name in given:
            yield f"two inputs are called {value.name!r}{where}"
        given[value.name] = "an input"
    stored: set[str] = set()
    for tensor in graph.initializer:
        if not tensor.name:
            yield f"an initializer has no name{where}"
        elif tensor.name in stored:
            yield f"two initializers are called {tensor.name!r}{where}"
        stored.add(tensor.name)
    for sparse in graph.sparse_initializer:
        yield (
            f"{sparse.values.name!r} is a sparse initializer{where}, which is not supported; "
            "store it dense"
        )
    produced: set[str] = set()
    for node in graph.node:
        for name in filter(None, node.output):
            if name in inputs or name in stored or name in produced:
                yield f"{_call(node)} produces {name!r}, which exists already{where}"
            produced.add(name)
    for value in graph.output:
        if not value.name:
            yield f"a graph output has no name{where}"
        elif not where and value.name not in inputs | stored | produced:
            yield f"the graph output {value.name!r} is produced by nothing"


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model, wherever it is stored."""
    for graph, _ in _graphs(proto.graph, ""):
        yield from graph.initializer
        for node in graph.node:
            yield from _attribute_tensors(node)
    for function in proto.functions:
        for node in function.node:
            yield from _attribute_tensors(node)


def _attribute_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _tensor(tensor: onnx.TensorProto, folder: Path | None, sizes: dict[Path, int]) -> Iterator[str]:
    """Yield what is wrong with a tensor: its content must be as large as dtype and shape say."""
    name = f"the tensor {tensor.name!r}"
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        yield f"{name} has the unknown dtype {tensor.data_type}"
        return
    dims = list(tensor.dims)
    if any(dim < 0 for dim in dims):
        yield f"{name} has the shape {dims}"
        return
    count = math.prod(dims)
    if dtype == ir.DataType.STRING:
        if len(tensor.string_data) != count:
            yield f"{name} of shape {dims} holds {len(tensor.string_data)} strings"
        return
    if dtype == ir.DataType.UNDEFINED:
        yield f"{name} has no dtype"
        return
    needed = math.ceil(count * dtype.bitwidth / 8)
    if needed > _MOST_BYTES:
        yield f"{name} has the shape {dims}, which would take {needed} bytes"
    elif tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield from _external(tensor, name, needed, folder, sizes)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != needed:
            yield f"{name} of shape {dims} needs {needed} bytes, got {len(tensor.raw_data)}"
    else:
        held = _typed_count(tensor)
        wanted = count * 2 if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128) else count
        if dtype.bitwidth >= 8 and held != wanted:
            yield f"{name} of shape {dims} needs {wanted} numbers, got {held}"


def _typed_count(tensor: onnx.TensorProto) -> int:
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    return sum(len(getattr(tensor, field)) for field in fields)


def _external(
    tensor: onnx.TensorProto, name: str, needed: int, folder: Path | None, sizes: dict[Path, int]
) -> Iterator[str]:
    """External data must lie inside a file in the model's folder, reached by no link out of it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        yield f"{name} is stored in the file {location!r}; load the model by its path"
        return
    if not location:
        yield f"{name} is stored in another file, but does not say in which"
        return
    path = folder / location
    if not is_within(location):
        yield f"{name} points to {location!r}, outside the model's folder"
        return
    if not os.path.isfile(path):  # False also for what no path can be
        yield f"{name} needs the data file {location!r}, which is missing; put it beside the model"
        return
    if path not in sizes:
        inside = path.resolve().is_relative_to(folder.resolve())
        if not inside or path.stat().st_nlink > 1:
            yield (
                f"{name} points to {location!r}, a link to data outside the model's folder; "
                "put a copy there: cp -L folder/* follows links"
            )
            return
        sizes[path] = path.stat().st_size
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or needed)
    except ValueError:
        yield f"{name} lies at offset {entries.get('offset')!r}, length {entries.get('length')!r}"
        return
    if offset < 0 or length < needed or offset + length > sizes[path]:
        yield (
            f"{name} needs {needed} bytes, got {length} at {offset} of {location!r}, which has "
            f"{sizes[path]}; "
            "the file is truncated or not the model's"
        )
