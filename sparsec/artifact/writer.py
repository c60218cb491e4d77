"""Writing an artifact: complete under its final name, or not there at all.

Everything is written into a folder beside the target and renamed at the end. Whatever goes wrong in
between (a full disk, Ctrl-C, a failed check) removes that folder again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsec.artifact import format as fmt
from sparsec.artifact.digest import sha256
from sparsec.artifact.reader import parse_manifest
from sparsec.artifact.schema import complaint
from sparsec.backends.base import Lowered
from sparsec.ir.errors import ArtifactError, UsageError
from sparsec.ir.safetensors import point_into, write_weights


def check_output(path: Path, force: bool) -> None:
    """Refuse an output that cannot be written, or that would destroy something else.

    Raises
    ------
    UsageError
        If something is there already and may not be replaced, or the folder above cannot be written
        to.
    """
    if path.is_symlink() or path.exists():
        if reason := _why_not_ours(path):
            raise UsageError(
                f"{path}: exists and {reason}; it is never replaced, choose another -o",
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


def _why_not_ours(path: Path) -> str | None:
    """Return why ``path`` is not an artifact and nothing but an artifact, or None.

    A damaged artifact is still one: what makes it ours is its manifest, whatever became of the
    rest.
    """
    if path.is_symlink() or not path.is_dir():
        return "is no artifact"
    try:
        files = parse_manifest(path / fmt.MANIFEST).get("files")
    except ArtifactError:
        return "is no artifact"
    listed = {fmt.MANIFEST, *(files if isinstance(files, dict) else ())}
    for file in path.rglob("*"):
        if not file.is_dir() and (name := file.relative_to(path).as_posix()) not in listed:
            return f"holds {name}, which is no part of the artifact"
    return None


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what the system refuses while ``path`` is made into an ArtifactError that says so.

    Raises
    ------
    ArtifactError
        If the disk is full, a folder is not writable, ...
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        at = f" ({error.filename})" if error.filename else ""
        if error.errno == errno.ENOSPC and not at:  # a write that fails does not say to which file
            at = f" (there, or in {tempfile.gettempdir()} for scratch files: TMPDIR names another)"
        raise ArtifactError(
            f"{path}: cannot be written: {reason}{at}; nothing was left behind", where=str(path)
        ) from error


@contextlib.contextmanager
def staging(path: Path, force: bool) -> Iterator[Path]:
    """Yield a fresh folder beside ``path``; on success it takes that name, else it is removed.

    Raises
    ------
    ArtifactError
        If the disk is full or the folder cannot be written.
    UsageError
        If something that may not be replaced has meanwhile appeared at ``path``.
    """
    stage = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    try:
        with write_errors(path):
            stage.mkdir()
            yield stage
            publish(stage, path, force)
    finally:
        _remove(stage)


def publish(stage: Path, path: Path, force: bool) -> None:
    """Give a complete artifact at ``stage`` the name ``path``.

    An artifact that is already there stays until the new one is in place.

    Raises
    ------
    UsageError
        If something that may not be replaced has meanwhile appeared at ``path``.
    """
    _flush(stage)
    check_output(path, force)
    if not path.exists():
        stage.rename(path)
        return
    old = stage.with_suffix(".old")
    try:
        path.rename(old)
        stage.rename(path)
    finally:
        if path.exists():
            _remove(old)
        else:
            old.rename(path)


def _flush(stage: Path) -> None:
    """Bring everything onto the disk, so that no name outlives a power cut without its content."""
    for item in (*stage.rglob("*"), stage):
        handle = os.open(item, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(folder: Path) -> None:
    """Remove a folder of ours; a second Ctrl-C does not leave half of it."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_payload(stage: Path, lowered: Lowered) -> None:
    """Write the graph, its data and every file that the backend made into ``stage``."""
    for name, content in lowered.files.items():
        target = stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content)
    if lowered.weights:
        write_weights(stage / fmt.WEIGHTS, lowered.weights)
        point_into(lowered.model, stage / fmt.WEIGHTS, lowered.weights)
        ir.save(lowered.model, stage / fmt.MODEL)
    else:
        save_model(lowered.model, stage / fmt.MODEL)


def save_model(model: ir.Model, path: Path) -> None:
    """Save a graph; its large tensors lie outside, in ``<name>.data``, in the graph's order."""
    ir.save(
        model,
        path,
        external_data=f"{path.name}.data",
        size_threshold_bytes=fmt.EXTERNAL_FROM_BYTES,
    )


def write_manifest(stage: Path, manifest: dict[str, Any]) -> None:
    """Record the hash of every file, then write the manifest, last.

    Raises
    ------
    ArtifactError
        If the manifest is not one that a reader would accept.
    """
    manifest["files"] = {
        file.relative_to(stage).as_posix(): {"sha256": sha256(file), "bytes": file.stat().st_size}
        for file in sorted(stage.rglob("*"))
        if file.is_file() and file.name != fmt.MANIFEST
    }
    if wrong := complaint(manifest):
        raise ArtifactError(f"the manifest to be written is not valid: {wrong}", where=str(stage))
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    (stage / fmt.MANIFEST).write_text(text + "\n", encoding="utf-8")


def payload_bytes(stage: Path) -> int:
    """Return the bytes that a deployment needs: all but manifest, report and plans, one library.

    ``plans/`` holds the same bytes as the graph's data, for use without ONNX Runtime. Of the libraries
    of several platforms the largest counts.
    """
    total, libraries = 0, {"": 0}
    for file in stage.rglob("*"):
        relative = file.relative_to(stage)
        if not file.is_file() or relative.name in (fmt.MANIFEST, fmt.REPORT):
            continue
        match relative.parts:
            case "plans", *_:
                continue
            case "lib", platform, *_:
                libraries[platform] = libraries.get(platform, 0) + file.stat().st_size
            case _:
                total += file.stat().st_size
    return total + max(libraries.values())
