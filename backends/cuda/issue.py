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

from sparsec.backends.cuda import formats
from sparsec.backends.cuda.formats.lps import ROWS, STEP, WORDS, expected_lists
from sparsec.backends.cuda.native import FRAGMENTS, NativeVariant, clears
from sparsec.backends.cuda.sass import CodeReport
from sparsec.ir.errors import UnsupportedTargetError

_LANES = 32
_WARPS = 4  # of nm_sp.cuh, beside each other
# Of lps.cu: overflow entries of a lane that are fetched before, and together after, the lists; chunks of a
# tile whose places stay in registers where words are cleared.
_EARLY, _EARLY_CLEAR, _LATE = 5, 4, 4
_KEEP = 3


def instructions_per_element(code: CodeReport, variant: NativeVariant, sparsity: float) -> float:
    """Return lane instructions for each dense element of W.

    Parameters
    ----------
    code : CodeReport
        Of the compiled ``variant``.
    sparsity : float
        Fraction of zeros; of no influence on fragments of ``mma.sp``.

    Raises
    ------
    UnsupportedTargetError
        If the loops of the source are not to be found in the code.
    """
    if variant.format in FRAGMENTS:
        steps = variant.stages  # the ring is unrolled
        loop = _only(code, lambda c: _has(c, "HMMA") and _has(c, "LDGSTS"))
        return loop * _LANES / (steps * (variant.block_rows // _WARPS) * STEP)

    at = min(
        (loop.total(), at)
        for at, loop in enumerate(code.loops)
        if _has(loop, "LDSM") and _has(loop, "IDP") and not _has(loop, "BAR")
    )[1]
    total = float(code.loops[at].total())
    # Where it is a loop, the multiplication runs twice a tile.
    total += _at_most_one(code, _multiplies)
    length, over = expected_lists(sparsity, 1 if variant.values else 2)
    chunks, spilt = length // (WORDS // 16), over * 2  # of a lane: two lists
    early = _EARLY_CLEAR if variant.clear else _EARLY
    late = _only(code, lambda c: _scatters(c, _LATE))
    total += (math.ceil(max(spilt - early, 0) / _LATE) - 1) * late
    if variant.clear:
        # Lists beyond _KEEP chunks are read again, by a loop that scatters them and one that clears.
        again = [loop.total() for loop in code.loops if _has(loop, "IDP") == 8]
        total += (max(chunks - _KEEP, 0) - 1) * sum(again)
        one = _only(code, lambda c: _scatters(c, 1))
        total += (math.ceil(max(spilt - early, 0)) - 1) * one
        lists = [
            block.total()
            for block in code.blocks[at]
            if block["STS.U16"] == 8 and not _has(block, "LDG") and not _has(block, "LDSM")
        ]
        if len(again) != 2 or len(lists) != 2 * _KEEP:
            raise UnsupportedTargetError("lists of the source are missing from the machine code")
        total -= sum(lists[chunks:_KEEP]) + sum(lists[_KEEP + chunks :])
    else:
        pairs = _only(code, lambda c: _has(c, "IDP") == 16 and not _has(c, "LDSM"))
        total += (chunks // 2 - 1) * pairs
    return total * _LANES / (ROWS * STEP)


def is_meant_for(variant: NativeVariant, sparsity: float) -> bool:
    """Return whether a layer of uniformly random zeros takes this form and not the other one."""
    if variant.format in FRAGMENTS:
        return True
    shape = (ROWS * STEP, ROWS * STEP)
    values = variant.values or variant.dtype
    stored = formats.get(variant.format).expected_bytes(shape, sparsity, values)
    return clears(variant.format, stored / math.prod(shape), variant.values) == variant.clear


def _multiplies(loop: Counter[str]) -> bool:
    """Whether a loop is the multiplication alone."""
    return bool(_has(loop, "LDSM") and not _has(loop, "IDP") and not _has(loop, "BAR"))


def _scatters(loop: Counter[str], entries: int) -> bool:
    """Whether a loop does nothing but scatter that many overflow entries."""
    alone = not any(_has(loop, each) for each in ("IDP", "LDSM", "HMMA"))
    return alone and loop["STS.U16"] == entries


def _has(loop: Counter[str], base: str) -> int:
    return sum(n for opcode, n in loop.items() if opcode.split(".")[0] == base)


def _only(code: CodeReport, wanted: Callable[[Counter[str]], object]) -> int:
    """Return the instructions of the smallest loop that is as wanted."""
    if not (found := _at_most_one(code, wanted)):
        raise UnsupportedTargetError("a loop of the source is missing from the machine code")
    return found


def _at_most_one(code: CodeReport, wanted: Callable[[Counter[str]], object]) -> int:
    """Return as :func:`_only` does, 0 if there is none."""
    return min((loop.total() for loop in code.loops if wanted(loop)), default=0)
