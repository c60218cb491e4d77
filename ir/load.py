"""``load_model``: every source becomes one canonical ``onnx_ir.Model``.

Canonical means: functions inlined; every constant an initializer of its own graph, wherever it was
stored; no initializer doubles as an input; nodes in topological order.
Nothing of an ONNX file is folded and no weight is read: tensors stay memory-mapped where the file
allows it, so a model larger than memory loads in the time its graph takes. The caller's file or
module is never changed.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google.protobuf.message  # type: ignore[import-untyped]
import onnx
import onnx_ir as ir

from sparsec.ir.canonical import canonicalise, first_line
from sparsec.ir.check_proto import check_proto, tensors_of
from sparsec.ir.errors import ModelImportError
from sparsec.ir.linked import follow_links
from sparsec.ir.verify import verify

if TYPE_CHECKING:
    import torch

# Without a handler of its own the library's complaints about a bad file would go to stderr, beside
# our one error that says the same.
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())

# In a model's meta: what the file calls data that lies under other names.
LOCATIONS = "sparsec.locations"
_SHOWN = 20


def load_model(
    source: str | os.PathLike[str] | onnx.ModelProto | ir.Model | torch.nn.Module,
    *,
    example_inputs: tuple[Any, ...] | None = None,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
) -> ir.Model:
    """Load a model into the canonical graph and check it.

    Parameters
    ----------
    source : path, onnx.ModelProto, onnx_ir.Model or torch.nn.Module
        ``.onnx`` by path (external data beside it is memory-mapped), ``.pt2`` by path, or an
        object. An ``onnx_ir.Model`` is cloned; its tensors are shared. A torch module or program
        comes out cleaned up: its exporter leaves much to remove.
    example_inputs : tuple, optional
        Positional inputs of a torch module; needed for one.
    dynamic_shapes : optional
        As ``torch.export.export`` takes it.

    Returns
    -------
    onnx_ir.Model
        A model that the caller owns.

    Raises
    ------
    ModelImportError
        If the source is missing, damaged, no model, or a graph that breaks an invariant; the
        message names the file and the node.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not is_onnx(path):
            from sparsec.ir.load_torch import model_from_pt2

            return model_from_pt2(path)
        name, model = str(path), _load_onnx(path)
    elif isinstance(source, onnx.ModelProto):
        name = source.graph.name or "the model"
        model = _from_proto(source, name, None)
    elif isinstance(source, ir.Model):
        name = source.graph.name or "the model"
        verify(source, where=name, error=ModelImportError)  # a broken graph cannot be cloned
        model = source.clone()
    else:
        return _load_module(source, example_inputs, dynamic_shapes)
    canonicalise(model, name)
    return model


def is_onnx(path: Path) -> bool:
    """Whether a model file is read as ONNX; else it is an archive of ``torch.export.save``."""
    return path.suffix != ".pt2"


def _load_onnx(path: Path) -> ir.Model:
    """Read an ONNX file; its external data is checked and mapped, not read."""
    if path.is_dir():
        raise ModelImportError(
            f"{path}: a folder, where a model file (.onnx or .pt2) was needed",
            where=str(path),
        )
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelImportError(f"{path}: no such file", where=str(path)) from error
    except OSError as error:
        reason = f"{path}: cannot be read: {error.strerror or error}"
        raise ModelImportError(reason, where=str(path)) from error
    if not data:
        raise ModelImportError(f"{path}: the file is empty", where=str(path))
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except google.protobuf.message.DecodeError as error:
        kind = _kind(data)
        raise ModelImportError(
            f"{path}: not an ONNX model, or a truncated one{kind}; fetch or export it again",
            where=str(path),
        ) from error
    folder, locations = follow_links(tensors_of(proto), path)
    model = _from_proto(proto, str(path), folder)
    model.meta[LOCATIONS] = locations
    return model


# First bytes of files that are taken for ONNX models.
_KINDS = {
    b"PK\x03\x04": "a zip archive: of torch? then save it with torch.export as .pt2",
    b"\x80": "a Python pickle",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer: run git lfs pull",
    b"<": "a web page or XML",
    b"{": "JSON",
}


def _kind(data: bytes) -> str:
    """Return what a file that is no model looks like, in parentheses; nothing if it is unknown."""
    kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)
    return f" (it looks like {kind})" if kind else ""


def _from_proto(proto: onnx.ModelProto, name: str, folder: Path | None) -> ir.Model:
    """Check a parsed model and turn it into a graph; external data lies in ``folder``."""
    if violations := check_proto(proto, folder):
        more = len(violations) - _SHOWN
        text = "; ".join(violations[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise ModelImportError(f"{name}: {text}", where=name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = ir.from_proto(proto)
    except Exception as error:  # the deserialiser reports bad graphs with many exception types
        raise ModelImportError(
            f"{name}: not a usable ONNX graph: {first_line(error)}", where=name
        ) from error
    if folder is not None:
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            ir.external_data.set_base_dir(graph, folder)
    return model


def _load_module(
    module: object,
    example_inputs: tuple[Any, ...] | None,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None,
) -> ir.Model:
    """Export a torch module; anything else that arrives here is no model."""
    if not any(base.__module__.startswith("torch.nn.") for base in type(module).__mro__):
        raise ModelImportError(
            f"cannot load a model from {type(module).__name__}; needed a path to .onnx or .pt2, an "
            "onnx.ModelProto, an onnx_ir.Model or a torch.nn.Module"
        )
    if example_inputs is None:
        raise ModelImportError(
            f"{type(module).__name__}: a torch module needs example inputs to be exported; pass "
            "example_inputs=(tensor, ...)",
            where=type(module).__name__,
        )
    if not isinstance(example_inputs, (tuple, list)):
        raise ModelImportError(
            f"{type(module).__name__}: example_inputs must be a tuple of forward's positional "
            f"arguments, got {type(example_inputs).__name__}; write (x,) for a single one",
            where=type(module).__name__,
        )
    from sparsec.ir.load_torch import model_from_module

    return model_from_module(module, example_inputs, dynamic_shapes)
