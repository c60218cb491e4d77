"""Hashes of files: what tells whether one is the file that it was."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec.ir.load import LOCATIONS, is_onnx

_CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def source_digest(path: Path | None, model: ir.Model) -> dict[str, Any]:
    """Return what identifies the source: the hash of its file, and of every data file it names.

    Returns
    -------
    dict
        ``name``, ``sha256``, ``bytes`` (of all files together) and ``data``, a hash for each data
        file. A model that was no file has no hash, one that was no ONNX file has no size: what it
        would take as ONNX is not known from it.
    """
    if path is None:
        return {"name": model.graph.name or "", "sha256": None, "bytes": None, "data": {}}
    if not is_onnx(path):
        return {"name": path.name, "sha256": sha256(path), "bytes": None, "data": {}}
    called = model.meta.get(LOCATIONS, {})
    files: dict[str, Path] = {}
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(tensor := value.const_value, ir.ExternalTensor):
                location = str(tensor.location)
                files[called.get(location, location)] = Path(tensor.path)
    return {
        "name": path.name,
        "sha256": sha256(path),
        "bytes": sum(file.stat().st_size for file in (path, *files.values())),
        "data": {location: sha256(files[location]) for location in sorted(files)},
    }
