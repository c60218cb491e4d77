"""``load_model``: every source becomes one canonical ``onnx_ir.Model``.

Canonical means: functions inlined; every constant an initializer of its own graph, wherever it was
stored; no initializer doubles as an input; nodes in topological order; every node named once.
Nothing is folded and no weight is read: tensors stay memory-mapped where the file allows it, so a
model larger than memory loads in the time its graph takes. The caller's file or module is never
changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google.protobuf.message  # type: ignore[import-untyped]
import onnx
import onnx_ir as ir

from sparsec.ir.canonical import canonicalise, first_line
from sparsec.ir.errors import ModelImportError
from sparsec.ir.verify import check_external_data

if TYPE_CHECKING:
    import torch

MAX_OPSET = onnx.defs.onnx_opset_version()


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
        object. An ``onnx_ir.Model`` is cloned; its tensors are shared.
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
        name = str(path)
        model = _load_pt2(path) if path.suffix == ".pt2" else _load_onnx(path)
    elif isinstance(source, onnx.ModelProto):
        name = source.graph.name or "the model"
        model = _from_proto(source, name)
    elif isinstance(source, ir.Model):
        name = source.graph.name or "the model"
        model = source.clone()
    else:
        name = type(source).__name__
        model = _load_module(source, example_inputs, dynamic_shapes)
    canonicalise(model, name)
    return model


def release(model: ir.Model) -> None:
    """Give the pages of memory-mapped tensors back to the system; they are mapped again when read."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.release()


def _load_onnx(path: Path) -> ir.Model:
    """Read an ONNX file; its external data is checked and mapped, not read."""
    if not path.exists():
        raise ModelImportError(f"{path}: no such file", where=str(path))
    if path.is_dir():
        raise ModelImportError(
            f"{path}: a folder, where a model file (.onnx or .pt2) was needed", where=str(path)
        )
    if path.stat().st_size == 0:
        raise ModelImportError(f"{path}: the file is empty", where=str(path))
    try:
        model = ir.load(path)
    except (google.protobuf.message.DecodeError, UnicodeDecodeError) as error:
        raise ModelImportError(
            f"{path}: not an ONNX model, or a truncated one ({first_line(error)}); "
            "fetch or export it again",
            where=str(path),
        ) from error
    except PermissionError as error:
        reason = f"{path}: cannot be read: {error.strerror}"
        raise ModelImportError(reason, where=str(path)) from error
    except Exception as error:  # the deserialiser reports bad graphs with many exception types
        raise ModelImportError(
            f"{path}: not a usable ONNX graph: {first_line(error)}", where=str(path)
        ) from error
    check_external_data(model, path)
    return model


def _from_proto(proto: onnx.ModelProto, name: str) -> ir.Model:
    try:
        return ir.from_proto(proto)
    except Exception as error:  # as above
        raise ModelImportError(
            f"{name}: not a usable ONNX graph: {first_line(error)}", where=name
        ) from error


def _load_pt2(path: Path) -> ir.Model:
    from sparsec.ir.load_torch import model_from_pt2

    return model_from_pt2(path)


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
    from sparsec.ir.load_torch import model_from_module

    return model_from_module(module, example_inputs, dynamic_shapes)  # type: ignore[arg-type]
