"""The CUDA C++ kernels by NVRTC, which needs neither nvcc nor a GPU: what it makes of them."""

import pytest

from sparsec.backends.cuda import nvcc
from sparsec.backends.cuda.issue import instructions_per_element
from sparsec.backends.cuda.native import FRAGMENTS, NATIVE, NativeVariant
from sparsec.backends.cuda.sass import check_code, read_code

pytest.importorskip("triton", reason="the disassembler comes with triton")
if nvcc.find_nvrtc() is None:
    pytest.skip("NVRTC is absent: pip install nvidia-cuda-nvrtc", allow_module_level=True)

SHAPES = [(True, True), (True, False), (False, False)]  # K a multiple of 8, of 64


@pytest.fixture(autouse=True)
def _without_nvcc(monkeypatch):
    monkeypatch.setattr(nvcc, "find_nvcc", lambda: None)


@pytest.mark.parametrize("sm", [80, 89, 90, 120])
@pytest.mark.parametrize("form", NATIVE)
def test_every_form_compiles_as_it_has_to(form, sm):
    assert nvcc.why_not(sm) is None
    for (aligned, even), dtype in zip(SHAPES, ("float16", "bfloat16", "float16"), strict=True):
        variant = NativeVariant(form, dtype, sm, 16, aligned, even)
        kernel = nvcc.compile_native(variant)  # checks for tensor cores, stack and spills
        assert kernel.cubin.startswith(b"\x7fELF")
        assert f".target sm_{sm}" in kernel.ptx
        assert f".entry {variant.entry}(" in kernel.ptx
        assert not kernel.ptx.endswith("\0")
        sparse = any(opcode.startswith("HMMA.SP") for opcode in kernel.code.opcodes)
        assert sparse == (form in FRAGMENTS)


@pytest.mark.parametrize("form", NATIVE)
def test_it_spends_the_instructions_that_nvcc_spends(form, monkeypatch):
    variant = NativeVariant(form, "float16", 90, 16)
    mine = nvcc.compile_native(variant).code
    monkeypatch.undo()
    if nvcc.find_nvcc() is None:
        pytest.skip("there is no nvcc to compare with")
    cubin, _ = nvcc._by_nvcc(variant)
    check_code(theirs := read_code(cubin), variant.name, 90, variant.tensor_op)
    ours, wanted = (instructions_per_element(code, variant, 0.5) for code in (mine, theirs))
    assert abs(ours / wanted - 1) < 0.1
    assert abs(mine.registers - theirs.registers) <= 16


def test_what_does_not_compile_is_an_error_with_the_compilers_words(monkeypatch):
    monkeypatch.setattr(nvcc, "source_text", lambda variant: "int f( { return 0; }")
    with pytest.raises(nvcc.UnsupportedTargetError, match="expected"):
        nvcc.compile_native(NativeVariant("lps", "float16", 90, 16))


def test_where_nvcc_fails_nvrtc_compiles(monkeypatch, tmp_path):
    """nvcc may be older than the instructions of the kernels, or find no host compiler."""
    broken = tmp_path / "nvcc"
    broken.write_text("#!/bin/sh\necho too old >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(nvcc, "find_nvcc", lambda: broken)
    variant = NativeVariant("nm24_sp", "float16", 90, 8)
    assert nvcc.compile_native(variant).cubin.startswith(b"\x7fELF")
    monkeypatch.setattr(nvcc, "find_nvrtc", lambda: None)
    with pytest.raises(nvcc.UnsupportedTargetError, match="too old"):
        nvcc.compile_native(variant)
