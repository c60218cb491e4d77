"""ONNX Runtime as a runner of model files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sparsec.backends.base import Feeds
from sparsec.ir.errors import ArtifactError
from sparsec.ir.run import new_session


class OrtRunner:
    """Runs a model file in ONNX Runtime."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = 1,
        optimise: bool = True,
        libraries: Sequence[Path] = (),
        low_memory: bool = False,
    ) -> None:
        self.session = new_session(
            path,
            threads=threads,
            optimise=optimise,
            libraries=libraries,
            low_memory=low_memory,
            error=ArtifactError,
        )
        self._names = [output.name for output in self.session.get_outputs()]

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Return every output by name."""
        return dict(zip(self._names, self.session.run(None, dict(feeds)), strict=True))
