"""What the tests of the zoo share: a cache of their own, and skipping what was not fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from examples.zoo import real
from examples.zoo.cache import UnavailableError


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that the zoo uses for the length of one test."""
    monkeypatch.setenv("SPARSEC_MODELS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def onnx_path() -> Callable[[str], Path]:
    """The ONNX file of a real model; the test is skipped, with the reason, if there is none."""

    def path(name: str) -> Path:
        try:
            return real.path(name)
        except UnavailableError as error:
            pytest.skip(str(error))

    return path
