"""Compiling ``libsparsec_cpu``: its files, its flags, its three commands.

``setup.py`` runs this file before anything is installed, so it imports the standard library alone. Each
instruction set is its own translation unit, because only its file may be compiled with its flags.
"""

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

FILE_NAME = "libsparsec_cpu.so"
SOURCES = Path(__file__).parent / "csrc"

FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-ffp-contract=off",
)
COMMON = (
    "api",
    "attention",
    "isa",
    "ort_op",
    "plan_build",
    "plan_cache",
    "plan_check",
    "plan_direct",
    "plan_pack",
    "plan_run",
    "plan_shapes",
    "plan_steps",
    "plan_tiles",
    "team",
    "tile_ops",
    "unit_portable",
    "window_ops",
)
# Files that only one kind of machine has, with the flags that only they get. A processor without PREFETCHW
# takes it for a NOP.
UNITS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "unit_avx2": ("-mavx2", "-mfma", "-mf16c", "-mprfchw"),
        "unit_avx512": (
            *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
            *("-mavx2", "-mfma", "-mf16c", "-mprfchw"),
            *("-Wno-maybe-uninitialized", "-Wno-uninitialized"),  # GCC's own AVX-512 header
        ),
    },
    "aarch64": {"unit_neon": ()},
}
ALIASES = {"AMD64": "x86_64", "arm64": "aarch64"}


def build_library(
    compiler: Sequence[str],
    machine: str,
    target: Path,
    objects: Path,
    call: Callable[[list[str]], object],
) -> None:
    """Compile and link the library.

    Parameters
    ----------
    compiler : sequence of str
        Command of a C++17 compiler for ``machine``.
    machine : str
        As ``platform.machine()`` names it; one that has no unit gets the portable kernels.
    target : Path
        The library.
    objects : Path
        An existing folder for object files.
    call : callable
        Runs a command and raises if it fails.
    """
    machine = ALIASES.get(machine, machine)
    made = []
    for name, flags in [*((name, ()) for name in COMMON), *UNITS.get(machine, {}).items()]:
        made.append(str(objects / f"{name}.o"))
        call([*compiler, *FLAGS, *flags, "-c", str(SOURCES / f"{name}.cc"), "-o", made[-1]])
    # Our C++ runtime travels inside, so that the library runs on systems with an older one.
    link = ["-shared", "-static-libstdc++", "-static-libgcc", "-pthread"]
    if sys.platform.startswith("linux"):
        link += ["-Wl,-z,defs", "-Wl,--exclude-libs,ALL", "-s"]
    call([*compiler, *link, *made, "-o", str(target)])


def digest() -> str:
    """Return what a built library depends on, as hexadecimal digits: all sources and all flags."""
    found = hashlib.sha256(repr((FLAGS, COMMON, UNITS)).encode())
    for path in sorted(SOURCES.glob("*")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
