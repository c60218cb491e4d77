"""``weights.safetensors``: every large tensor once, for readers of ONNX and of safetensors alike.

The file follows https://github.com/huggingface/safetensors (8 bytes of header length, JSON, data).
``model.onnx`` refers to it as external data, by location, offset and length, so nothing is stored
twice: a loader that knows no ONNX takes the packed weights by name, and ONNX tools open the graph.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.errors import ArtifactError

FILE_NAME = "weights.safetensors"
THRESHOLD = 1024  # bytes; smaller tensors stay inside model.onnx

_LENGTH_BYTES = 8
_ALIGNMENT = 64  # of the first tensor; the order of the others keeps each on its own size
_MAX_HEADER = 100_000_000  # as the safetensors library has it

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def large_tensors(model: ir.Model) -> dict[str, NDArray[Any]]:
    """Return the initializers of the main graph that belong into the file, by name.

    Arrays of tensors that lie in a file are memory-mapped: nothing is read here.
    """
    return {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.nbytes >= THRESHOLD
        and value.const_value.dtype.bitwidth >= 8
        and value.const_value.numpy().dtype.name in _DTYPES
    }


def write_weights(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write ``tensors`` to a safetensors file; equal input gives equal bytes.

    One tensor is in memory at a time, beyond what the caller holds.
    """
    header = _layout(tensors)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    # The format allows spaces after the JSON: they put the data on a border.
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
        file.write(text)
        for name in header:
            file.write(_little_endian(tensors[name]).data)


def point_into(model: ir.Model, path: Path, names: Iterable[str]) -> None:
    """Make initializers of the main graph external data in the safetensors file at ``path``.

    ``onnx_ir.save(model, path.parent / "model.onnx")`` then writes references. Whatever else lies in
    some other file, of the source perhaps, is read into the graph: it will not be there later.
    """
    entries, start = read_header(path)
    for name in names:
        value = model.graph.initializers[name]
        tensor = value.const_value
        assert tensor is not None
        begin, end = entries[name]["data_offsets"]
        value.const_value = ir.ExternalTensor(
            path.name,
            start + begin,
            end - begin,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
            base_dir=path.parent,
        )
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and Path(tensor.path) != path:
                (value.const_value,) = ir.external_data.convert_tensors_from_external([tensor])


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the entries of a safetensors file by name, and where its data starts.

    Raises
    ------
    ArtifactError
        If the file is no safetensors file, or an entry does not fit the file or its own shape.
    """
    where = path.name
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > min(size - _LENGTH_BYTES, _MAX_HEADER):
                raise _damaged(where, f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ArtifactError(f"{where}: cannot be read: {error.strerror}", where=where) from error
    except ValueError as error:
        raise _damaged(where, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(where, "its header is not an object")
    header.pop("__metadata__", None)
    start = _LENGTH_BYTES + length
    for name, entry in header.items():
        if reason := _wrong_entry(entry, size - start):
            raise _damaged(where, f"tensor {name!r}: {reason}")
    return header, start


def check_external(model: ir.Model, root: Path) -> None:
    """Accept only references into the weights file that say exactly what its header says.

    Raises
    ------
    ArtifactError
        If an initializer refers to another place, size or type in the file, or to a damaged file.
    """
    path = root / FILE_NAME
    header: tuple[dict[str, dict[str, Any]], int] | None = None
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor) or str(tensor.location) != FILE_NAME:
                continue
            header = header or read_header(path)
            entries, start = header
            entry = entries.get(name)
            begin, end = entry["data_offsets"] if entry else (0, 0)
            if entry is None or (tensor.offset, tensor.length) != (start + begin, end - begin):
                raise _damaged(
                    "model.onnx", f"initializer {name!r} is not where {FILE_NAME} has it"
                )
            stored = (entry["dtype"], list(entry["shape"]))
            needed = (_DTYPES.get(tensor.dtype.numpy().name), list(tensor.shape.numpy()))
            if stored != needed:
                raise _damaged(
                    "model.onnx", f"initializer {name!r} needs {needed}, {FILE_NAME} has {stored}"
                )


def _layout(tensors: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, Any]]:
    """Return the header: widest elements first, so that each tensor is aligned to its own."""
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, dict[str, Any]] = {}
    offset = 0
    for name in order:
        array = tensors[name]
        header[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    return header


def _little_endian(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of ``array`` in C order; a view where it already is so."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.byteorder == ">":
        flat = flat.astype(flat.dtype.newbyteorder("<"))
    return flat.view(np.uint8)


def _wrong_entry(entry: Any, available: int) -> str | None:
    """Return what is wrong with one entry of a header, or None."""
    if not isinstance(entry, dict) or entry.get("dtype") not in _DTYPES.values():
        return "no known type"
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        return "no shape or no offsets"
    begin, end = offsets
    width = 1 if entry["dtype"] == "BOOL" else int(entry["dtype"].lstrip("BFIU")) // 8
    if not begin <= end <= available:
        return f"bytes {begin} to {end} of {available}"
    if math.prod(shape) * width != end - begin:
        return f"shape {shape} of {entry['dtype']} in {end - begin} bytes"
    return None


def _are_counts(numbers: Any) -> TypeGuard[list[int]]:
    return isinstance(numbers, list) and all(type(each) is int and each >= 0 for each in numbers)


def _damaged(where: str, what: str) -> ArtifactError:
    return ArtifactError(f"{where}: the artifact is damaged: {what}; compile it again", where=where)
