"""Sparsity patterns: which zeros are legal in a weight seen as a matrix [out, reduction].

A pattern is written ``unstructured``, ``2:4`` or ``block:4x1`` for people and on the command line.
In a file it is ``metadata_props["sparsec.pattern"]`` of the initializer, with the tensor axis that
holds the reduction appended: ``2:4@1``. :data:`KEY` is that metadata key.

N:M groups run along the reduction, which for a convolution means along its input channels at a
fixed kernel position: that is what sparse tensor cores read, and the axis that TensorRT asks for.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import PatternError

KEY = "sparsec.pattern"

_STORED = re.compile(r"(?P<pattern>[^@]+)(?:@(?P<axis>\d+))?")
_NM = re.compile(r"(\d+):(\d+)")
_BLOCK = re.compile(r"block:(\d+)x(\d+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Unstructured:
    """Zeros may be anywhere."""

    def __str__(self) -> str:
        return "unstructured"

    def check(self, matrix: NDArray[np.floating], where: str = "") -> None:
        """Accept every matrix."""


@dataclasses.dataclass(frozen=True, slots=True)
class NM:
    """At most ``n`` non-zeros in every ``m`` consecutive weights of a row.

    Examples
    --------
    >>> str(NM(2, 4))
    '2:4'
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise PatternError(f"N:M needs 0 < n < m, got n={self.n} and m={self.m}")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def check(self, matrix: NDArray[np.floating], where: str = "") -> None:
        """Raise PatternError if a group of ``matrix`` float [out, reduction] holds too much."""
        rows, cols = matrix.shape
        if cols % self.m:
            raise PatternError(
                f"{where}: {self} needs a reduction that is a multiple of {self.m}, got {cols}",
                where=where,
            )
        kept = np.count_nonzero(matrix.reshape(rows, cols // self.m, self.m) != 0, axis=-1)
        if (full := np.argwhere(kept > self.n)).size:
            row, group = (int(i) for i in full[0])
            raise PatternError(
                f"{where}: not {self}: row {row}, columns {self.m * group} to "
                f"{self.m * group + self.m - 1} hold {int(kept[row, group])} non-zeros",
                where=where,
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """Blocks of ``rows`` outputs by ``cols`` reduction elements are zero as a whole, or not.

    The last block of a row or column may be cut off where the matrix ends.
    """

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise PatternError(f"a block needs at least 1x1, got {self.rows}x{self.cols}")

    def __str__(self) -> str:
        return f"block:{self.rows}x{self.cols}"

    def check(self, matrix: NDArray[np.floating], where: str = "") -> None:
        """Accept every matrix: a block with some zeros inside is a kept block."""


Pattern: TypeAlias = Unstructured | NM | Block


def parse_pattern(text: str) -> Pattern:
    """Read a pattern as people write it.

    Raises
    ------
    PatternError
        If the text is no pattern.

    Examples
    --------
    >>> parse_pattern("block:4x1")
    Block(rows=4, cols=1)
    """
    if text == "unstructured":
        return Unstructured()
    if match := _NM.fullmatch(text):
        return NM(int(match[1]), int(match[2]))
    if match := _BLOCK.fullmatch(text):
        return Block(int(match[1]), int(match[2]))
    raise PatternError(f"{text!r} is no pattern; known forms: unstructured, 2:4, block:4x1")


def to_metadata(pattern: Pattern, axis: int) -> str:
    """Return the form stored in a file; ``axis`` is the tensor axis of the reduction.

    Examples
    --------
    >>> to_metadata(NM(2, 4), 1)
    '2:4@1'
    """
    return f"{pattern}@{axis}"


def from_metadata(text: str) -> Pattern:
    """Read the stored form; the axis only informs other readers, a site knows its own.

    Raises
    ------
    PatternError
        If the text is no stored pattern.
    """
    match = _STORED.fullmatch(text)
    if match is None:
        raise PatternError(f"metadata {KEY}={text!r} is no pattern")
    return parse_pattern(match["pattern"])
