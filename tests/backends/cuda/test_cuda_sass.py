from collections import Counter

import pytest

from sparsec.backends.cuda import sass
from sparsec.backends.cuda.sass import CodeReport, check_code, read_code
from sparsec.ir.errors import UnsupportedTargetError


def report(stack=0, loop=10, **opcodes):
    return CodeReport(
        64, stack, Counter({k.replace("_", "."): n for k, n in opcodes.items()}), loop
    )


def test_good_code_passes():
    check_code(report(HMMA_16816_F32=8, LDG_E_128=4), "kernel", 80)
    check_code(report(HGMMA_64x16x16_F32=4), "kernel", 90)
    check_code(report(UTCHMMA_gdesc=4), "kernel", 100)


@pytest.mark.parametrize(
    ("bad", "sm", "message"),
    [
        (report(FFMA=99), 80, "no HMMA instruction"),
        (report(HMMA_16816_F32=8), 90, "no HGMMA instruction"),
        (report(HMMA_16816_F32=8, stack=32), 80, "32 bytes of stack"),
        (report(HMMA_16816_F32=8, LDL_64=2, STL=1), 86, r"spills registers \(3 local"),
    ],
)
def test_bad_code_is_an_error_with_a_way_out(bad, sm, message):
    with pytest.raises(UnsupportedTargetError, match=message) as caught:
        check_code(bad, "kernel", sm)
    assert "pip install triton==" in caught.value.message
    assert caught.value.exit_code == 4


def test_counting_is_by_instruction_not_by_prefix():
    assert report(LDGSTS_E_128=3, LDG_E=2).count("LDG") == 2
    assert report(LDGSTS_E_128=3, LDG_E=2).count("LDG", "LDGSTS") == 5


LISTING = """
  Function : kernel REG:8 STACK:0
        /*0000*/                   MOV R1, R2 ;
        /*0010*/              @!P0 BRA 0x50 ;
        /*0020*/                   BRA.U UP0, 0x40 ;
        /*0030*/                   FFMA R1, R1, R1, R1 ;
        /*0040*/                   BRA 0x60 ;
        /*0050*/                   FADD R1, R1, R1 ;
        /*0060*/              @P1 BRA 0x0 ;
        /*0070*/                   EXIT ;
"""


def test_the_ways_through_a_loop_are_those_of_its_branches(monkeypatch):
    monkeypatch.setattr(sass, "_cuobjdump", lambda: "")
    monkeypatch.setattr(sass, "_run", lambda *_: LISTING)
    code = read_code(b"")
    assert [sorted(each) for each in code.blocks[0]] == [
        ["BRA", "MOV"],
        ["BRA.U"],
        ["FFMA"],
        ["BRA"],
        ["FADD"],
        ["BRA"],
    ]
    assert code.ways[0] == ((1, 4), (2, 3), (3,), (5,), (5,), ())


def test_what_is_no_cubin_is_an_error():
    pytest.importorskip("triton", reason="the disassembler comes with triton")
    with pytest.raises(UnsupportedTargetError, match="cuobjdump"):
        read_code(b"not a cubin")


def test_kernels_without_products_need_no_matrix_instruction():
    check_code(report(FFMA=99), "kernel", 80, "")
    with pytest.raises(UnsupportedTargetError, match="stack"):
        check_code(report(FFMA=99, stack=8), "kernel", 80, "")
