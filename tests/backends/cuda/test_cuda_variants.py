"""Compiled forms of the Triton kernels, for every target: none spills."""

import functools
import itertools

import pytest
from covering import cover

from sparsec.backends.cuda import aot, formats
from sparsec.backends.cuda.cost import INSTRUCTIONS
from sparsec.backends.cuda.formats.values import is_scaled
from sparsec.backends.cuda.variants import FORMATS, SPARSE_MMA, unpack_variant, variants_for
from sparsec.ir.errors import UnsupportedTargetError

pytest.importorskip("triton", reason="compiling needs triton: pip install sparsec[cuda]")

ARCHS = ("sm80", "sm89", "sm90", "sm100", "sm120", "gfx942")
COLUMNS = (768, 576, 96, 100)  # a long step, a short one, ragged, and unaligned too
ENDS = (  # bias, residual, activation
    (False, False, "none"),
    (True, False, "none"),
    (True, False, "relu"),
    (True, False, "gelu"),
    (False, True, "silu"),
    (True, True, "gelu_tanh"),
)


def weights():
    """Yield target, format, type of values, type of x, and whether scales go by groups."""
    for arch, form in itertools.product(ARCHS, FORMATS + SPARSE_MMA):
        if arch == "gfx942" and form in ("block8x1", *SPARSE_MMA):
            continue  # not offered there
        for values in formats.get(form).values:
            if not is_scaled(values):
                yield arch, form, values, values, False
            elif form not in SPARSE_MMA:
                for dtype, grouped in itertools.product(("float16", "bfloat16"), (False, True)):
                    yield arch, form, values, dtype, grouped


@functools.cache
def products():
    """Return some products: every choice meets every format and its number of rows of x."""
    found = {}
    for arch, form, values, dtype, grouped in weights():
        for columns in COLUMNS:
            kinds = variants_for(columns, dtype, arch, form=form, values=values, grouped=grouped)
            for variant in kinds:
                for end, wide, split in itertools.product(ENDS, (False, True), (False, True)):
                    questions = (
                        *((form, variant.bucket), (form, values), values, arch),
                        *(dtype, grouped, columns, end, wide, split),
                    )
                    found[questions] = None
    return [_product(*chosen) for chosen in cover(list(found))]


def _product(tile, stored, values, arch, dtype, grouped, columns, end, wide, split):
    (form, bucket), (bias, residual, act) = tile, end
    variant = next(
        each
        for each in variants_for(
            columns, dtype, arch, form=form, values=values, grouped=grouped,
            out="float32" if wide else "", bias=bias, residual=residual, act=act,
        )
        if each.bucket == bucket
    )  # fmt: skip
    chain = variant.split_form() if split or form in SPARSE_MMA else (variant,)
    return [each for each in (variant.before(), *chain) if each]


@functools.cache
def unpacking():
    """Return some of the kernels that unpack: every choice meets every other."""
    found = [
        (form, values, arch, dtype, grouped, columns)
        for arch, form, values, dtype, grouped in weights()
        for columns in (96, 100)
        if form not in SPARSE_MMA  # nvcc's
    ]
    return [
        unpack_variant(form, columns, values, dtype, arch, grouped=grouped)
        for form, values, arch, dtype, grouped, columns in cover(found)
    ]


def every(columns):
    """Yield every variant that a layer of K = ``columns`` with a bias can need, with its companions."""
    for arch, form, values, dtype, grouped in weights():
        if form not in SPARSE_MMA:
            yield unpack_variant(form, columns, values, dtype, arch, grouped=grouped)
        for variant in variants_for(
            columns, dtype, arch, form=form, values=values, grouped=grouped, bias=True
        ):
            yield from (variant, *variant.split_form())
            if before := variant.before():
                yield before


@functools.cache
def chosen():
    return list(dict.fromkeys([*itertools.chain.from_iterable(products()), *unpacking()]))


# Instructions of the main loop for each weight, in those that the cost model takes (16 rows of x on sm_90):
# where K is a multiple of a long step and scales go by rows, and elsewhere. What was counted, rounded up.
SHARES = {
    ("nm_gemv", 1): (1.15, 3.6),
    ("nm_matmul", 16): (1.6, 1.6),
    ("nm_matmul", 32): (1.25, 1.8),
    ("nm_matmul", 64): (1.6, 2.3),
    ("bitmap_gemv", 1): (1.0, 1.0),
    ("bitmap_matmul", 16): (1.1, 1.1),
    ("bitmap_matmul", 32): (1.15, 1.25),
    ("bitmap_matmul", 64): (1.1, 1.8),
    ("block_matmul", 16): (1.1, 1.65),
    ("block_matmul", 32): (1.9, 2.0),
    ("block_matmul", 64): (3.0, 3.25),
    ("sp_matmul", 16): (1.3, 1.8),
    ("sp_matmul", 32): (2.0, 3.2),
    ("sp_matmul", 64): (3.75, 5.4),
}
# Where the loop is what the longest jump back spans: on sm_100 that jump takes in what finishes a tile, and
# gfx942 has no instructions of ours to decode with.
COUNTED = ("sm80", "sm89", "sm90", "sm120")


def problems(variant):
    """Yield what is wrong with the machine code of a variant."""
    try:
        kernel = aot.compile_variant(variant)  # looks for tensor cores, stack and spills
    except UnsupportedTargetError as error:
        yield str(error)
        return
    if not variant.format or variant.unpacks or variant.arch not in COUNTED:
        return
    spent = kernel.code.loop_per_element(variant.rows * variant.step, kernel.launch["threads"])
    wide = variant.kernel != "nm_gemv" or variant.step == 256
    plain = variant.even and wide and not variant.grouped
    allowed = SHARES[variant.kernel, variant.bucket][0 if plain else 1]
    allowed *= INSTRUCTIONS[variant.format][is_scaled(variant.values)]
    if spent > allowed:
        yield f"{variant.name}: {spent:.2f} instructions of {allowed:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_what_is_compiled_keeps_to_registers_and_its_budget(arch, every_variant):
    wanted = chosen()
    if every_variant:
        wanted = [*wanted, *every(768), *every(100)]
    wanted = dict.fromkeys(each for each in wanted if each.arch == arch)
    failed = [text for variant in wanted for text in problems(variant)]
    assert not failed, "\n".join(failed)
    assert len(wanted) > 40


@pytest.mark.slow
def test_the_selection_is_of_all_that_can_meet():
    def meetings(variants):
        found = [each for each in variants if each.format and not each.unpacks]
        return {(each.format, each.values, each.arch) for each in found} | {
            (each.format, each.bucket, each.arch) for each in found
        }

    everything = meetings(each for columns in COLUMNS for each in every(columns))
    assert meetings(itertools.chain.from_iterable(products())) == everything
    assert len(everything) > 350


def test_variants_have_names_of_their_own():
    found = dict.fromkeys(each for columns in COLUMNS for each in every(columns))
    assert len({each.name for each in found}) == len(found) > 4000
