"""The library for other machines: cross-compiled when it is first needed, kept in the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sparsec.backends.cpu.build import FILE_NAME, build_library, digest
from sparsec.backends.cpu.library import library_path, why_no_library
from sparsec.backends.targets import platform_tag
from sparsec.ir.errors import UnsupportedTargetError

# Names as Debian, Ubuntu and Fedora give them; the package is g++-aarch64-linux-gnu and so on.
COMPILERS = {
    "linux-aarch64": "aarch64-linux-gnu-g++",
    "linux-x86_64": "x86_64-linux-gnu-g++",
}


def why_no_library_for(tag: str) -> str | None:
    """Return why there is no library for ``<os>-<arch>``, with the way out; None if there can be one."""
    if tag == platform_tag():
        return why_no_library()
    compiler = COMPILERS[tag]
    if _cached(tag).is_file() or shutil.which(compiler):
        return None
    package = f"g++-{compiler.removesuffix('-g++').replace('_', '-')}"
    return (
        f"the kernels for {tag} must be cross-compiled and {compiler} is not installed; install it "
        f"(apt-get install {package}), or compile on such a machine with --target cpu"
    )


def library_for(tag: str) -> Path:
    """Return the library for ``<os>-<arch>``, built now if it was not.

    Raises
    ------
    UnsupportedTargetError
        If it cannot be built here.
    """
    if reason := why_no_library_for(tag):
        raise UnsupportedTargetError(reason, where=tag)
    if tag == platform_tag():
        installed = library_path()
        assert installed is not None
        return installed
    target = _cached(tag)
    if not target.is_file():
        _build(tag, target)
    return target


def _cached(tag: str) -> Path:
    """Return where the library is kept; other sources or flags have another place."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "sparsec" / "libraries" / f"{tag}-{digest()[:16]}" / FILE_NAME


def _build(tag: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as scratch:
        made = Path(scratch) / FILE_NAME
        build_library([COMPILERS[tag]], tag.partition("-")[2], made, Path(scratch), _call)
        made.replace(target)  # whole or not at all, also when two build at once


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
        raise UnsupportedTargetError(
            f"{command[0]} cannot build the CPU kernels ({said.strip()}); is its C++ library installed?",
            where=command[0],
        )
