"""Statistics on disk, found again by the hash of what they are statistics of.

One ``.npz`` file (arrays only, nothing pickled, a checksum for each) holds those of one input. A
file that is damaged counts as missing: it is collected again. Files are written beside their final
name and renamed, so that two processes may share a folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from sparsec.passes.calibration.statistics import Statistics

_VERSION = b"1"  # of how statistics are computed: another one finds nothing of this one


class StatisticsStore:
    """A folder of statistics."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, key: bytes) -> Path:
        """Return the file of ``key``, whether it exists or not."""
        return self.folder / f"{hashlib.sha256(_VERSION + key).hexdigest()}.npz"

    def get(self, key: bytes) -> Statistics | None:
        """Return the statistics of ``key``; None if they are not there, or damaged."""
        try:
            with (
                self.path(key).open("rb") as stream,
                np.load(stream, allow_pickle=False) as archive,
            ):
                return Statistics.from_arrays({name: archive[name] for name in archive.files})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def put(self, key: bytes, statistics: Statistics) -> None:
        """Keep statistics under ``key``."""
        handle, partial = tempfile.mkstemp(dir=self.folder, suffix=".partial")
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, allow_pickle=False, **statistics.to_arrays())
        os.replace(partial, self.path(key))
