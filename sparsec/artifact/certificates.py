"""Certificates on disk: a JSON file with the index sets, and two graphs without weights.

``docs/formats/certificates.md`` specifies them. Like everything in an artifact, what is read is not
trusted: positions must lie inside their tensors, and the graphs may refer to no file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.artifact import format as fmt
from sparsec.artifact.graph import load_untrusted
from sparsec.artifact.schema import complaint_of, count, items, mapping, record, text
from sparsec.ir.certificate import Certificate
from sparsec.ir.edits import Removal
from sparsec.ir.errors import ArtifactError

FORMAT = "sparsec-certificate"
VERSION = 1
_MAX_BYTES = 64 << 20

_RUNS = items(items(count, length=2))
_CERTIFICATE = record(
    {
        "format": text,
        "version": count,
        "pass": text,
        "dense": text,
        "shrunk": text,
        "groups": items(record({"name": text, "units": count, "removed": _RUNS})),
        "tensors": mapping(record({"removed": mapping(_RUNS)})),
        "never_zero": items(text),
    }
)


def write_certificates(stage: Path, certificates: Iterable[Certificate]) -> list[dict[str, Any]]:
    """Write every certificate into ``stage`` and return the manifest's entries."""
    entries = []
    for number, certificate in enumerate(certificates):
        folder = stage / fmt.CERTIFICATES
        folder.mkdir(exist_ok=True)
        stem = f"{number}-{certificate.applied}"
        names = {kind: f"{fmt.CERTIFICATES}/{stem}.{kind}.onnx" for kind in ("dense", "shrunk")}
        for kind, model in (("dense", certificate.dense), ("shrunk", certificate.shrunk)):
            ir.save(model, stage / names[kind])
        body = {"format": FORMAT, "version": VERSION, "pass": certificate.applied, **names}
        body |= _removal_json(certificate)
        file = f"{fmt.CERTIFICATES}/{stem}.json"
        (stage / file).write_text(json.dumps(body, ensure_ascii=False) + "\n", encoding="utf-8")
        entries.append(
            {
                "file": file,
                "pass": certificate.applied,
                "groups": len(certificate.groups),
                "units": sum(len(removed) for _, _, removed in certificate.groups),
            }
        )
    return entries


def _removal_json(certificate: Certificate) -> dict[str, Any]:
    return {
        "groups": [
            {"name": name, "units": units, "removed": runs(removed)}
            for name, units, removed in certificate.groups
        ],
        "tensors": {
            name: {"removed": {str(axis): runs(where) for axis, where in axes.items()}}
            for name, axes in certificate.removal.tensors.items()
        },
        "never_zero": sorted(certificate.removal.never_zero),
    }


def runs(positions: Sequence[int] | NDArray[np.int64]) -> list[list[int]]:
    """Return sorted positions as ``[first, length]`` pairs.

    Examples
    --------
    >>> runs([0, 1, 2, 7])
    [[0, 3], [7, 1]]
    """
    array = np.asarray(positions, np.int64)
    if not array.size:
        return []
    starts = np.flatnonzero(np.diff(array, prepend=array[0] - 2) != 1)
    lengths = np.diff(starts, append=array.size)
    return [[int(array[s]), int(n)] for s, n in zip(starts, lengths, strict=True)]


def read_certificates(root: Path, manifest: Mapping[str, Any]) -> Iterator[Certificate]:
    """Read and check every certificate of an artifact, one at a time.

    Raises
    ------
    ArtifactError
        If one is not what the format says; the message names the file.
    """
    for entry in manifest["certificates"]:
        path = root / entry["file"]
        body = _body(path)
        graphs = {kind: _graph(root, body[kind], manifest) for kind in ("dense", "shrunk")}
        groups = [
            (
                group["name"],
                group["units"],
                tuple(_positions(group["removed"], group["units"], path)),
            )
            for group in body["groups"]
        ]
        removal = Removal({}, frozenset(body["never_zero"]))
        bare = Certificate(body["pass"], groups, removal, graphs["dense"], graphs["shrunk"])
        _check_parameters(bare.parameters, path)
        tensors = _tensors(bare.parameters, body["tensors"], path)
        yield dataclasses.replace(bare, removal=dataclasses.replace(removal, tensors=tensors))


def _body(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ArtifactError(f"{path}: larger than any certificate", where=str(path))
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON: {error}", where=str(path)) from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not a certificate", where=str(path))
    if wrong := complaint_of(_CERTIFICATE, body):
        raise ArtifactError(f"{path}: {wrong}", where=str(path))
    if body["version"] > VERSION:
        raise ArtifactError(
            f"{path}: version {body['version']}, newer than this SparseC reads", where=str(path)
        )
    return body


def _graph(root: Path, name: str, manifest: Mapping[str, Any]) -> ir.Model:
    """Read a skeleton: a graph with no tensor outside itself, in bodies and attributes neither."""
    path = root / name
    if name not in manifest["files"]:
        raise ArtifactError(f"{path}: a certificate's graph is not listed", where=str(path))
    return load_untrusted(path, {})


def _positions(pairs: Sequence[Sequence[int]], size: int, path: Path) -> NDArray[np.int64]:
    """Return what ``[first, length]`` pairs list, checked to be increasing and below ``size``."""
    end = 0
    for first, length in pairs:
        if first < end or not 0 < length <= size - first:
            raise ArtifactError(
                f"{path}: positions {first} to {first + length} of an axis of {size} are out of "
                "order or range",
                where=str(path),
            )
        end = first + length
    parts = [np.arange(first, first + length) for first, length in pairs]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _check_parameters(parameters: Mapping[str, ir.Value], path: Path) -> None:
    """Refuse parameters that no weights can be made for: of unknown type or shape."""
    for name, value in parameters.items():
        dtype, shape = value.dtype, value.shape
        known = dtype is not None and (dtype.is_floating_point() or dtype.is_integer())
        sizes = () if shape is None else shape.dims
        if not known or shape is None or not all(isinstance(s, int) and s >= 0 for s in sizes):
            raise ArtifactError(
                f"{path}: the parameter {name!r} is {dtype} {shape}; needed numbers of a known shape",
                where=str(path),
            )


def _tensors(
    parameters: Mapping[str, ir.Value], listed: Mapping[str, Any], path: Path
) -> dict[str, dict[int, NDArray[np.int64]]]:
    """Return the positions by tensor and axis; each must lie in a parameter of the dense graph."""
    found: dict[str, dict[int, NDArray[np.int64]]] = {}
    for name, entry in listed.items():
        shape = parameters[name].shape if name in parameters else None
        if shape is None:
            raise ArtifactError(
                f"{path}: {name!r} is no parameter of the dense graph", where=str(path)
            )
        found[name] = {}
        for text_axis, pairs in entry["removed"].items():
            if not text_axis.isdecimal() or int(text_axis) >= len(shape):
                raise ArtifactError(f"{path}: {name!r} has no axis {text_axis!r}", where=str(path))
            axis = int(text_axis)
            found[name][axis] = _positions(pairs, int(str(shape[axis])), path)
    return found
