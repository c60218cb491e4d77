import functools
import re

import pytest

from sparsec.backends.cuda import aot
from sparsec.backends.cuda.formats.nm24 import packed_bytes
from sparsec.backends.cuda.variants import BUCKETS, variants_for
from sparsec.ir.errors import UnsupportedTargetError

pytest.importorskip("triton", reason="compiling needs triton: pip install sparsec[cuda]")

COLUMNS = {"long step": 384, "short step": 576, "ragged": 96, "unaligned": 100}
TENSOR_OP = {80: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}

# Instructions a dense weight in the main loop. An H200 at 1.755 GHz issues 29.7e12 of them a second
# and reads 4.3e12 / 1.125 packed weights: with more than 7.8 the kernel waits for itself.
H200_BUDGET = 7.8


@functools.cache  # a second or so each, and several tests look at the same one
def compiled(columns, sm, bucket=16, bias=True, dtype="float16"):
    variants = variants_for(columns, dtype, sm, bias)
    return aot.compile_variant(next(v for v in variants if v.bucket == bucket))


@pytest.mark.parametrize("sm", [80, 90])
@pytest.mark.parametrize("bucket", BUCKETS)
def test_even_kernels_use_tensor_cores_within_the_instruction_budget(sm, bucket):
    kernel = compiled(COLUMNS["long step"], sm, bucket)
    code, variant = kernel.code, kernel.variant
    assert code.tensor_op == TENSOR_OP[sm]
    assert (code.stack, code.count("LDL", "STL")) == (0, 0)
    elements = variant.rows * variant.step
    assert 2.0 < code.loop_per_element(elements, 32 * variant.num_warps) < H200_BUDGET
    assert code.registers <= (128 if bucket < 64 else 168)  # no fewer than 3 blocks on a processor


@pytest.mark.parametrize("sm", [80, 90])
def test_packed_weights_are_loaded_16_bytes_at_a_time(sm):
    kernel = compiled(COLUMNS["long step"], sm)
    variant, opcodes = kernel.variant, kernel.code.opcodes
    wide = sum(n for op, n in opcodes.items() if op.startswith("LDGSTS") and op.endswith(".128"))
    threads = 32 * variant.num_warps
    stages = variant.num_stages  # two prefetches before the loop, one inside
    values = variant.rows * variant.step // 4 * 4 // (16 * threads)
    activations = variant.bucket * variant.step * 2 // (16 * threads)
    assert wide == stages * (values + activations)


@pytest.mark.parametrize("sm", sorted(TENSOR_OP))
@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_every_reduction_compiles_for_every_architecture(sm, columns):
    kernel = compiled(columns, sm, bias=False)
    assert kernel.code.tensor_op == TENSOR_OP[sm]
    assert kernel.cubin.startswith(b"\x7fELF")
    assert re.search(rf"\.target sm_{sm}a?\b", kernel.ptx)


def test_bfloat16_compiles_to_the_same_decode():
    half, brain = (compiled(384, 80, dtype=dtype) for dtype in ("float16", "bfloat16"))
    assert brain.code.count("PRMT") == half.code.count("PRMT")
    assert any(op.startswith("HMMA") and op.endswith("BF16") for op in brain.code.opcodes)


def test_a_float32_result_is_stored_without_rounding():
    (variant, *_) = variants_for(384, "float16", 80, bias=True, out="float32")
    kernel = aot.compile_variant(variant)
    assert variant.name.startswith("f16f32_")
    assert next(a for a in kernel.launch["arguments"] if a["name"] == "y")["dtype"] == "float32"
    assert (kernel.code.count("F2FP"), compiled(384, 80).code.count("F2FP") > 0) == (0, True)
    assert kernel.code.tensor_op == "HMMA"


def test_launch_data_names_every_parameter_of_the_ptx_in_order():
    kernel = compiled(384, 80)
    entry = re.search(r"\.entry (\w+)\((.*?)\)", kernel.ptx, re.DOTALL)
    declared = re.findall(r"\.param \.(u\d+)", entry[2])
    widths = {"pointer": "u64", "null_pointer": "u64", "value": "u32"}
    assert [widths[each["kind"]] for each in kernel.launch["arguments"]] == declared
    names = [each["name"] for each in kernel.launch["arguments"]]
    assert names[:8] == ["x", "vals", "meta", "bias", "y", "M", "N", "K"]
    assert kernel.launch["entry"] == entry[1]
    assert kernel.launch["threads"] == int(re.search(r"\.reqntid (\d+)", kernel.ptx)[1])


def test_the_grid_covers_every_output():
    rows, columns, _ = compiled(384, 80, bucket=32).launch["grid"]
    assert (rows, columns) == ({"of": "M", "per": 64}, {"of": "N", "per": 32})


def test_cubins_carry_no_path_of_this_machine_and_repeat(tmp_path):
    first = compiled(384, 80)
    again = aot.compile_variant(first.variant, tmp_path)
    assert first.cubin == again.cubin
    assert str(aot.SOURCE.parent).encode() not in first.cubin
    assert str(aot.SOURCE.parent) not in first.ptx


def test_variants_are_few_whatever_the_layers():
    layers = [(384, True), (1536, True), (768, True), (3072, True), (384, True)]
    assert len({v for k, b in layers for v in variants_for(k, "float16", 80, b)}) == len(BUCKETS)
    names = [
        v.name
        for k in COLUMNS.values()
        for b in (True, False)
        for v in variants_for(k, "float16", 80, b)
    ]
    assert len(set(names)) == len(names)


def test_old_architectures_and_the_interpreter_are_refused(monkeypatch):
    (variant, *_) = variants_for(384, "float16", 75, bias=False)
    with pytest.raises(UnsupportedTargetError, match="sm_75 has no tensor cores"):
        aot.compile_variant(variant)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "unset it" in aot.why_not(80)


def test_the_bytes_of_the_format_are_what_the_budget_assumes():
    assert packed_bytes(1024, 1024) / 1024**2 == 1.125
