import functools
import re

import pytest

from sparsec.backends.cuda import aot, formats
from sparsec.backends.cuda.cost import INSTRUCTIONS
from sparsec.backends.cuda.formats.nm24 import packed_bytes
from sparsec.backends.cuda.variants import BUCKETS, FORMATS, shares, variants_for
from sparsec.ir.errors import UnsupportedTargetError

pytest.importorskip("triton", reason="compiling needs triton: pip install sparsec[cuda]")

COLUMNS = {"long step": 768, "short step": 576, "ragged": 96, "unaligned": 100}
TENSOR_OP = {"sm80": "HMMA", "sm89": "HMMA", "sm90": "HGMMA", "sm100": "UTCHMMA", "sm120": "HMMA"}

# Instructions a dense weight in the main loop. An H200 at 1.755 GHz issues 29.7e12 of them a second
# and reads 4.3e12 / 1.125 packed weights: with more than 7.8 the kernel waits for itself.
H200_BUDGET = 7.8
H200_BUDGET_75 = 3.9  # the same for the 0.5625 bytes an element of 1:4


@functools.cache  # a second or so each, and several tests look at the same one
def compiled(columns, arch, bucket=16, form="nm24", values="", **what):
    dtype = what.pop("dtype", "float16")
    variants = variants_for(columns, dtype, arch, form=form, values=values, **what)
    return aot.compile_variant(next(v for v in variants if v.bucket == bucket))


def per_element(kernel):
    elements = kernel.variant.rows * kernel.variant.step
    return kernel.code.loop_per_element(elements, kernel.launch["threads"])


@pytest.mark.parametrize("arch", ["sm80", "sm90"])
@pytest.mark.parametrize("bucket", BUCKETS[1:])
def test_even_kernels_use_tensor_cores_within_the_instruction_budget(arch, bucket):
    kernel = compiled(COLUMNS["long step"], arch, bucket, bias=True)
    code = kernel.code
    assert code.tensor_op == TENSOR_OP[arch]
    assert (code.stack, code.count("LDL", "STL")) == (0, 0)
    assert 2.0 < per_element(kernel) < H200_BUDGET
    assert code.registers <= (128 if bucket < 64 else 168)  # no fewer than 3 blocks on a processor


@pytest.mark.parametrize(
    ("form", "values"),
    [
        pytest.param(form, values, marks=() if values == "float16" else pytest.mark.slow)
        for form in FORMATS
        for values in ("float16", "float8_e4m3fn")
        if values in formats.get(form).values
    ],
)
def test_kernels_keep_to_the_instructions_that_the_cost_model_assumes(form, values):
    kernel = compiled(4096, "sm90", 16, form, values, bias=True)
    assumed = INSTRUCTIONS[form][values != "float16"]
    assert 0.7 * assumed < per_element(kernel) <= assumed
    assert kernel.code.registers <= 128


@pytest.mark.parametrize("form", ["nm1_4", "nm2_8"])
@pytest.mark.parametrize("arch", ["sm80", "sm90"])
def test_three_quarters_of_zeros_decode_in_the_registers_of_the_operand(form, arch):
    kernel = compiled(4096, arch, 16, form, bias=True)
    assert kernel.variant.local
    assert per_element(kernel) < H200_BUDGET_75
    loop = max(kernel.code.loops, key=lambda each: each.total())
    assert not any(opcode.startswith("ST") for opcode in loop), "decoded tiles pass through memory"
    assert kernel.code.tensor_op == TENSOR_OP[arch]


def test_reductions_of_other_lengths_take_the_general_tiles():
    for columns, local in ((4096, True), (384, True), (576, False), (100, False)):
        found = variants_for(columns, "float16", "sm90", form="nm2_8")
        assert [variant.local for variant in found] == [local] * len(found)
    assert not any(v.local for v in variants_for(4096, "float16", "sm100", form="nm2_8"))
    assert not any(
        v.local for v in variants_for(4096, "float16", "sm90", form="nm2_8", values="int8")
    )


@pytest.mark.parametrize("arch", ["sm80", "sm90"])
def test_packed_weights_are_loaded_16_bytes_at_a_time(arch):
    kernel = compiled(COLUMNS["long step"], arch, bias=True)
    variant, opcodes = kernel.variant, kernel.code.opcodes
    wide = sum(n for op, n in opcodes.items() if op.startswith("LDGSTS") and op.endswith(".128"))
    threads = 32 * variant.num_warps
    stages = variant.num_stages  # two prefetches before the loop, one inside
    values = variant.rows * variant.step // 4 * 4 // (16 * threads)
    activations = variant.bucket * variant.step * 2 // (16 * threads)
    assert wide == stages * (values + activations)


@pytest.mark.parametrize("form", ["nm1_4", "nm2_8", "nm8_16", "block16x1"])
def test_other_formats_are_loaded_16_bytes_at_a_time_too(form):
    opcodes = compiled(4096, "sm90", 16, form, "float16", bias=True).code.opcodes
    assert sum(n for op, n in opcodes.items() if re.match(r"LDG.*\.128$", op)) >= 6


@pytest.mark.parametrize(
    ("arch", "columns"),
    [
        # Every architecture with two reductions; the others wait for the long suite.
        pytest.param(
            arch,
            columns,
            id=f"{arch}-{name}",
            marks=() if (i + j) % 2 == 0 else pytest.mark.slow,
        )
        for i, arch in enumerate(sorted(TENSOR_OP))
        for j, (name, columns) in enumerate(COLUMNS.items())
    ],
)
def test_every_reduction_compiles_for_every_architecture(arch, columns):
    kernel = compiled(columns, arch, bias=True)
    assert kernel.code.tensor_op == TENSOR_OP[arch]
    assert kernel.cubin.startswith(b"\x7fELF")
    assert re.search(rf"\.target sm_{arch[2:]}a?\b", kernel.ptx)


@pytest.mark.parametrize(
    ("arch", "form", "bucket"), [("sm89", "block16x1", 32), ("sm80", "bm32", 64)]
)
def test_split_sums_stay_in_registers(arch, form, bucket):
    variants = variants_for(768, "float16", arch, form=form, bias=True)
    (variant,) = (each.split_form()[0] for each in variants if each.bucket == bucket)
    code = aot.compile_variant(variant).code  # one warp less, or one stage more, spilled
    assert (code.stack, code.count("LDL", "STL")) == (0, 0)


@pytest.mark.parametrize("form", ["nm24", "bm32", "block16x1"])
def test_amd_kernels_use_matrix_instructions_and_no_scratch(form):
    kernel = compiled(768, "gfx942", 16, form, bias=True)
    assert kernel.code.tensor_op == "MFMA"
    assert (kernel.code.stack, kernel.launch["threads"]) == (0, 64 * kernel.variant.num_warps)
    assert kernel.launch["arch"] == "gfx942"
    assert kernel.cubin.startswith(b"\x7fELF")


def test_bfloat16_compiles_to_the_same_decode():
    half, brain = (
        compiled(384, "sm80", bias=True, dtype=dtype) for dtype in ("float16", "bfloat16")
    )
    assert brain.code.count("PRMT") == half.code.count("PRMT")
    assert any(op.startswith("HMMA") and op.endswith("BF16") for op in brain.code.opcodes)


def test_a_float32_result_is_stored_without_rounding():
    kernel = compiled(384, "sm80", bias=True, out="float32")
    assert kernel.variant.name.startswith("f16f32_")
    assert next(a for a in kernel.launch["arguments"] if a["name"] == "y")["dtype"] == "float32"
    rounded = compiled(384, "sm80", bias=True)
    assert (kernel.code.count("F2FP"), rounded.code.count("F2FP") > 0) == (0, True)
    assert kernel.code.tensor_op == "HMMA"


@pytest.mark.parametrize("form", ["nm24", "bm32", "block8x1"])
def test_launch_data_names_every_parameter_of_the_ptx_in_order(form):
    kernel = compiled(384, "sm80", 16, form, bias=True, residual=True, act="silu")
    entry = re.search(r"\.entry (\w+)\((.*?)\)", kernel.ptx, re.DOTALL)
    declared = re.findall(r"\.param \.(u\d+)", entry[2])
    widths = {"pointer": "u64", "scratch": "u64", "null_pointer": "u64", "value": "u32"}
    assert [widths[each["kind"]] for each in kernel.launch["arguments"]] == declared
    names = [each["name"] for each in kernel.launch["arguments"]]
    x = "xt" if form.startswith("block") else "x"
    expected = [x, *formats.get(form).arrays, "bias", "residual", "y", "M", "N", "K"]
    assert names[: len(expected)] == expected
    assert kernel.launch["entry"] == entry[1]
    assert kernel.launch["threads"] == int(re.search(r"\.reqntid (\d+)", kernel.ptx)[1])


def test_a_split_kernel_leaves_the_epilogue_to_the_second_pass():
    (*_, variant) = variants_for(
        768, "float16", "sm90", form="nm1_4", values="int8", bias=True, residual=True, act="gelu"
    )
    first, second = variant.split_form()
    names = [[each["name"] for each in v.arguments()] for v in (first, second)]
    assert names[0] == ["x", "vals", "meta", "partial", "M", "N", "K"]
    assert names[1] == ["partial", "scale", "bias", "residual", "y", "M", "N", "split"]
    assert first.grid()[2] == {"of": "split", "per": 1}
    for each in (first, second):
        assert aot.compile_variant(each).launch["name"] == each.name


def test_k_is_split_until_programs_fill_the_processors():
    (variant,) = (v for v in variants_for(4096, "float16", "sm90") if v.bucket == 16)
    assert shares(28672, 4096, variant, 132) == 1  # 448 programs
    assert shares(4096, 4096, variant, 132) == 5  # 64 programs become 320
    assert shares(64, 4096, variant, 132) == 8  # and no more
    assert shares(64, 512, variant, 132) == 1  # a share keeps four steps
    (long,) = (v for v in variants_for(4096, "float16", "sm90", form="nm2_8") if v.bucket == 16)
    assert shares(64, 1024, long, 132) == 2  # or 512 columns


def test_the_grid_covers_every_output():
    rows, columns, _ = compiled(768, "sm80", bucket=32, bias=True).launch["grid"]
    assert (rows, columns) == ({"of": "M", "per": 64}, {"of": "N", "per": 32})


def test_cubins_carry_no_path_of_this_machine_and_repeat(tmp_path):
    first = compiled(384, "sm80", bias=True)
    again = aot.compile_variant(first.variant, tmp_path)
    assert first.cubin == again.cubin
    assert str(aot.SOURCES).encode() not in first.cubin
    assert str(aot.SOURCES) not in first.ptx


def test_variants_are_few_whatever_the_layers():
    layers = [(768, True), (1536, True), (2304, True), (3072, True), (768, True)]
    found = {v for k, b in layers for v in variants_for(k, "float16", "sm80", bias=b)}
    assert len(found) == len(BUCKETS)


def test_old_architectures_and_the_interpreter_are_refused(monkeypatch):
    (variant, *_) = variants_for(384, "float16", "sm75")
    with pytest.raises(UnsupportedTargetError, match="sm_75 has no tensor cores"):
        aot.compile_variant(variant)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "unset it" in aot.why_not("sm80")


def test_the_bytes_of_the_format_are_what_the_budget_assumes():
    assert packed_bytes(1024, 1024) / 1024**2 == 1.125
