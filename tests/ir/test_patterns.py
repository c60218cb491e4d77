"""Patterns: how they are written, and which zeros they allow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.ir.errors import PatternError
from sparsec.ir.patterns import NM, Block, Unstructured, from_metadata, parse_pattern, to_metadata

patterns = st.one_of(
    st.just(Unstructured()),
    st.tuples(st.integers(1, 16), st.integers(1, 16)).map(lambda t: NM(t[0], t[0] + t[1])),
    st.builds(Block, st.integers(1, 64), st.integers(1, 64)),
)


@given(patterns, st.integers(0, 5))
def test_text_and_metadata_round_trip(pattern, axis):
    assert parse_pattern(str(pattern)) == pattern
    assert from_metadata(to_metadata(pattern, axis)) == pattern


@pytest.mark.parametrize("text", ["", "2:", "4:2", "0:4", "block:4", "block:0x1", "dense", "2:4 "])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(PatternError):
        parse_pattern(text)


@pytest.mark.parametrize("text", ["2:4@", "2:4@x", "@1", "2:4@1@2"])
def test_metadata_that_is_no_pattern_is_refused(text):
    with pytest.raises(PatternError):
        from_metadata(text)


def test_a_full_group_is_named():
    matrix = np.zeros((3, 8), np.float32)
    matrix[1, 4:7] = 1
    with pytest.raises(PatternError, match="layer: not 2:4: row 1, columns 4 to 7 hold 3 non-zero"):
        NM(2, 4).check(matrix, "layer")
    NM(3, 4).check(matrix)


def test_a_reduction_that_does_not_divide_is_named():
    with pytest.raises(PatternError, match=r"layer: 2:4 needs a reduction .* multiple of 4, got 6"):
        NM(2, 4).check(np.zeros((1, 6), np.float32), "layer")


def test_the_other_patterns_allow_every_matrix():
    for pattern in (Unstructured(), Block(4, 1)):
        pattern.check(np.ones((3, 5), np.float32), "layer")
