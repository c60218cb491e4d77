"""Compiled forms of the CUDA C++ kernels, for every architecture: no spills, instructions in budget."""

import functools
import itertools

import pytest
from covering import cover

from sparsec.backends.cuda import nvcc
from sparsec.backends.cuda.issue import instructions_per_element, is_meant_for
from sparsec.backends.cuda.native import (
    BUCKETS,
    FRAGMENTS,
    NATIVE,
    VALUES,
    NativeUnpack,
    NativeVariant,
    buckets,
)
from sparsec.ir.errors import UnsupportedTargetError

pytest.importorskip(
    "triton", reason="the disassembler comes with triton: pip install sparsec[cuda]"
)
if nvcc.why_not(90):
    pytest.skip(nvcc.why_not(90), allow_module_level=True)

SMS = (80, 89, 90, 100, 120)
DTYPES = ("float16", "bfloat16")
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
READS = {64: (True, True), 72: (True, False), 60: (False, False)}  # K: aligned, even


def products():
    """Yield every form of the kernels that multiply, as answers to what tells them apart."""
    forms = (*((each, False) for each in NATIVE), ("lps", True))
    for sm, bucket, dtype, values in itertools.product(SMS, BUCKETS, DTYPES, VALUES):
        for (form, clear), columns in itertools.product(forms, READS):
            if bucket in buckets(form, columns):
                yield (form, clear), dtype, sm, bucket, columns, values


def product(form, dtype, sm, bucket, columns, values):
    name, clear = form
    return NativeVariant(name, dtype, sm, bucket, *READS[columns], clear, values)


def unpacking():
    """Yield every form of the kernels that unpack."""
    for sm, dtype, values in itertools.product(SMS, DTYPES, VALUES):
        for form, aligned in (*((each, True) for each in NATIVE), ("lps", False)):
            yield form, dtype, sm, aligned, values


@functools.cache
def chosen(every):
    """Return what to compile: all, or some in which all answers to any three questions meet."""
    found = [list(products()), list(unpacking())]
    if not every:
        found = [cover(found[0], 3), cover(found[1], 2)]
    return [product(*each) for each in found[0]] + [NativeUnpack(*each) for each in found[1]]


# Lane instructions for a dense weight, by rows of x: what was counted on any of SMS, rounded up.
NM24_SP = {8: 0.6, 16: 0.7, 32: 0.7, 64: 1.05}
NM24_SP_SMALL = {8: 0.65, 16: 0.75, 32: 1.05, 64: 1.35}  # blocks of 128 rows: little shared memory
NM14_SP = {8: 1.4, 16: 1.45, 32: 1.45, 64: 1.85}
NM14_SP_SMALL = {8: 1.4, 16: 1.45, 32: 1.8, 64: 2.1}
IDLE = 0.4  # besides, on sm_120: a NOP of ptxas behind each HMMA.SP that no other follows
LPS = {
    8: (3.4, 2.8, 2.6, 1.9, 1.5),
    16: (3.5, 2.9, 2.75, 2.05, 1.6),
    32: (3.85, 3.25, 3.05, 2.25, 1.95),
    64: (4.7, 4.1, 3.9, 3.5, 3.1),
}
LPS_8 = {  # of 8-bit values and bfloat16
    8: (5.45, 4.5, 3.55, 2.95, 1.9),
    16: (5.6, 4.65, 3.7, 3.25, 2.15),
    32: (5.85, 4.9, 3.95, 3.15, 2.35),
    64: (6.6, 5.7, 4.8, 4.4, 3.4),
}
LPS_8_SHARE = (0.9, 0.9, 1.0, 1.0)  # of that, as for NM24_SP_WIDEN
# More than that where K is no multiple of 64, and where x is read in pieces too.
RAGGED = {
    **{form: dict.fromkeys(BUCKETS, 0.05) for form in FRAGMENTS},
    "lps": {8: 0.1, 16: 0.2, 32: 0.15, 64: 0.4},
}
PIECES = {
    **{form: {8: 0.1, 16: 0.1, 32: 0.1, 64: 0.2} for form in FRAGMENTS},
    "lps": {8: 0.7, 16: 1.4, 32: 1.7},
}
LPS_SM120 = {8: 0.0, 16: 0.0, 32: 0.35, 64: 1.3}  # more than that, as ptxas makes it there
# More than that of nm24_sp for 8-bit values: e4m3 by the conversion of sm_89 and up, int8, e4m3 by
# arithmetic, and all to bfloat16.
NM24_SP_WIDEN = (0.25, 0.75, 1.3, 1.65)  # half of it for nm14_sp


def budget(variant, sparsity):
    """Return the lane instructions that a form may spend on a dense weight."""
    width = 0 if variant.values == "float8_e4m3fn" else 1
    if variant.dtype == "bfloat16":
        width = 3
    elif not width and variant.sm == 80:
        width = 2
    if variant.format in FRAGMENTS:
        half = variant.format == "nm14_sp"
        tables = (NM14_SP, NM14_SP_SMALL) if half else (NM24_SP, NM24_SP_SMALL)
        allowed = tables[variant.block_rows == 128][variant.bucket]
        if variant.values:
            allowed += NM24_SP_WIDEN[width] / (1 + half)
    elif variant.values:
        allowed = LPS_8[variant.bucket][SPARSITIES.index(sparsity)] * LPS_8_SHARE[width]
    else:
        allowed = LPS[variant.bucket][SPARSITIES.index(sparsity)]
    if variant.format == "lps" and variant.sm == 120:
        allowed += LPS_SM120[variant.bucket]
    if not variant.even:
        allowed += (RAGGED if variant.aligned else PIECES)[variant.format][variant.bucket]
    return allowed


def idle(code, variant):
    """Return how many of the instructions for a weight are NOPs."""
    loop = min((each for each in code.loops if each["LDGDEPBAR"]), key=lambda each: each.total())
    return loop["NOP"] * 32 / (variant.stages * variant.block_rows // 4 * 64)


def problems(variant, folder):
    """Yield what is wrong with the machine code of a form."""
    try:
        code = nvcc.compile_native(variant, folder).code  # looks for stack, spills and tensor cores
    except UnsupportedTargetError as error:
        yield str(error)
        return
    if isinstance(variant, NativeUnpack):
        if code.registers > 64:
            yield f"{variant.name}: {code.registers} registers"
        return
    for sparsity in SPARSITIES if variant.format == "lps" else SPARSITIES[:1]:
        if not is_meant_for(variant, sparsity):
            continue
        spent, allowed = (
            instructions_per_element(code, variant, sparsity),
            budget(variant, sparsity),
        )
        if variant.format in FRAGMENTS and variant.sm == 120:
            if (nops := idle(code, variant)) > IDLE:
                yield f"{variant.name}: {nops:.2f} NOPs a weight"
            spent -= nops
        if not 0.4 < spent <= allowed:
            yield f"{variant.name} at {sparsity}: {spent:.2f} instructions of {allowed:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize("sm", SMS)
def test_what_is_compiled_keeps_to_registers_and_its_budget(sm, every_variant, tmp_path):
    wanted = [each for each in chosen(every_variant) if each.sm == sm]
    failed = [text for variant in wanted for text in problems(variant, tmp_path)]
    assert not failed, "\n".join(failed)
    assert len(wanted) > 15


def test_the_selection_lets_every_three_choices_meet():
    def meetings(variants):
        found = (each for each in variants if isinstance(each, NativeVariant))
        return {(each.format, each.clear, each.bucket, each.sm) for each in found}

    assert meetings(chosen(False)) == meetings(chosen(True))
    assert len(meetings(chosen(True))) == (len(NATIVE) + 1) * len(BUCKETS) * len(SMS)
    assert 60 < len(chosen(False)) < 150 < 1300 < len(chosen(True))
