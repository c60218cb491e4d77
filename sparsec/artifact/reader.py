"""Reading an artifact. Nothing in it is trusted before it is checked.

Order matters: the manifest's size, then its syntax, its version and its schema, then every path,
the presence and size of every file, their hashes, and last where the graph's data lies. Only then
is a file opened by anyone else.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsec.artifact import format as fmt
from sparsec.artifact.digest import sha256
from sparsec.artifact.graph import load_graph
from sparsec.artifact.schema import complaint
from sparsec.backends.base import Backend
from sparsec.backends.targets import backends
from sparsec.ir.errors import (
    ArtifactError,
    HashMismatchError,
    ModelImportError,
    ShapeError,
    UnsupportedTargetError,
)


def is_artifact(path: Path) -> bool:
    """Say whether ``path`` looks like an artifact at all: a folder that is named or filled so."""
    return path.is_dir() and (path.suffix == fmt.SUFFIX or (path / fmt.MANIFEST).exists())


def open_artifact(root: Path) -> dict[str, Any]:
    """Make every check on the artifact at ``root`` and return its manifest.

    Raises
    ------
    ArtifactError
        If it is no artifact, or one that is damaged; the message names the file.
    HashMismatchError
        If the content of a file is not what was written.
    """
    manifest = read_manifest(root)
    check_hashes(root, manifest)
    load_graph(root)  # raises if a tensor lies anywhere but in the artifact
    return manifest


def read_manifest(root: Path) -> dict[str, Any]:
    """Read and check the manifest of the artifact at ``root``, and that its files are there.

    Raises
    ------
    ArtifactError
        If it is no artifact, or one that is damaged; the message names the file.
    """
    path = root / fmt.MANIFEST
    if not root.is_dir():
        raise ArtifactError(
            f"{root}: no artifact: needed a folder with {fmt.MANIFEST}", where=str(root)
        )
    with _readable(path):
        manifest = parse_manifest(path)
        _check_version(manifest, path)
        if wrong := complaint(manifest):
            raise ArtifactError(f"{path}: {wrong}", where=str(path))
        _check_files(root, manifest["files"], path)
    return manifest


def parse_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest as JSON, and see that it is one of ours; nothing more is checked.

    Raises
    ------
    ArtifactError
    """
    if path.is_symlink() or not path.is_file():
        raise ArtifactError(
            f"{path.parent}: no artifact: {fmt.MANIFEST} is missing, or no plain file",
            where=str(path),
        )
    with _readable(path):
        if (size := path.stat().st_size) > fmt.MAX_MANIFEST_BYTES:
            raise ArtifactError(
                f"{path}: {size} bytes; a manifest has at most {fmt.MAX_MANIFEST_BYTES}",
                where=str(path),
            )
        try:
            manifest = json.loads(
                path.read_bytes().decode("utf-8"),
                parse_constant=_refuse,
                parse_float=_finite,
                object_pairs_hook=_unique,
            )
            # An escape can spell half a surrogate pair, which no output could carry.
            json.dumps(manifest, ensure_ascii=False).encode("utf-8")
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{path}: not valid JSON: {error}", where=str(path)) from error
    if not isinstance(manifest, dict) or manifest.get("format") != fmt.FORMAT:
        raise ArtifactError(f"{path}: not the manifest of a SparseC artifact", where=str(path))
    return manifest


def _refuse(constant: str) -> Any:
    raise ValueError(f"the number {constant} is not JSON")


def _finite(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(f"the number {literal[:20]} is out of range")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; a key given twice means different things to different readers."""
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return result


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn a refusal by the system (permissions, a name too long) into an ArtifactError."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or path)
        raise ArtifactError(
            f"{where}: cannot be read: {error.strerror or error}", where=where
        ) from error


def _check_version(manifest: Mapping[str, Any], path: Path) -> None:
    version = manifest.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ArtifactError(
            f"{path}: format_version must be a whole number from 1", where=str(path)
        )
    if version > fmt.VERSION:
        raise ArtifactError(
            f"{path}: written in a format version newer than {fmt.VERSION}, the newest that this "
            "SparseC reads; install a newer one",
            where=str(path),
        )


def _check_files(root: Path, files: Mapping[str, Mapping[str, Any]], manifest: Path) -> None:
    """Check that the files of ``root`` are the listed ones: plain, inside, of the listed sizes."""
    if len(files) > fmt.MAX_FILES:
        raise ArtifactError(
            f"{manifest}: lists {len(files)} files; an artifact has at most {fmt.MAX_FILES}",
            where=str(manifest),
        )
    if fmt.MODEL not in files:
        raise ArtifactError(f"{manifest}: does not list {fmt.MODEL}", where=str(manifest))
    if fmt.MANIFEST in files:
        raise ArtifactError(f"{manifest}: lists itself", where=str(manifest))
    for name in files:
        if not fmt.PATH.fullmatch(name):
            raise ArtifactError(
                f"{manifest}: the path {name[:200]!r} could leave the artifact, or is no portable "
                "name",
                where=str(manifest),
            )
    found = dict(itertools.islice(_walk(root, ""), fmt.MAX_FILES + 2))
    found.pop(fmt.MANIFEST, None)
    for name, entry in files.items():
        if name not in found:
            raise ArtifactError(f"{root / name}: missing", where=str(root / name))
        if found[name] != entry["bytes"]:
            raise ArtifactError(
                f"{root / name}: has {found[name]} bytes where the manifest says {entry['bytes']}; "
                "the artifact is truncated or was altered",
                where=str(root / name),
            )
    if extra := sorted(found.keys() - files.keys()):
        raise ArtifactError(
            f"{root / extra[0]}: not listed in the manifest; an artifact holds nothing else",
            where=str(root / extra[0]),
        )


def _walk(folder: Path, prefix: str, depth: int = 0) -> Iterator[tuple[str, int]]:
    """Yield path and size of every file; links and devices are refused: they lead elsewhere."""
    if depth > fmt.MAX_DEPTH:
        raise ArtifactError(f"{folder}: folders are nested too deep", where=str(folder))
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                yield from _walk(Path(entry.path), f"{name}/", depth + 1)
            elif stat.S_ISREG(info.st_mode):
                yield name, info.st_size
            else:
                raise ArtifactError(f"{entry.path}: not a plain file", where=entry.path)


def check_hashes(root: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the hash of every file with the manifest.

    Raises
    ------
    HashMismatchError
        Naming every file that differs.
    """
    with _readable(root):
        wrong = sorted(
            name
            for name, entry in manifest["files"].items()
            if sha256(root / name) != entry["sha256"]
        )
    if wrong:
        raise HashMismatchError(
            f"{root}: altered since it was written: {', '.join(wrong)}; compile it again",
            where=str(root / wrong[0]),
        )


@contextlib.contextmanager
def using_graph(root: Path) -> Iterator[None]:
    """Blame the artifact at ``root`` for a graph that passed every check and still cannot be used.

    Raises
    ------
    ArtifactError
    """
    try:
        yield
    except (ModelImportError, ShapeError) as error:
        path = root / fmt.MODEL
        raise ArtifactError(f"{path}: cannot be used: {error.message}", where=str(path)) from error


def backend_of(manifest: Mapping[str, Any], root: Path) -> Backend:
    """Return what can run and unpack the artifact.

    Raises
    ------
    UnsupportedTargetError
        If it was written by a backend that is not installed here.
    """
    name = manifest["backend"]
    if name not in backends:
        known = ", ".join(sorted(backends))
        raise UnsupportedTargetError(
            f"{root}: written by the backend {name!r}, which is not installed here (installed: "
            f"{known}); install the package that brings it",
            where=str(root / fmt.MANIFEST),
        )
    return backends.get(name)()
