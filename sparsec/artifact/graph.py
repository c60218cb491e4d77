"""The graph of an artifact, checked before anyone follows its references.

ONNX lets a tensor name any file, offset and length. In an artifact it may name only the two data
files beside it, and only bytes that are there and that its shape and type need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx_ir as ir

from sparsec.artifact import format as fmt
from sparsec.ir.errors import ArtifactError
from sparsec.ir.verify import verify

_DATA_FILES = (fmt.MODEL_DATA, fmt.WEIGHTS)


def load_graph(root: Path) -> ir.Model:
    """Read ``model.onnx`` of the artifact at ``root``; large tensors stay on disk.

    Raises
    ------
    ArtifactError
        If it is no model, or if a tensor does not lie inside the artifact as a whole.
    """
    files = {name: (root / name).stat().st_size for name in _DATA_FILES if (root / name).exists()}
    return load_untrusted(root / fmt.MODEL, files)


def load_untrusted(path: Path, files: Mapping[str, int]) -> ir.Model:
    """Read a graph and make every check on it before anyone else sees it.

    Parameters
    ----------
    path : Path
    files : mapping of str to int
        Names and bytes of the files beside it that tensors may lie in.

    Raises
    ------
    ArtifactError
        Naming the file: it is no model, a tensor does not lie where it may, or the verifier refuses it.
    """
    try:
        model = ir.load(path)
        wrong = next(_complaints(model, files), None)
        ir.to_proto(model)  # raises if a name is no text
    except Exception as error:  # whatever the parser makes of bytes that it was not made for
        raise ArtifactError(
            f"{path}: not a readable ONNX model: {type(error).__name__}: {error}", where=str(path)
        ) from error
    if wrong:
        raise ArtifactError(f"{path}: {wrong}", where=str(path))
    verify(model, where=str(path), error=ArtifactError)
    return model


def _complaints(model: ir.Model, files: Mapping[str, int]) -> Iterator[str]:
    for tensor in _tensors(model):
        if any(not isinstance(size, int) or size < 0 for size in tensor.shape):
            yield f"tensor {tensor.name!r} has the shape {tensor.shape}"
            continue
        if not isinstance(tensor, ir.ExternalTensor):
            tensor.numpy()  # raises if the bytes do not fill the shape
            continue
        location, offset = str(tensor.location), tensor.offset or 0
        if location not in files:
            yield f"tensor {tensor.name!r} lies in {location!r}, which is no file for tensors here"
            continue
        length = tensor.nbytes if tensor.length is None else tensor.length
        if length != tensor.nbytes or offset < 0 or offset + length > files[location]:
            yield (
                f"tensor {tensor.name!r} needs {tensor.nbytes} bytes; bytes {offset} to "
                f"{offset + length} of {location} ({files[location]} bytes) are no such thing"
            )


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield every tensor stored in the model: initializers and attributes, in all graphs."""
    graphs = [*model.graphs(), *(function.graph for function in model.functions.values())]
    for graph in graphs:
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.TENSOR:
                    yield attribute.as_tensor()
                elif isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.TENSORS:
                    yield from attribute.as_tensors()
