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


def measure_peak(isa: str) -> Peak | None:
    """Return the roof of an instruction set; None without a compiler or without the vectors."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or isa not in _FLAGS:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        command = [compiler, "-O2", "-std=c++17", *_FLAGS[isa], str(_SOURCE), "-o", str(program)]
        subprocess.run(command, check=True)
        found = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return Peak(*map(float, found.split()))
