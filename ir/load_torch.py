"""The torch front-end: a module or a ``.pt2`` archive becomes a graph with the module's names.

The way is ``torch.export`` and torch's own ONNX exporter, with its optimiser off: on, it renames
folded weights, unties shared ones and folds BatchNormalization. Our exact clean-ups then remove the
arithmetic that the exporter leaves behind.

Names that come out, all stable from run to run:

* inputs are called after the arguments of ``forward``;
* outputs after the keys of a returned mapping, otherwise ``output``, ``output_1``, ...;
* a dynamic dimension after the first input that has it: ``input_ids_0``;
* nodes after the module that they come from and their operator: ``blocks.0.fc/MatMul``;
* initializers after the parameter or buffer, recorded in ``metadata_props["sparsec.param"]`` as
  ``{"name": ..., "transform": [...]}``; the first name of a parameter that has several.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from sparsec.ir.canonical import canonicalise, first_line
from sparsec.ir.cleanup import clean_up
from sparsec.ir.errors import ModelImportError
from sparsec.ir.pt2 import check_pt2
from sparsec.ir.torch_names import (
    name_dimensions,
    name_nodes,
    name_outputs,
    output_names,
    tie_parameters,
)

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

OPSET = 20

_WAY_OUT = (
    "make forward exportable (torch.cond and torch.where in place of control flow on data, ONNX "
    "operators in place of custom ones), or export to ONNX yourself and load the .onnx file"
)


def model_from_module(
    module: torch.nn.Module,
    example_inputs: tuple[Any, ...],
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
) -> ir.Model:
    """Export a torch module in evaluation mode; the module itself is left as it is.

    Parameters
    ----------
    module : torch.nn.Module
        Its parameters are shared with the returned model until a pass replaces them.
    example_inputs : tuple
        Positional arguments of ``forward``.
    dynamic_shapes : optional
        As ``torch.export.export`` takes it; a size that is not mentioned is fixed.

    Returns
    -------
    onnx_ir.Model
        Canonical, cleaned and verified, at opset 20.

    Raises
    ------
    ModelImportError
        If torch is missing, or cannot export the module.
    """
    name = type(module).__name__
    torch = _torch(name)
    training = {part: part.training for part in module.modules()}
    with _quiet(), torch.no_grad():
        try:
            module.eval()
            program = torch.export.export(
                module, tuple(example_inputs), dynamic_shapes=dynamic_shapes, strict=False
            )
        except Exception as error:  # whatever forward or the tracer raises
            raise _failure(name, "torch.export", error) from error
        finally:
            for part, mode in training.items():
                part.training = mode
    return _from_program(program, name)


def model_from_pt2(path: str | Path) -> ir.Model:
    """Load what ``torch.export.save`` wrote.

    Raises
    ------
    ModelImportError
        If the file is damaged, is no such archive, or holds anything that would run code when
        loaded (:mod:`sparsec.ir.pt2`); also if torch is missing.
    """
    path = Path(path)
    torch = _torch(str(path))
    with _quiet(), torch.no_grad():
        check_pt2(path)
        try:
            program = torch.export.load(str(path))
        except Exception as error:  # the archive is sound, but not one of this torch
            raise ModelImportError(
                f"{path}: torch {torch.__version__} cannot load the exported program: "
                f"{first_line(error)}; save it again with this version",
                where=str(path),
            ) from error
    return _from_program(program, str(path))


def _torch(where: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ModelImportError(
            f"{where}: loading torch models needs torch; pip install 'sparsec[torch]'", where=where
        ) from error
    return torch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch prints, logs and warns about away from the user's terminal."""
    disabled = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


def _failure(name: str, step: str, error: Exception) -> ModelImportError:
    way_out = _sizes_way_out(str(error)) or _WAY_OUT
    return ModelImportError(f"{name}: {step} failed: {first_line(error)}; {way_out}", where=name)


def _sizes_way_out(message: str) -> str:
    """Return what to do about ``dynamic_shapes`` that the module does not take; empty if it is not that."""
    _, found, rest = message.partition("Suggested fixes:\n")
    fixes = [line.strip() for line in rest.split("\n\n")[0].splitlines() if line.strip()]
    if not found or not fixes:
        return ""
    way_out = f"change dynamic_shapes as torch suggests: {', '.join(fixes)}"
    if any(fix.rpartition("=")[2].strip().isdigit() for fix in fixes):
        way_out += (
            ". A size that is a number there is a fixed one, by the module or because it is 1 in "
            "example_inputs: leave it out of dynamic_shapes, or give an example of 2 or more"
        )
    return way_out


def _from_program(program: ExportedProgram, where: str) -> ir.Model:
    """Translate an exported program and give everything its name."""
    import torch

    with _quiet(), torch.no_grad():
        try:
            translated = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False
            )
        except Exception as error:  # an operator without a translation, above all
            raise _failure(where, "the export to ONNX", error) from error
    assert translated is not None
    model: ir.Model = translated.model
    tie_parameters(model.graph, program)
    name_outputs(model.graph, output_names(program))
    name_dimensions(model)
    name_nodes(model)
    canonicalise(model, where)
    clean_up(model)
    return model
