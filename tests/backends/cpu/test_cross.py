"""Libraries for other machines: found, built once, or refused with the way out."""

import shutil
import stat
from pathlib import Path

import pytest

from sparsec.backends.cpu import cross
from sparsec.backends.cpu.build import FILE_NAME, digest
from sparsec.backends.cpu.library import library_path
from sparsec.backends.targets import platform_tag
from sparsec.ir.errors import UnsupportedTargetError
from tests.backends.cpu.layers import NEEDS_LIBRARY

TAG = "linux-aarch64" if platform_tag() != "linux-aarch64" else "linux-x86_64"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, and a cache of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "touch"):
        (folder / name).symlink_to(shutil.which(name) or "/bin/sh")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def compiler(tools: Path, body: str) -> None:
    file = tools / cross.COMPILERS[TAG]
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_without_a_compiler_the_way_out_is_named(tools: Path) -> None:
    reason = cross.why_no_library_for(TAG) or ""
    assert cross.COMPILERS[TAG] in reason
    assert "apt-get install g++-" in reason
    with pytest.raises(UnsupportedTargetError, match="apt-get install"):
        cross.library_for(TAG)


def test_it_is_built_once(tools: Path) -> None:
    compiler(tools, 'for last; do :; done; touch "$last"; touch "$0.ran"')
    assert cross.why_no_library_for(TAG) is None
    built = cross.library_for(TAG)
    assert built.name == FILE_NAME
    assert digest()[:16] in built.parent.name
    assert [path.name for path in built.parent.iterdir()] == [FILE_NAME], "no object file is left"
    (tools / cross.COMPILERS[TAG]).unlink()
    assert cross.why_no_library_for(TAG) is None, "kept, although the compiler has gone"
    assert cross.library_for(TAG) == built


def test_a_compiler_that_fails_leaves_nothing(tools: Path, tmp_path: Path) -> None:
    compiler(tools, "echo 'api.cc:2: fatal error: cstdio: No such file' >&2; exit 1")
    with pytest.raises(UnsupportedTargetError, match="cstdio: No such file"):
        cross.library_for(TAG)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@NEEDS_LIBRARY
def test_this_machine_has_the_installed_one() -> None:
    assert cross.library_for(platform_tag()) == library_path()
