"""How many instructions a CUDA C++ kernel spends on a weight, counted in its machine code.

A processor issues four warp instructions a clock. A kernel that spends more than the weight takes to arrive
is bound by that and not by memory, whatever it saves in bytes. The count is exact for the instructions of
the loops and takes the trip counts of uniformly random zeros; work once a launch is left out, and a branch
that a tile may skip counts as taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from sparsec.backends.cuda import formats
from sparsec.backends.cuda.formats.lps import ROWS, STEP, WORDS, expected_lists
from sparsec.backends.cuda.native import FRAGMENTS, NativeVariant, clears
from sparsec.backends.cuda.sass import CodeReport
from sparsec.ir.errors import UnsupportedTargetError

_LANES = 32
_WARPS = 4  # of nm_sp.cuh, beside each other
# Of lps.cu, of values of 16 and of 8 bits: overflow entries of a lane that are fetched before, and together
# after, the lists; chunks of a tile that stay in registers where words are cleared; chunks that are brought
# to the L2 cache at a time.
_EARLY, _EARLY_CLEAR, _LATE = (5, 3), (4, 2), 4
_KEEP, _BATCH = (3, 4), (6, 10)


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
    narrow, blocks = bool(variant.values), code.blocks[at]
    length, over = expected_lists(sparsity, 1 if narrow else 2)
    chunks, spilt = length // (WORDS // 16), over * 2  # of a lane: two lists
    rest = math.ceil(max(spilt - (_EARLY_CLEAR if variant.clear else _EARLY)[narrow], 0))
    # What a tile may not have: where it is, at how many places in the source, and how often it runs.
    runs: list[tuple[set[int], int, float]] = []
    runs.append((_where(blocks, lambda c: _scatters(c, _LATE)), 1, math.ceil(rest / _LATE)))
    if variant.clear:
        # The first two chunks of a tile together, or the first alone, then up to `keep` one by one. Those
        # beyond are read again, by a loop that scatters them and one that clears.
        keep = _KEEP[narrow]
        both = sorted(_where(blocks, lambda c: c["STS.U16"] == 16))
        runs.append((set(both), 2, chunks > 1))
        lists = _where(blocks, lambda c: c["STS.U16"] == 8 and not _has(c, "LDG"))
        for more in _behind(code.ways[at], both, lists):
            runs += [({each}, 1, chunks > chunk) for chunk, each in enumerate(more, 2)]
            lists -= {*more}
        runs.append((lists, 2, chunks == 1))
        runs.append((_where(blocks, _rereads), 2, max(chunks - keep, 0)))
        runs.append((_where(blocks, lambda c: _scatters(c, 1)), 1, rest))
        # The last chunks of the next tile are asked for by themselves.
        ask = {*sorted(_where(blocks, lambda c: _values(c) and not _has(c, "STS")))[-1:]}
        runs.append((ask, 1, chunks > keep - sum(_values(blocks[each]) for each in ask)))
        bring = _where(blocks, lambda c: _has(c, "CCTL") and not _has(c, "STS"))
        runs.append((bring, 1, chunks / _BATCH[narrow]))
    else:
        runs.append((_where(blocks, _is_pair), 1, chunks // 2))
        runs.append((_where(blocks, lambda c: c["STS.U16"] == 8), 1, chunks % 2))
    if len(runs) != (2 * keep + 3 if variant.clear else 3) or not all(
        each and len(each) % places == 0 for each, places, _ in runs
    ):
        raise UnsupportedTargetError("lists of the source are missing from the machine code")
    total = _longest(code, at, set().union(*(each for each, _, often in runs if often < 1)))
    for each, places, often in runs:
        copies = len(each) // places  # of a loop: ptxas may write its first turn before it
        size = sum(blocks[block].total() for block in each) / copies
        total += size * (often - copies if often >= 1 else often)
    # Where it is a loop, the multiplication runs twice a tile.
    total += min((loop.total() for loop in code.loops if _multiplies(loop)), default=0)
    return total * _LANES / (ROWS * STEP)


def is_meant_for(variant: NativeVariant, sparsity: float) -> bool:
    """Return whether a layer of uniformly random zeros takes this form and not the other one."""
    if variant.format in FRAGMENTS:
        return True
    shape = (ROWS * STEP, ROWS * STEP)
    values = variant.values or variant.dtype
    stored = formats.get(variant.format).expected_bytes(shape, sparsity, values)
    return clears(variant.format, stored / math.prod(shape), variant.values) == variant.clear


def _longest(code: CodeReport, at: int, absent: set[int]) -> float:
    """Return the instructions of the longest way through a loop once, past the blocks ``absent``."""
    sizes = [each.total() for each in code.blocks[at]]
    best = [sizes[0]] + [0] * (len(sizes) - 1)
    for here, later in enumerate(code.ways[at]):
        for each in later if best[here] else ():
            if each not in absent:
                best[each] = max(best[each], best[here] + sizes[each])
    if not best[-1]:
        raise UnsupportedTargetError("no way through the machine code is the one of the source")
    return best[-1]


def _behind(
    ways: tuple[tuple[int, ...], ...], heads: list[int], blocks: set[int]
) -> Iterator[list[int]]:
    """Yield, of every head, the blocks between it and the next one on a way through both."""
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        reached = _reach(ways, head)
        if following is not None:
            reached = {each for each in reached if following in _reach(ways, each)}
        yield sorted(reached & blocks)


def _reach(ways: tuple[tuple[int, ...], ...], start: int) -> set[int]:
    """Return the blocks that a way from ``start`` on can pass."""
    found: set[int] = set()
    for here in range(start, len(ways)):
        if here == start or here in found:
            found |= {*ways[here]}
    return found


def _multiplies(loop: Counter[str]) -> bool:
    """Whether a loop is the multiplication alone."""
    return bool(_has(loop, "LDSM") and not _has(loop, "IDP") and not _has(loop, "BAR"))


def _scatters(code: Counter[str], entries: int) -> bool:
    """Whether a loop, or a block, does nothing but scatter that many overflow entries."""
    alone = not any(_has(code, each) for each in ("IDP", "LDSM", "HMMA"))
    return alone and code["LDG.E.CONSTANT"] == entries == code["STS.U16"]


def _rereads(code: Counter[str]) -> bool:
    """Whether a loop, or a block, does nothing but read a chunk, and scatter or clear it."""
    return _has(code, "IDP") == 8 and code["STS.U16"] == 8 and _has(code, "LDG") > 0


def _is_pair(code: Counter[str]) -> bool:
    """Whether a loop, or a block, scatters two chunks while it reads others."""
    return _has(code, "IDP") == 16 and _has(code, "LDG") > 0 and not _has(code, "LDSM")


def _values(code: Counter[str]) -> int:
    """Return how many chunks' values are loaded."""
    return sum(n for opcode, n in code.items() if ".NA." in opcode)


def _has(loop: Counter[str], base: str) -> int:
    return sum(n for opcode, n in loop.items() if opcode.split(".")[0] == base)


def _where(blocks: Iterable[Counter[str]], wanted: Callable[[Counter[str]], object]) -> set[int]:
    """Return which blocks are as wanted."""
    return {at for at, block in enumerate(blocks) if wanted(block)}


def _only(code: CodeReport, wanted: Callable[[Counter[str]], object]) -> int:
    """Return the instructions of the smallest loop that is as wanted."""
    if not (found := [loop.total() for loop in code.loops if wanted(loop)]):
        raise UnsupportedTargetError("a loop of the source is missing from the machine code")
    return min(found)
