"""The inline assembly of the kernel cannot be interpreted: its arithmetic is emulated here."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import sparsec.backends.cuda as cuda

SOURCE = Path(cuda.__file__).with_name("kernels") / "nm24_matmul.py"


def prmt(a: int, b: int, selector: int) -> int:
    """PTX ``prmt.b32`` in its default mode: byte i of the result is byte selector[i] of (b, a)."""
    pool = (a & 0xFFFFFFFF) | (b & 0xFFFFFFFF) << 32
    picked = 0
    for i in range(4):
        nibble = selector >> 4 * i & 0xF
        assert nibble < 8, "bit 3 would replicate the sign"
        picked |= (pool >> 8 * nibble & 0xFF) << 8 * i
    return picked


def tables() -> list[int]:
    """Return the two selector tables that stand in the kernel's source."""
    found = re.findall(r"mov\.b64 table, (0x[0-9a-f]{16});", SOURCE.read_text())
    assert len(found) == 2
    return [int(text, 16) for text in found]


def shifts() -> list[int]:
    """Return by how much the assembly shifts the mask left, for each half."""
    found = re.findall(
        r"shl\.b32 shift, \$5, (\d+);\s+and\.b32 shift, shift, 48;", SOURCE.read_text()
    )
    assert len(found) == 2
    return [int(text) for text in found]


@pytest.mark.parametrize("kept", [*itertools.combinations(range(4), 2), ()])
@pytest.mark.parametrize("dirt", [0, 0xABCD5])  # bits of later groups, above the nibble
def test_the_tables_place_every_pair(kept, dirt):
    mask = sum(1 << place for place in kept)
    pair = 0xBEEF_1234
    expected = np.zeros(4, dtype=np.uint16)
    for place, value in zip(kept, (0x1234, 0xBEEF), strict=False):
        expected[place] = value
    decoded = []
    for table, shift in zip(tables(), shifts(), strict=True):
        amount = ((mask | dirt << 4) << shift) & 48
        half = prmt(pair, 0, table >> amount & 0xFFFF)
        decoded += [half & 0xFFFF, half >> 16]
    assert decoded == expected.tolist()
