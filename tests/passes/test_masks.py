"""Masks keep exactly what they promise, the best scores first, ties by position."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsec.passes.masks.block import block_scores, expand_blocks
from sparsec.passes.masks.nm import nm_mask
from sparsec.passes.masks.topk import kept, top_mask

# Few distinct values, so that ties are the rule.
scores = st.integers(0, 5).map(float)


@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
def test_nm_keeps_the_best_n_of_every_group_and_the_lower_index_of_ties(
    data, n, more, rows, groups
):
    m = n + more
    score = data.draw(hnp.arrays(np.float32, (rows, groups * m), elements=scores))
    mask = nm_mask(score, n, m)
    for row in range(rows):
        for start in range(0, groups * m, m):
            group = score[row, start : start + m]
            best = sorted(range(m), key=lambda i: (-group[i], i))[:n]
            assert sorted(np.flatnonzero(mask[row, start : start + m])) == sorted(best)


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=scores), st.integers(0, 40))
def test_top_mask_equals_a_stable_sort(score, keep):
    keep = min(keep, score.size)
    expected = np.zeros(score.size, bool)
    expected[np.argsort(-score, kind="stable")[:keep]] = True
    np.testing.assert_array_equal(top_mask(score, keep), expected)


@given(st.integers(1, 10_000), st.floats(0.001, 0.999))
def test_kept_is_within_half_an_entry(size, sparsity):
    assert abs((size - kept(size, sparsity)) - size * sparsity) <= 0.5


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_block_scores_are_the_energy_of_each_block(out, reduction, rows, cols):
    score = np.random.default_rng(0).random((out, reduction)).astype(np.float32)
    blocks = block_scores(score, rows, cols)
    for i in range(blocks.shape[0]):
        for j in range(blocks.shape[1]):
            part = score[i * rows : (i + 1) * rows, j * cols : (j + 1) * cols]
            np.testing.assert_allclose(blocks[i, j], np.square(part.astype(np.float64)).sum())
    assert expand_blocks(blocks > 0, rows, cols, score.shape).shape == score.shape
