"""The artifact: one folder with everything a deployment needs, and the proof of what it claims."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsec.artifact.reader import read_manifest

if TYPE_CHECKING:
    from sparsec.runtime.session import Session


@dataclasses.dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled model on disk.

    Parameters
    ----------
    path : Path
        The folder.
    manifest : dict
        Its checked manifest.
    """

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Artifact:
        """Open an artifact and check that it is complete; hashes are left to ``verify``.

        Raises
        ------
        ArtifactError
            If it is no artifact or a damaged one.
        """
        root = Path(path)
        return cls(root, read_manifest(root))

    @property
    def exit_code(self) -> int:
        """The exit code that its compilation ended with: 0, or 5 if nothing was gained."""
        return int(self.manifest["exit_code"])

    def session(self, threads: int | None = None) -> Session:
        """Return what runs the artifact on this machine."""
        from sparsec.runtime.session import load

        return load(self.path, threads=threads)

    def summary(self) -> dict[str, Any]:
        """Return the object that ``compile --json`` prints."""
        manifest = self.manifest
        keys = ("target", "passes", "layers", "before", "after", "verify", "fidelity", "accuracy")
        return {
            "artifact": str(self.path),
            **{key: manifest[key] for key in keys},
            "latency": manifest["latency"],
            "goals": manifest["goals"],
            "notes": manifest["notes"],
            "exit_code": self.exit_code,
        }
