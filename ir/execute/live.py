"""Values on their way from one segment to a later one: in memory up to a limit, on disk beyond it.

On disk a value is one file with the arrays of all samples behind each other, each as numpy's own
format (without pickle). With ``keep`` every value is written when it arrives, so that a walk can be
resumed.
"""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib import format as npy
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class StoredFile:
    """What a file must hold to be the one that was written."""

    name: str
    size: int
    crc: int

    def matches(self, folder: Path) -> bool:
        """Whether the file is there, whole and unaltered."""
        path = folder / self.name
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        crc = 0
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                crc = zlib.crc32(block, crc)
        return crc == self.crc


class _Column:
    """One value for all samples."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrays: dict[int, Array] = {}
        self.offsets: dict[int, int] = {}
        self.size = 0
        self.crc = 0

    def write(self, sample: int, array: Array) -> None:
        """Append the array of a sample to the file."""
        text = array.astype(str) if array.dtype.kind == "O" else array
        writer = _Summing(self.path.open("ab" if self.size else "wb"), self.crc)
        with writer.stream:
            npy.write_array(writer, np.ascontiguousarray(text), allow_pickle=False)
        self.offsets[sample] = self.size
        self.size += writer.count
        self.crc = writer.crc

    def read(self, sample: int) -> Array:
        """Return the array of a sample."""
        if (array := self.arrays.get(sample)) is not None:
            return array
        with self.path.open("rb") as stream:
            stream.seek(self.offsets[sample])
            array = npy.read_array(stream, allow_pickle=False)
        return array.astype(object) if array.dtype.kind == "U" else array


class _Summing:
    """A stream that keeps a checksum of what goes through it."""

    def __init__(self, stream: Any, crc: int) -> None:
        self.stream, self.crc, self.count = stream, crc, 0

    def write(self, data: Any) -> int:
        self.crc = zlib.crc32(data, self.crc)
        self.count += len(data)
        return int(self.stream.write(data))


class LiveValues:
    """The values that later segments still need.

    Parameters
    ----------
    folder : Path
        For what does not fit, and for everything if ``keep``.
    limit : int
        Bytes that may be held in memory.
    keep : bool
        Write every value to disk as well.
    """

    def __init__(self, folder: Path, limit: int, keep: bool) -> None:
        self.folder, self.limit, self.keep = folder, limit, keep
        self.in_memory = 0
        self._columns: dict[ir.Value, _Column] = {}

    def __contains__(self, value: ir.Value) -> bool:
        return value in self._columns

    def put(self, value: ir.Value, name: str, sample: int, array: Array) -> None:
        """Keep the array of one sample; ``name`` names the value's file."""
        column = self._columns.setdefault(value, _Column(self.folder / name))
        fits = self.in_memory + array.nbytes <= self.limit
        if fits:
            column.arrays[sample] = array
            self.in_memory += array.nbytes
        if self.keep or not fits:
            column.write(sample, array)

    def get(self, value: ir.Value, sample: int) -> Array:
        """Return the array of one sample."""
        return self._columns[value].read(sample)

    def drop_all_but(self, wanted: set[ir.Value]) -> list[Path]:
        """Forget every other value; return the files that are now of no use."""
        files = []
        for value in [v for v in self._columns if v not in wanted]:
            column = self._columns.pop(value)
            self.in_memory -= sum(array.nbytes for array in column.arrays.values())
            files.append(column.path)
        return files

    def state(self) -> dict[ir.Value, tuple[StoredFile, list[int]]]:
        """Return the file of every value, and where in it each sample starts."""
        return {
            value: (
                StoredFile(column.path.name, column.size, column.crc),
                [column.offsets[sample] for sample in sorted(column.offsets)],
            )
            for value, column in self._columns.items()
        }

    def restore(self, value: ir.Value, file: StoredFile, offsets: list[int]) -> None:
        """Take up a value that an earlier process wrote."""
        column = _Column(self.folder / file.name)
        column.size, column.crc = file.size, file.crc
        column.offsets = dict(enumerate(offsets))
        self._columns[value] = column
