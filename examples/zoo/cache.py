"""Where fetched packages and built models live, and how a file gets there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


class UnavailableError(Exception):
    """A model or data set is not in the cache, or needs a package that is not installed.

    The message says what is missing and how to get it, so that a test can skip with it.
    """


def cache_dir() -> Path:
    """Return the cache: ``SPARSEC_MODELS``, or ``~/.cache/sparsec-models``."""
    named = os.environ.get("SPARSEC_MODELS")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "sparsec-models"


@contextlib.contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``target`` when the block ends without an error.

    The folder lies beside ``target``, so the rename is atomic: ``target`` is complete or absent. Of
    two processes that publish the same target, the first wins and the second drops its copy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as scratch:
        work = Path(scratch) / target.name
        work.mkdir()
        yield work
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():
                raise
