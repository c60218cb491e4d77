from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.passes.calibration.moments import Moments
from sparsec.passes.calibration.quantiles import Quantiles
from sparsec.passes.calibration.statistics import Needs, Statistics

EVERYTHING = Needs(gram=True, extremes=True, quantiles=True)


def data(groups: int, rows: int, columns: int, seed: int, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(size=(groups, 1, columns)))
    centre = offset * rng.normal(size=(groups, 1, columns))
    return (rng.normal(size=(groups, rows, columns)) * scale + centre).astype(np.float32)


def close(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    """Relative to the geometric mean of the diagonal: the scale on which solvers use a Gram matrix."""
    d = np.sqrt(np.einsum("gii->gi", b))
    scale = d[:, :, None] * d[:, None, :] + 1e-30
    assert np.max(np.abs(a - b) / scale) < tolerance


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 3),
    columns=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_moments_equal_float64_whatever_the_blocks(groups, columns, cuts, offset, seed):
    x = data(groups, sum(cuts) or 1, columns, seed, offset)
    moments = Moments.empty(groups, columns, full=True)
    start = 0
    for rows in [*cuts, x.shape[1] - sum(cuts)]:
        moments.add(x[:, start : start + rows])
        start += rows
    wide = x.astype(np.float64)
    assert moments.count == x.shape[1]
    np.testing.assert_allclose(moments.mean, wide.mean(axis=1), rtol=1e-5, atol=1e-5)
    close(moments.gram(), np.swapaxes(wide, 1, 2) @ wide, 1e-5)
    np.testing.assert_allclose(moments.squares, np.square(wide).sum(axis=1), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(0, 40),
    second=st.integers(0, 40),
    full=st.booleans(),
    offset=st.sampled_from([0.0, 5.0]),
    seed=st.integers(0, 1000),
)
def test_two_halves_are_the_whole(first, second, full, offset, seed):
    x = data(2, first + second, 5, seed, offset)
    needs = Needs(gram=full, extremes=True, quantiles=True)
    whole, one, two = (Statistics.empty(2, 5, needs) for _ in range(3))
    whole.add(x)
    one.add(x[:, :first])
    two.add(x[:, first:])
    one.merge(two)
    assert one.count == whole.count
    np.testing.assert_allclose(one.mean, whole.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.norms, whole.norms, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(one.minimum, whole.minimum)
    np.testing.assert_array_equal(one.maximum, whole.maximum)
    np.testing.assert_array_equal(one.quantiles.counts, whole.quantiles.counts)
    if full:
        close(one.gram(), whole.gram(), 1e-5)


def test_the_centred_gram_stays_positive_definite_far_from_zero():
    """Taking the mean out of an uncentred float32 Gram matrix does not."""
    x = data(1, 4096, 32, seed=0) + np.float32(1000)
    moments = Moments.empty(1, 32, full=True)
    for start in range(0, 4096, 256):
        moments.add(x[:, start : start + 256])
    wide = x[0].astype(np.float64)
    wide -= wide.mean(axis=0)
    expected = wide.T @ wide
    close(moments.centred_gram(), expected[None], 1e-5)
    assert np.linalg.eigvalsh(moments.centred_gram()[0]).min() > 0

    naive = x[0].T @ x[0]
    mean = x[0].mean(axis=0)
    naive -= np.float32(4096) * np.outer(mean, mean)
    assert np.linalg.eigvalsh(naive.astype(np.float64)).min() < 0


@pytest.mark.parametrize("full", [False, True])
def test_many_rows_lose_no_digits(full):
    """A float32 sum of so many squares would be off in the third digit."""
    x = data(1, 1_000_000, 2, seed=0) + np.float32(3)
    moments = Moments.empty(1, 2, full)
    moments.add(x)
    exact = np.square(x.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(moments.squares, exact, rtol=1e-6)
    np.testing.assert_allclose(moments.variance, x.astype(np.float64).var(axis=1), rtol=1e-5)


def test_a_dead_column_is_exactly_zero():
    x = data(1, 100, 4, seed=3)
    x[:, :, 2] = 0
    for full in (False, True):
        parts = [Statistics.empty(1, 4, Needs(gram=full)) for _ in range(2)]
        parts[0].add(x[:, :10])
        parts[1].add(x[:, 10:])
        parts[0].merge(parts[1])
        assert parts[0].dead.tolist() == [[False, False, True, False]]
        assert parts[0].norms[0, 2] == 0.0


def test_a_column_of_a_constant_has_no_variance():
    x = np.full((1, 50, 1), 3.0, np.float32)
    statistics = Statistics.empty(1, 1, EVERYTHING)
    statistics.add(x)
    assert statistics.moments.variance[0, 0] == 0.0
    assert statistics.mean[0, 0] == 3.0
    assert not statistics.dead.any()


def test_no_rows_are_no_rows():
    statistics = Statistics.empty(2, 3, EVERYTHING)
    statistics.add(np.zeros((2, 0, 3), np.float32))
    assert statistics.count == 0
    assert not statistics.norms.any()
    with pytest.raises(ValueError, match="no quantile"):
        statistics.quantiles.quantile(0.5)


def test_they_survive_storage():
    statistics = Statistics.empty(2, 5, EVERYTHING)
    statistics.add(data(2, 30, 5, seed=1))
    again = Statistics.from_arrays(statistics.to_arrays())
    np.testing.assert_array_equal(again.gram(), statistics.gram())
    assert again.count == 30
    again.add(data(2, 7, 5, seed=2))
    assert again.count == 37


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
        min_size=1,
        max_size=200,
    ),
    fraction=st.floats(0, 1),
)
def test_quantiles_are_within_the_documented_error(values, fraction):
    sketch = Quantiles()
    sketch.add(np.array(values, np.float32))
    exact = np.sort(np.array(values, np.float32))[int(fraction * (len(values) - 1))]
    assert abs(float(sketch.quantile(fraction)) - float(exact)) <= 2**-8 * abs(float(exact))
    magnitudes = np.sort(np.abs(np.array(values, np.float32)))
    exact = magnitudes[int(fraction * (len(values) - 1))]
    found = float(sketch.magnitude().quantile(fraction))
    assert abs(found - float(exact)) <= 2**-8 * float(exact)


def test_the_plan_says_what_is_taken():
    for needs in (Needs(), Needs(gram=True), EVERYTHING):
        statistics = Statistics.empty(3, 40, needs)
        held = sum(array.nbytes for array in statistics.to_arrays().values())
        # Besides what is held, the plan counts the float32 product of one block.
        assert held <= needs.nbytes(3, 40) <= 1.6 * held + 3 * 40 * 8
