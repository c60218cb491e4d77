"""Writing an artifact: complete under its final name, or not there at all.

Everything is written into a folder beside the target and renamed at the end. Whatever goes wrong in
between (a full disk, Ctrl-C, a failed check) removes that folder again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec.artifact import format as fmt
from sparsec.backends.base import Lowered
from sparsec.ir.errors import ArtifactError, SparsecError, UsageError

_CHUNK = 1 << 20


def check_output(path: Path, force: bool) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises
    ------
    UsageError
        If something is there already and may not be replaced, or the folder above cannot be written to.
    """
    if path.is_symlink() or path.exists():
        if not (path / fmt.MANIFEST).is_file():
            raise UsageError(
                f"{path}: exists and is no artifact; it is never replaced, choose another -o",
                where=str(path),
            )
        if not force:
            raise UsageError(
                f"{path}: the artifact exists; give --force to replace it, or another -o",
                where=str(path),
            )
    parent = path.parent
    if not parent.is_dir():
        raise UsageError(f"{parent}: no such folder to write {path.name} into", where=str(parent))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{parent}: the folder is not writable", where=str(parent))


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Yield a fresh folder beside ``path``; on success it takes that name, else it is removed.

    Raises
    ------
    ArtifactError
        If the disk is full or the folder cannot be written.
    """
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        stage.chmod(0o755)
        yield stage
        replace(stage, path)
    except SparsecError:
        raise
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _cannot_write(path: Path, error: OSError) -> ArtifactError:
    reason = error.strerror or str(error)
    return ArtifactError(
        f"{path}: cannot be written: {reason}; nothing was left behind", where=str(path)
    )


def replace(stage: Path, path: Path) -> None:
    """Give ``stage`` the name ``path``; an artifact already there stays until the new one is in place."""
    if not path.exists():
        stage.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    try:
        path.rename(old / "artifact")
        try:
            stage.rename(path)
        except OSError:
            (old / "artifact").rename(path)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def write_payload(stage: Path, lowered: Lowered) -> None:
    """Write the graph, its data and every file that the backend made into ``stage``."""
    for name, content in lowered.files.items():
        target = stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content)
    save_model(lowered.model, stage / fmt.MODEL)


def save_model(model: ir.Model, path: Path) -> None:
    """Save a graph with its large tensors outside, in ``<name>.data``, in the order of the graph."""
    ir.save(
        model,
        path,
        external_data=f"{path.name}.data",
        size_threshold_bytes=fmt.EXTERNAL_FROM_BYTES,
    )


def write_manifest(stage: Path, manifest: dict[str, Any]) -> None:
    """Record the hash of every file, then write the manifest, last."""
    manifest["files"] = {
        file.relative_to(stage).as_posix(): {"sha256": sha256(file), "bytes": file.stat().st_size}
        for file in sorted(stage.rglob("*"))
        if file.is_file() and file.name != fmt.MANIFEST
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    (stage / fmt.MANIFEST).write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def payload_bytes(stage: Path, tag: str | None = None) -> int:
    """Return the bytes that a deployment needs: all but manifest, report and plans, one library.

    ``plans/`` holds the same bytes as the graph's data, for use without ONNX Runtime.
    """
    total = 0
    for file in stage.rglob("*"):
        relative = file.relative_to(stage)
        if not file.is_file() or relative.name in (fmt.MANIFEST, fmt.REPORT):
            continue
        if relative.parts[0] == "plans" or (relative.parts[0] == "lib" and tag not in relative.parts):
            continue
        total += file.stat().st_size
    return total


def source_digest(path: Path | None, model: ir.Model) -> dict[str, Any]:
    """Return the hash and size of the source: the model file and every external data file it names."""
    if path is None:
        return {"name": model.graph.name or "", "sha256": None, "bytes": None}
    files = {path}
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            files.add(path.parent / value.const_value.location)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(bytes.fromhex(sha256(file)))
    return {
        "name": path.name,
        "sha256": digest.hexdigest(),
        "bytes": sum(file.stat().st_size for file in files),
    }


def merge(manifest: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add what became known later to the manifest; nothing is overwritten."""
    for key, value in more.items():
        if key in manifest:
            raise KeyError(key)
        manifest[key] = value
