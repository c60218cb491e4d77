"""The refit of a layer that lost columns, against an independent least-squares solver in float64."""

from __future__ import annotations

import numpy as np
import pytest

from sparsec.passes.solvers.least_squares import (
    Inputs,
    Refit,
    bias_only,
    lost,
    refit,
    solve_damped,
)

ROWS, COLUMNS, OUT = 200, 12, 7


def problem(seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return correlated rows with a mean, a weight, and which columns stay."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 5)) @ rng.standard_normal((5, COLUMNS))
    x += 0.3 * rng.standard_normal((rows, COLUMNS)) + 3 * rng.standard_normal(COLUMNS)
    return x, rng.standard_normal((OUT, COLUMNS)), rng.permutation(COLUMNS) < 8


def inputs_of(x: np.ndarray) -> Inputs:
    centred = x - x.mean(axis=0)
    return Inputs(x.mean(axis=0), centred.T @ centred)


def residual(x: np.ndarray, weight: np.ndarray, kept: np.ndarray, found: Refit) -> np.ndarray:
    return x @ weight.T - x[:, kept] @ found.weight.T - found.shift


def test_without_damping_it_is_ordinary_least_squares_with_an_intercept():
    x, weight, kept = problem()
    found = refit(weight, kept, inputs_of(x), damping=0.0)
    design = np.column_stack([x[:, kept], np.ones(ROWS)])
    expected = np.linalg.lstsq(design, x @ weight.T, rcond=None)[0]
    np.testing.assert_allclose(found.weight, expected[:-1].T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.shift, expected[-1], rtol=1e-9, atol=1e-9)


def test_with_damping_it_is_least_squares_with_rows_that_pull_to_the_old_weights():
    x, weight, kept = problem(1)
    inputs, damping = inputs_of(x), 0.2
    mu = damping * np.diagonal(inputs.gram)[kept].mean()
    centred = x - x.mean(axis=0)
    design = np.vstack([centred[:, kept], np.sqrt(mu) * np.eye(kept.sum())])
    wanted = np.vstack([centred @ weight.T, np.sqrt(mu) * weight[:, kept].T])
    expected = np.linalg.lstsq(design, wanted, rcond=None)[0].T
    found = refit(weight, kept, inputs, damping)
    np.testing.assert_allclose(found.weight, expected, rtol=1e-9, atol=1e-9)


def test_the_gradient_on_the_kept_inputs_vanishes():
    x, weight, kept = problem(2)
    found = refit(weight, kept, inputs_of(x), damping=0.0)
    wrong = residual(x, weight, kept, found)
    scale = np.abs(x).max() * np.abs(x @ weight.T).max() * ROWS
    assert np.abs(x[:, kept].T @ wrong).max() < 1e-12 * scale
    assert np.abs(wrong.sum(axis=0)).max() < 1e-12 * scale


@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_refit_loses_no_more_than_a_bias_and_that_no_more_than_nothing(seed, damping):
    x, weight, kept = problem(seed)
    inputs = inputs_of(x)
    nothing = Refit(weight[:, kept], np.zeros(OUT))
    losses = [
        lost(weight, kept, found, inputs, ROWS)
        for found in (
            refit(weight, kept, inputs, damping),
            bias_only(weight, kept, inputs),
            nothing,
        )
    ]
    assert losses == sorted(losses)
    for found, loss in zip((bias_only(weight, kept, inputs), nothing), losses[1:], strict=True):
        direct = (residual(x, weight, kept, found) ** 2).sum()
        np.testing.assert_allclose(loss, direct, rtol=1e-9)


def test_constant_inputs_are_replaced_by_the_bias_exactly():
    x, weight, kept = problem(3)
    x[:, ~kept] = x[0, ~kept]
    for found in (bias_only(weight, kept, inputs_of(x)), refit(weight, kept, inputs_of(x))):
        np.testing.assert_allclose(residual(x, weight, kept, found), 0, atol=1e-10)
        np.testing.assert_allclose(found.weight, weight[:, kept], atol=1e-10)


def test_fewer_rows_than_columns_are_fitted_exactly_without_damping_and_stay_small_with():
    x, weight, kept = problem(4, rows=4)
    found = refit(weight, kept, inputs_of(x), damping=0.0)
    np.testing.assert_allclose(residual(x, weight, kept, found), 0, atol=1e-9)
    change = np.linalg.norm(refit(weight, kept, inputs_of(x)).weight - weight[:, kept])
    assert change <= np.linalg.norm(found.weight - weight[:, kept]) + 1e-9


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_dead_inputs_keep_their_weights(damping):
    x, weight, kept = problem(5)
    dead = np.flatnonzero(kept)[:2]
    x[:, dead] = 0
    found = refit(weight, kept, inputs_of(x), damping)
    np.testing.assert_array_equal(found.weight[:, :2], weight[:, dead])
    assert np.isfinite(found.weight).all()


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_nothing_but_dead_inputs_changes_nothing(damping):
    _, weight, kept = problem(6)
    found = refit(weight, kept, inputs_of(np.zeros((3, COLUMNS))), damping)
    np.testing.assert_array_equal(found.weight, weight[:, kept])
    np.testing.assert_array_equal(found.shift, 0)


def test_inputs_that_equal_each_other_share_the_weight():
    gram = np.array([[2.0, 2.0], [2.0, 2.0]])
    found = solve_damped(gram, np.array([[2.0], [2.0]]), damping=0.0)
    np.testing.assert_allclose(found, [[0.5], [0.5]])
