"""Native code in an artifact is for others: SparseC runs its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsec.backends.cpu import backend as cpu
from sparsec.backends.cpu.library import FILE_NAME, why_no_library
from sparsec.backends.targets import platform_tag
from sparsec.ir.errors import UnsupportedTargetError


@pytest.fixture
def with_library(artifact: Path) -> Path:
    """An artifact whose library is no library: loading it would fail."""
    folder = artifact / "lib" / platform_tag()
    folder.mkdir(parents=True)
    (folder / FILE_NAME).write_bytes(b"not to be loaded")
    return artifact


@pytest.mark.skipif(bool(why_no_library()), reason="SparseC was installed without its library")
def test_the_library_in_an_artifact_is_never_loaded(with_library: Path) -> None:
    runner = cpu.CpuBackend().runner(with_library, {}, 1)
    assert runner.run({"x": np.zeros((1, 32), np.float32)})["y"].shape == (1, 10)


def test_without_a_library_of_its_own_sparsec_refuses(
    with_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "why_no_library", lambda: "there is none")
    with pytest.raises(UnsupportedTargetError, match="there is none"):
        cpu.CpuBackend().runner(with_library, {}, 1)


def test_another_platforms_library_is_refused(with_library: Path) -> None:
    (with_library / "lib" / platform_tag()).rename(with_library / "lib" / "amiga-m68k")
    with pytest.raises(UnsupportedTargetError, match="amiga-m68k"):
        cpu.CpuBackend().runner(with_library, {}, 1)
