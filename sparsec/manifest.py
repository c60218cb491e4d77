"""The part of a manifest that is known before anything has run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx_ir as ir

import sparsec
from sparsec.artifact import format as fmt
from sparsec.artifact.digest import source_digest
from sparsec.backends.base import Lowered
from sparsec.ir.target import Target
from sparsec.passes.pipeline import Step
from sparsec.recipe import Recipe

# The oldest ONNX Runtime whose custom-operator API the library needs, and that the tests have seen.
MIN_ORT = "1.18"

_TOOLS = ("numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "torch", "triton")


def describe(
    source: ir.Model,
    path: Path | None,
    recipe: Recipe,
    target: Target,
    steps: Sequence[Step],
    lowered: Lowered,
    certificates: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return the manifest's facts: what went in, what was done, what came out."""
    return {
        "format": fmt.FORMAT,
        "format_version": fmt.VERSION,
        "sparsec": sparsec.__version__,
        "tools": tool_versions(),
        "min_ort": MIN_ORT,
        "target": target.name,
        "backend": target.backend,
        "source": source_digest(path, source),
        "recipe": recipe.to_json(),
        "inputs": [value_json(value) for value in source.graph.inputs],
        "outputs": [value_json(value) for value in source.graph.outputs],
        "passes": [step.to_json() for step in steps],
        "layers": [row.to_json() for row in lowered.layers],
        "kernels": lowered.kernels,
        "certificates": certificates,
        "lowering_notes": lowered.notes,
        **({"record": lowered.record.to_json()} if lowered.record else {}),
    }


def tool_versions() -> dict[str, str]:
    """Return the versions of the tools that had a part in the result, where installed."""
    found = {}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def value_json(value: ir.Value) -> dict[str, Any]:
    """Return name, numpy dtype and shape of an input or output; dynamic sizes by name or None."""
    dtype = "unknown" if value.dtype is None else "string"
    if value.dtype not in (None, ir.DataType.STRING):
        dtype = str(value.dtype.numpy())
    shape: list[Any] | None = None
    if value.shape is not None:
        shape = [size if isinstance(size, int) else size.value for size in value.shape]
    return {"name": value.name, "dtype": dtype, "shape": shape}
