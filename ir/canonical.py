"""The canonical form that every source is brought into, whatever wrote it."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as onnx_passes

from sparsec.ir.errors import ModelImportError
from sparsec.ir.verify import verify


def canonicalise(model: ir.Model, where: str) -> None:
    """Bring ``model`` into the canonical form, in place, and verify it.

    Functions are inlined, constants become initializers of the graph that held them, no initializer
    doubles as an input, nodes stand in topological order, sizes of -1 are dynamic ones.

    Raises
    ------
    ModelImportError
        If the graph cannot be used; ``where`` starts the message.
    """
    try:
        verify(model, where=where, error=ModelImportError, sorted_graph=False)
        if model.functions:
            onnx_passes.InlinePass()(model)
        onnx_passes.RemoveInitializersFromInputsPass()(model)
        onnx_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        onnx_passes.TopologicalSortPass()(model)
        _name_no_negative_sizes(model)
    except ModelImportError:
        raise
    except Exception as error:  # onnx_ir raises many types for graphs that are no graphs
        raise ModelImportError(
            f"{where}: the graph cannot be brought into canonical form: {first_line(error)}",
            where=where,
        ) from error
    verify(model, where=where, error=ModelImportError)


def _name_no_negative_sizes(model: ir.Model) -> None:
    """Make sizes of -1 what their writers mean by them: dynamic, without a name."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None and any(isinstance(n, int) and n < 0 for n in value.shape):
            sizes = [None if isinstance(n, int) and n < 0 else n for n in value.shape]
            value.shape = ir.Shape(sizes)


def first_line(error: BaseException) -> str:
    """Return the first line of the innermost cause: what went wrong, without the trace."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
