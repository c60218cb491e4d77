"""Map the root folders into the sparsec namespace and build the CPU kernel library.

The folders `ir`, `passes` and `backends` are installed as `sparsec.ir` and so on. `libsparsec_cpu` is
a plain shared library, no extension module: it is loaded by ctypes and by ONNX Runtime, and copied
into artifacts. Each instruction set is its own translation unit, because only its file may be
compiled with its flags.

    python setup.py build_ext --inplace      builds it into the checkout

Without a compiler the installation still succeeds, without the library; `sparsec doctor` says so.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

FOLDERS = {"sparsec": "sparsec"} | {
    f"sparsec.{name}": name for name in ("ir", "passes", "backends")
}

CSRC = Path("backends/cpu/csrc")
LIBRARY = "libsparsec_cpu.so"
FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-ffp-contract=off",
]
COMMON = [
    "api",
    "isa",
    "ort_op",
    "plan_build",
    "plan_cache",
    "plan_check",
    "plan_pack",
    "plan_run",
    "plan_shapes",
    "pool",
    "unit_portable",
]
UNITS = {
    "x86_64": {
        "unit_avx2": ["-mavx2", "-mfma", "-mf16c"],
        "unit_avx512": [
            *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
            "-Wno-maybe-uninitialized",  # GCC's own AVX-512 header
        ],
    },
    "aarch64": {"unit_neon": []},
}
ALIASES = {"AMD64": "x86_64", "arm64": "aarch64"}


def packages() -> list[str]:
    """Name every package, so that a new sub-folder is installed without being listed."""
    names = set(FOLDERS)
    for package, folder in FOLDERS.items():
        names |= {f"{package}.{inner}" for inner in find_packages(folder)}
    return sorted(names)


def compiler() -> list[str] | None:
    """Return the C++ compiler as a command, or None where there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [["g++"], ["clang++"], ["c++"]]:
        if shutil.which(command[0]):
            return command
    return None


class BuildLibrary(build_ext):
    """Build one shared library where setuptools expects an extension module."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")[:-1], LIBRARY)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        command = compiler()
        if command is None:
            self.warn(
                "no C++ compiler found: installing without the CPU kernels (set CXX to name one)"
            )
            return
        target = Path(self.get_ext_fullpath(ext.name))
        objects = Path(self.build_temp)
        objects.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        machine = os.environ.get("SPARSEC_MACHINE", platform.machine())
        units = UNITS.get(ALIASES.get(machine, machine), {})
        made = []
        for name, flags in [*((name, []) for name in COMMON), *units.items()]:
            made.append(str(objects / f"{name}.o"))
            self.call([*command, *FLAGS, *flags, "-c", str(CSRC / f"{name}.cc"), "-o", made[-1]])
        # Our C++ runtime travels inside, so that the library runs on systems with an older one.
        link = ["-shared", "-static-libstdc++", "-static-libgcc", "-pthread"]
        if sys.platform.startswith("linux"):
            link += ["-Wl,-z,defs", "-Wl,--exclude-libs,ALL", "-s"]
        self.call([*command, *link, *made, "-o", str(target)])

    def call(self, command: list[str]) -> None:
        if self.verbose:
            print(shlex.join(command))
        subprocess.run(command, check=True)


sources = sorted(str(path) for path in CSRC.glob("*.cc"))
setup(
    packages=packages(),
    package_dir=FOLDERS,
    ext_modules=[
        Extension(
            "sparsec.backends.cpu.libsparsec_cpu",
            sources,
            depends=sorted(map(str, CSRC.glob("*.h"))),
        )
    ],
    cmdclass={"build_ext": BuildLibrary},
)
