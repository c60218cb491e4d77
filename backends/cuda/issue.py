"""How many instructions a CUDA C++ kernel spends on a weight, counted in its machine code.

A processor issues four warp instructions a clock. A kernel that spends more than the weight takes to arrive
is bound by that and not by memory, whatever it saves in bytes. The count is exact for the instructions of
the loops and takes the trip counts of uniformly random zeros; work once a launch is left out, and a branch
that a tile may skip counts as taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from sparsec.backends.cuda.formats.lps import ROWS, STEP, WORDS, expected_lists
from sparsec.backends.cuda.native import NativeVariant
from sparsec.backends.cuda.sass import CodeReport
from sparsec.ir.errors import UnsupportedTargetError

_LANES = 32
_NM24_ROWS = 32  # of a warp
_EARLY, _LATE = (
    5,
    4,
)  # overflow entries of a lane that are fetched before, and together after, the lists


def instructions_per_element(code: CodeReport, variant: NativeVariant, sparsity: float) -> float:
    """Return lane instructions for each dense element of W.

    Parameters
    ----------
    code : CodeReport
        Of the compiled ``variant``.
    sparsity : float
        Fraction of zeros; of no influence on ``nm24_sp``.

    Raises
    ------
    UnsupportedTargetError
        If the loops of the source are not to be found in the code.
    """
    if variant.format == "nm24_sp":
        steps = variant.stages  # the ring is unrolled
        loop = _only(code, lambda c: _has(c, "HMMA") and _has(c, "LDGSTS"))
        return loop * _LANES / (steps * _NM24_ROWS * STEP)

    lists = _only(code, lambda c: _has(c, "IDP") == 16 and not _has(c, "LDSM"))
    dense = _only(code, lambda c: _has(c, "LDSM") and not _has(c, "IDP"))
    late = _only(code, lambda c: _scatters(c, _LATE))
    tile = _only(code, lambda c: _has(c, "LDSM") and _has(c, "IDP") and not _has(c, "BAR"))
    length, over = expected_lists(sparsity)
    chunks, spilt = length // (WORDS // 16), over * 2  # of a lane: two lists
    total = 0.0 + tile - lists - late + dense  # the multiplication runs twice a tile
    total += chunks // 2 * lists + math.ceil(max(spilt - _EARLY, 0) / _LATE) * late
    if variant.clear:
        again = _only(code, lambda c: _has(c, "IDP") == 8)
        one = _only(code, lambda c: _scatters(c, 1))
        total += (chunks - 1) * again + (math.ceil(spilt) - 1) * one
    return total * _LANES / (ROWS * STEP)


def _scatters(loop: Counter[str], entries: int) -> bool:
    """Whether a loop does nothing but scatter that many overflow entries."""
    alone = not any(_has(loop, each) for each in ("IDP", "LDSM", "HMMA"))
    return alone and loop["STS.U16"] == entries


def _has(loop: Counter[str], base: str) -> int:
    return sum(n for opcode, n in loop.items() if opcode.split(".")[0] == base)


def _only(code: CodeReport, wanted: Callable[[Counter[str]], object]) -> int:
    """Return the instructions of the smallest loop that is as wanted."""
    found = [loop.total() for loop in code.loops if wanted(loop)]
    if not found:
        raise UnsupportedTargetError("a loop of the source is missing from the machine code")
    return min(found)
