"""The decoders' inline assembly, as it stands in the source, for every place that values can take."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from ptx_emulator import assembly, run

import sparsec.backends.cuda as cuda
from sparsec.backends.cuda.formats.values import decode

SOURCE = (Path(cuda.__file__).with_name("kernels") / "nm_decode.py").read_text()
VALUES = [0x1234, 0xBEEF, 0x8001, 0x7C00, 0x0F0F, 0xFFFF, 0x3C00, 0x00FF]
DIRT = [0, 0xABCD]  # bits of other groups above the field


def words(values):
    return [low | high << 16 for low, high in zip(values[0::2], values[1::2], strict=True)]


def placed(columns, values, width):
    expected = [0] * width
    for column, value in zip(columns, values, strict=False):
        expected[column] = value
    return expected


def masked(columns):
    return sum(1 << column for column in columns)


@pytest.mark.parametrize("dirt", DIRT)
def test_2_4_places_every_pair(dirt):
    text = assembly(SOURCE, "decode_prmt")
    for columns in [*itertools.combinations(range(4), 2), ()]:
        got = run(text, 4, words(VALUES[:2])[0], masked(columns) | dirt << 4)
        assert got == placed(columns, VALUES, 4)


@pytest.mark.parametrize("dirt", DIRT)
def test_1_4_places_both_values(dirt):
    text = assembly(SOURCE, "prmt_1_4")
    for first, second in itertools.product(range(4), repeat=2):
        shifts = [8 * column | dirt << 5 for column in (first, second)]
        got = run(text, 8, words(VALUES[:2])[0], *shifts)
        assert got == placed([first, 4 + second], VALUES, 8)


@pytest.mark.parametrize("unit", range(4))
def test_2_8_places_every_pair(unit):
    text = assembly(SOURCE, "prmt_2_8")
    for first, second in itertools.combinations(range(8), 2):
        fields = [0x00, 0x75, 0x31, 0x42]  # of the other groups of the word
        fields[unit] = first | second << 4
        word = sum(field << 8 * at for at, field in enumerate(fields))
        firsts, seconds = word << 3 & 0x38383838, word >> 1 & 0x38383838
        got = run(text, 8, words(VALUES[:2])[0], firsts, seconds, 0x4440 + unit)
        assert got == placed([first, second], VALUES, 8)
    # What a kernel loads past the end of a row: nothing, from nothing.
    assert run(text, 8, 0, 0, 0, 0x4440 + unit) == [0] * 8


def test_4_8_places_every_four():
    text = assembly(SOURCE, "prmt_4_8")
    for columns in [*itertools.combinations(range(8), 4), ()]:
        got = run(text, 8, *words(VALUES[:4]), masked(columns))
        assert got == placed(columns, VALUES, 8)


def test_8_16_places_every_eight():
    text = assembly(SOURCE, "prmt_half_of_8_16")
    choices = list(itertools.combinations(range(16), 8))
    for columns in [*choices[::37], choices[0], choices[-1], ()]:
        mask = masked(columns)
        *low, a, b, c, d = run(text, 12, *words(VALUES), mask & 0xFF)
        *high, _, _, _, _ = run(text, 12, a, b, c, d, mask >> 8)
        assert low + high == placed(columns, VALUES, 16)


def test_bytes_become_the_halves_of_their_numbers():
    text = assembly(SOURCE, "subtract_1152")
    for first in range(256):
        pair = first | (first ^ 0x55) << 8
        biased = ((pair & 0xFF) | (pair & 0xFF00) << 8) ^ 0x64806480
        (word,) = run(text, 1, biased)
        halves = np.array([word & 0xFFFF, word >> 16], np.uint16)
        expected = np.array([first, first ^ 0x55], np.uint8).view(np.int8)
        assert decode(halves, "float16").tolist() == expected.tolist()
