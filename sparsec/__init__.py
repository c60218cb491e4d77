"""SparseC: a compiler for sparsity.

The public names are loaded on first use, so that ``import sparsec`` stays fast and pulls in neither
torch nor triton. Errors are re-exported from :mod:`sparsec.ir.errors`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsec.api import compile as compile
    from sparsec.artifact import Artifact as Artifact
    from sparsec.ir.errors import SparsecError as SparsecError
    from sparsec.ir.load import load_model as load_model
    from sparsec.passes.pipeline import Pipeline as Pipeline
    from sparsec.runtime.session import Session as Session
    from sparsec.runtime.session import load as load

__version__ = "0.1.0"

# ONNX Runtime reports its use to its vendor unless told otherwise before it is imported. SparseC
# sends nothing anywhere, nor does what it runs.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PUBLIC = {
    "compile": "sparsec.api",
    "load": "sparsec.runtime.session",
    "load_model": "sparsec.ir.load",
    "Artifact": "sparsec.artifact",
    "Pipeline": "sparsec.passes.pipeline",
    "Session": "sparsec.runtime.session",
    "SparsecError": "sparsec.ir.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'sparsec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
