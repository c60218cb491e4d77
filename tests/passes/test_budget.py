"""One budget over many layers is what one stable sort of all scores would choose."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsec.ir.errors import PassConfigError
from sparsec.passes.budget import check_budget, global_kept

ties = st.integers(0, 4).map(float)
spread = st.floats(0, 2.0**100, width=32)
arrays = st.lists(
    st.one_of(
        hnp.arrays(np.float32, st.integers(1, 30), elements=ties),
        hnp.arrays(np.float32, st.integers(1, 30), elements=spread),
        hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1e300)),
    ),
    min_size=1,
    max_size=5,
)


@given(arrays, st.floats(0.01, 0.99))
def test_counts_equal_the_sort_ties_in_order(layers, sparsity):
    everything = np.concatenate([layer.astype(np.float64) for layer in layers])
    keep = everything.size - round(everything.size * sparsity)
    chosen = np.zeros(everything.size, bool)
    chosen[np.argsort(-everything, kind="stable")[:keep]] = True
    parts = np.split(chosen, np.cumsum([layer.size for layer in layers])[:-1])
    expected = [max(int(part.sum()), 1) for part in parts]
    assert global_kept(lambda: iter(layers), sparsity) == expected


def test_the_two_zeros_are_one_score():
    assert global_kept(lambda: iter([np.array([-0.0, 0.0, 1.0, 2.0])]), 0.5) == [2]


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_what_is_no_sparsity_is_refused(sparsity):
    with pytest.raises(PassConfigError, match="name: sparsity is the fraction of zeros"):
        check_budget("name", sparsity, "layer")


def test_an_unknown_scope_is_refused():
    with pytest.raises(PassConfigError, match="scope must be layer or global, got 'model'"):
        check_budget("name", 0.5, "model")
