"""Fourier bases and filter banks are told from trained weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.ir.transforms import is_fixed_transform
from tests.graphs import normal


def fourier(length, window, part):
    angles = 2 * np.pi * np.outer(np.arange(length // 2 + 1), np.arange(length)) / length
    return (part(angles) * window(length)).astype(np.float32)


def hann_periodic(length):
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def mel(filters, bins):
    edges = np.geomspace(2, bins - 1, filters + 2)
    grid = np.arange(bins)
    rising = (grid - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - grid) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


@pytest.mark.parametrize("window", [np.ones, np.hanning, np.hamming, hann_periodic])
@pytest.mark.parametrize("part", [np.cos, np.sin])
@pytest.mark.parametrize("length", [64, 256, 400, 512])
def test_windowed_fourier_bases_are_fixed(window, part, length):
    assert is_fixed_transform(fourier(length, window, part))


@pytest.mark.parametrize("shape", [(16, 65), (40, 201), (80, 257)])
def test_mel_banks_are_fixed_either_way_up(shape):
    bank = mel(*shape)
    assert is_fixed_transform(bank)
    assert is_fixed_transform(bank.T.copy())


@given(st.integers(0, 50), st.integers(8, 64), st.integers(32, 128))
def test_random_weights_are_not(seed, rows, cols):
    weight = normal(rows, cols, seed=seed)
    assert not is_fixed_transform(weight)
    assert not is_fixed_transform(np.abs(weight))
    assert not is_fixed_transform(np.maximum(weight - 2.5, 0))  # sparse and non-negative


def test_an_outlier_does_not_make_the_rest_look_symmetric():
    weight = normal(64, 128)
    weight[0, 64] = 1e6
    assert not is_fixed_transform(weight)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_does_not_matter(scale):
    """Nor does it overflow, with a warning among the output of the command line."""
    basis = fourier(64, np.hanning, np.cos)
    assert is_fixed_transform(basis * np.float32(scale))
    assert not is_fixed_transform(normal(64, 128) * np.float32(scale))


def test_weights_that_are_no_numbers_are_not():
    weight = normal(64, 128)
    weight[3, 4], weight[5, 6] = np.inf, np.nan
    assert not is_fixed_transform(weight)


def test_zeros_constants_and_small_matrices_are_not():
    assert not is_fixed_transform(np.zeros((64, 64), np.float32))
    assert not is_fixed_transform(np.eye(4, dtype=np.float32))


def test_symmetric_kernels_of_a_blur_are_too_small_to_judge():
    assert not is_fixed_transform(np.tile([[0.25, 0.5, 0.25]], (64, 1)))
