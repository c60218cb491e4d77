"""The roof of one core in this minute, for each instruction set: a small C++ program measures it."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tempfile
from pathlib import Path

_FLAGS = {"avx512": ("-mavx512f", "-mavx2", "-mfma"), "avx2": ("-mavx2", "-mfma")}
_SOURCE = Path(__file__).with_name("peak.cc")


@dataclasses.dataclass(frozen=True)
class Peak:
    """GFLOP/s of one core: on registers, with an operand in the first cache, in the second."""

    registers: float
    first_cache: float
    second_cache: float


def measure_peak(isa: str, threads: int = 1) -> Peak | None:
    """Return the roof of an instruction set; None without a compiler or without the vectors.

    Parameters
    ----------
    threads : int
        Measure so many at once and add them up. On a virtual machine two processors may be one core: then
        the sum is that of one.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or isa not in _FLAGS:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        command = [compiler, "-O2", "-std=c++17", *_FLAGS[isa], str(_SOURCE), "-o", str(program)]
        subprocess.run(command, check=True)
        running = [
            subprocess.Popen([program], stdout=subprocess.PIPE, text=True) for _ in range(threads)
        ]
        found = [process.communicate()[0].split() for process in running]
    return Peak(*(round(sum(map(float, column)), 1) for column in zip(*found, strict=True)))
