"""Plans run by the library of another machine under an emulator, in the place of ``LoadedPlan``."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np

from sparsec.backends.cpu import cross
from sparsec.backends.cpu.build import SOURCES
from sparsec.backends.cpu.plan import Plan
from sparsec.ir.errors import ShapeError
from tests.backends.cpu.layers import Array

HERE = Path(__file__).parent
TAG = "linux-aarch64"
CC, QEMU = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
SYSROOT = "/usr/aarch64-linux-gnu"


def why_not() -> str | None:
    """Return what is missing to run 64-bit ARM programs here; None if nothing is."""
    if reason := cross.why_no_library_for(TAG):
        return reason
    if CC is None:
        return "needs a C compiler for ARM: apt-get install gcc-aarch64-linux-gnu"
    return None if QEMU else "needs an emulator: apt-get install qemu-user"


def build(source: Path, program: Path) -> list[str]:
    """Cross-compile a C program with the library and return the command that runs it here."""
    library = cross.library_for(TAG)
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    link = [str(library), f"-Wl,-rpath,{library.parent}"]
    subprocess.run([str(CC), *flags, str(source), *link, "-o", str(program)], check=True)
    return [str(QEMU), "-L", SYSROOT, str(program)]


class Server:
    """The library of 64-bit ARM in one emulated process."""

    def __init__(self, folder: Path) -> None:
        command = build(HERE / "serve_plans.c", folder / "serve_plans")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def microkernels(self, isa: str) -> tuple[str, ...]:
        """Return the names of the microkernels of one instruction set."""
        self._send(struct.pack("<Q16siiii", 0, isa.encode(), 1, 0, 0, 0))
        assert self._status() == 0
        return tuple(self._text().split(","))

    def run(self, data: bytes, isa: str | None, threads: int, *inputs: Array) -> list[Array]:
        """Return the outputs of a plan.

        Raises
        ------
        ShapeError
            With the library's own sentence.
        """
        outputs = len(Plan.from_bytes(data).outputs)
        name = (isa or "neon").encode()
        self._send(struct.pack("<Q16siiii", len(data), name, threads, len(inputs), outputs, 0))
        self._send(data)
        for array in inputs:
            self._send(struct.pack(f"<i{array.ndim}q", array.ndim, *array.shape) + array.tobytes())
        if self._status():
            raise ShapeError(f"the plan cannot run: {self._text()}")
        return [self._tensor() for _ in range(outputs)]

    def _tensor(self) -> Array:
        (rank,) = struct.unpack("<i", self._receive(4))
        shape = struct.unpack(f"<{rank}q", self._receive(8 * rank))
        size = 4 * int(np.prod(shape))
        return np.frombuffer(self._receive(size), np.float32).reshape(shape)

    def _status(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.flush()
        return int.from_bytes(self._receive(4), "little")

    def _text(self) -> str:
        return self._receive(int.from_bytes(self._receive(4), "little")).decode()

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)

    def _receive(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        assert len(data) == size, f"the emulated process ended: {self._process.poll()}"
        return data
