"""Models in download caches, where all files of a folder are links into one store.

Hugging Face's has ``snapshots/REVISION/model.onnx -> ../../blobs/HASH``, and data files likewise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import onnx


def is_within(location: str) -> bool:
    """Whether a relative path stays in its folder, as far as its text says."""
    return not os.path.isabs(location) and ".." not in Path(location).parts


def follow_links(tensors: Iterable[onnx.TensorProto], path: Path) -> tuple[Path, dict[str, str]]:
    """Let tensors of the model at ``path`` point to what its data files are links to, if that is allowed.

    It is if the model is a link itself, and every data file one to a file in the folder that the model
    really lies in: who wrote the model could have named that file without any link.

    Parameters
    ----------
    tensors : iterable of onnx.TensorProto
        All of the model; locations are changed in place.
    path : Path

    Returns
    -------
    Path
        The folder of the external data.
    dict of str to str
        By new location the one that the model had; empty if no link was followed.
    """
    folder, home = path.absolute().parent, path.resolve().parent
    entries = [e for t in tensors for e in t.external_data if e.key == "location"]
    locations = {entry.value for entry in entries}
    if not path.is_symlink() or not all(_is_file_within(folder, each) for each in locations):
        return folder, {}
    files = {location: (folder / location).resolve() for location in locations}
    if any(file.parent != home for file in files.values()):
        return folder, {}
    for entry in entries:
        entry.value = files[entry.value].name
    return home, {files[location].name: location for location in sorted(locations)}


def _is_file_within(folder: Path, location: str) -> bool:
    return is_within(location) and os.path.isfile(folder / location)
