"""Map the root folders into the sparsec namespace and build the CPU kernel library.

The folders `ir`, `passes` and `backends` are installed as `sparsec.ir` and so on. `libsparsec_cpu` is
a plain shared library, no extension module: it is loaded by ctypes and by ONNX Runtime, and copied
into artifacts. How it is compiled stands in `backends/cpu/build.py`, which cross-compiling shares.

    python setup.py build_ext --inplace      builds it into the checkout

Without a compiler the installation still succeeds, without the library; `sparsec doctor` says so.
"""

import os
import platform
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

FOLDERS = {"sparsec": "sparsec"} | {
    f"sparsec.{name}": name for name in ("ir", "passes", "backends")
}

BUILD = runpy.run_path("backends/cpu/build.py")
CSRC = BUILD["SOURCES"]


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
        return os.path.join(*fullname.split(".")[:-1], BUILD["FILE_NAME"])

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
        BUILD["build_library"](command, platform.machine(), target, objects, self.call)

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
