"""Reading an artifact. Nothing in it is trusted before it is checked.

Order matters: the manifest's size, then its syntax and schema, then every path, then the presence and
size of every file, and on request their hashes. Only then is a file opened by anyone else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsec.artifact import format as fmt
from sparsec.artifact.writer import sha256
from sparsec.ir.errors import ArtifactError, HashMismatchError

# Key of the manifest -> the type it must have.
_SCHEMA: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "format_version": int,
    "target": str,
    "backend": str,
    "recipe": dict,
    "source": dict,
    "tools": dict,
    "inputs": list,
    "outputs": list,
    "layers": list,
    "passes": list,
    "kernels": list,
    "certificates": list,
    "before": dict,
    "after": dict,
    "verify": dict,
    "fidelity": dict,
    "files": dict,
}


def is_artifact(path: Path) -> bool:
    """Say whether ``path`` looks like an artifact at all: a folder with a manifest."""
    return path.is_dir() and (path.suffix == fmt.SUFFIX or (path / fmt.MANIFEST).exists())


def read_manifest(root: Path) -> dict[str, Any]:
    """Read and check the manifest of the artifact at ``root``, and that its files are there.

    Raises
    ------
    ArtifactError
        If it is no artifact, or one that is damaged; the message names the file.
    """
    path = root / fmt.MANIFEST
    if not root.is_dir():
        raise ArtifactError(f"{root}: no artifact: needed a folder with {fmt.MANIFEST}", where=str(root))
    if not path.is_file():
        raise ArtifactError(f"{root}: no artifact: {fmt.MANIFEST} is missing", where=str(path))
    if path.stat().st_size > fmt.MAX_MANIFEST_BYTES:
        raise ArtifactError(
            f"{path}: {path.stat().st_size} bytes; a manifest has at most {fmt.MAX_MANIFEST_BYTES}",
            where=str(path),
        )
    try:
        manifest = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON: {error}", where=str(path)) from error
    _check_schema(manifest, path)
    _check_files(root, manifest["files"], path)
    return manifest


def _refuse(constant: str) -> Any:
    raise ValueError(f"the number {constant} is not JSON")


def _check_schema(manifest: Any, path: Path) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != fmt.FORMAT:
        raise ArtifactError(f"{path}: not the manifest of a SparseC artifact", where=str(path))
    version = manifest.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ArtifactError(f"{path}: format_version {version!r} is no version", where=str(path))
    if version > fmt.VERSION:
        raise ArtifactError(
            f"{path}: written in format version {version}; this SparseC reads up to {fmt.VERSION}, "
            "install a newer one",
            where=str(path),
        )
    for key, kind in _SCHEMA.items():
        if not isinstance(manifest.get(key), kind):
            name = getattr(kind, "__name__", str(kind))
            raise ArtifactError(f"{path}: {key!r} must be of type {name}", where=str(path))
    if len(manifest["files"]) > fmt.MAX_FILES:
        raise ArtifactError(f"{path}: lists more than {fmt.MAX_FILES} files", where=str(path))


def _check_files(root: Path, files: Mapping[str, Any], manifest: Path) -> None:
    """Check that every listed file is a plain file of the listed size inside ``root``, and no other."""
    if fmt.MODEL not in files:
        raise ArtifactError(f"{manifest}: does not list {fmt.MODEL}", where=str(manifest))
    for name, entry in files.items():
        if not fmt.PATH.fullmatch(name):
            raise ArtifactError(
                f"{manifest}: the path {name!r} could leave the artifact", where=str(manifest)
            )
        if not isinstance(entry, dict) or not _is_size(entry.get("bytes")) or not _is_hash(entry):
            raise ArtifactError(f"{manifest}: the entry of {name!r} is malformed", where=str(manifest))
        file = root / name
        if _has_link(root, name) or not file.is_file():
            raise ArtifactError(f"{file}: missing, or not a plain file", where=str(file))
        if (size := file.stat().st_size) != entry["bytes"]:
            raise ArtifactError(
                f"{file}: has {size} bytes where the manifest says {entry['bytes']}; the artifact is "
                "truncated or was altered",
                where=str(file),
            )
    known = {root / name for name in files} | {manifest}
    for folder, _, names in os.walk(root):
        for name in names:
            if (file := Path(folder) / name) not in known:
                raise ArtifactError(f"{file}: not listed in the manifest", where=str(file))


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_hash(entry: Mapping[str, Any]) -> bool:
    digest = entry.get("sha256")
    return isinstance(digest, str) and len(digest) == 64 and not set(digest) - set("0123456789abcdef")


def _has_link(root: Path, name: str) -> bool:
    """Whether any part of the path is a symbolic link: a link could lead anywhere."""
    path = root
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            return True
    return False


def check_hashes(root: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the hash of every file with the manifest.

    Raises
    ------
    HashMismatchError
        Naming every file that differs.
    """
    wrong = [name for name, entry in manifest["files"].items() if sha256(root / name) != entry["sha256"]]
    if wrong:
        raise HashMismatchError(
            f"{root}: altered since it was written: {', '.join(sorted(wrong))}; compile it again",
            where=str(root / sorted(wrong)[0]),
        )
