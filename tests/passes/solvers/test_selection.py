"""Which units go, against refits of all choices by an independent least-squares solver."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sparsec.passes.solvers.least_squares import Inputs, lost, refit
from sparsec.passes.solvers.selection import least_needed


def problem(seed: int, units: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    columns = units * width
    x = rng.standard_normal((60, columns // 2)) @ rng.standard_normal((columns // 2, columns))
    x += 0.5 * rng.standard_normal((60, columns))
    x -= x.mean(axis=0)
    return x, rng.standard_normal((5, columns)), np.tile(np.arange(units), width)


def loss_of(x, weight, unit_of, gone) -> float:
    """Return the least squares that are left, with the same damping, from an augmented system."""
    kept = ~np.isin(unit_of, gone)
    mu = 0.01 * (x**2).sum(axis=0).mean()
    rows = np.vstack([x, np.sqrt(mu) * np.eye(x.shape[1])])
    target = rows @ weight.T
    found = np.linalg.lstsq(rows[:, kept], target, rcond=None)[0]
    return float(((rows[:, kept] @ found - target) ** 2).sum())


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_step_takes_the_unit_whose_loss_is_least(seed: int, width: int):
    x, weight, unit_of = problem(seed, 7, width)
    order = least_needed(weight, x.T @ x, unit_of, 4).tolist()
    for step in range(4):
        left = [unit for unit in range(7) if unit not in order[:step]]
        losses = {u: loss_of(x, weight, unit_of, [*order[:step], u]) for u in left}
        assert min(losses, key=losses.__getitem__) == order[step]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_close_to_the_best_of_all_choices_and_better_than_most(seed: int):
    x, weight, unit_of = problem(seed, 9, 1)
    losses = sorted(
        loss_of(x, weight, unit_of, gone) for gone in itertools.combinations(range(9), 3)
    )
    mine = loss_of(x, weight, unit_of, least_needed(weight, x.T @ x, unit_of, 3))
    assert mine <= losses[len(losses) // 20]


def test_copies_go_first_and_the_refit_loses_nothing():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 6))
    x = np.concatenate([x, x[:, :2] * 1.5], axis=1)
    x -= x.mean(axis=0)
    weight = 0.1 * rng.standard_normal((4, 8))
    gone = least_needed(weight, x.T @ x, np.arange(8), 2, damping=1e-9)
    assert sorted(unit % 6 for unit in gone) == [0, 1]
    inputs = Inputs(np.zeros(8), x.T @ x)
    kept = ~np.isin(np.arange(8), gone)
    assert lost(weight, kept, refit(weight, kept, inputs, 1e-9), inputs, 80) < 1e-6


def test_dead_inputs_go_first_and_none_at_all_is_no_error():
    x, weight, unit_of = problem(1, 7, 1)
    x[:, [2, 5]] = 0
    assert sorted(least_needed(weight, x.T @ x, unit_of, 2, damping=1e-8)) == [2, 5]
    assert len(set(least_needed(weight, np.zeros((7, 7)), unit_of, 3))) == 3
    assert least_needed(weight, x.T @ x, unit_of, 0).tolist() == []


def test_columns_that_are_no_unit_stay_but_take_part():
    x, weight, _ = problem(2, 8, 1)
    x[:, 7] = x[:, 0]  # it can stand for unit 0
    unit_of = np.array([0, 1, 2, 3, 4, 5, 6, -1])
    assert least_needed(weight / 9 + 1, x.T @ x, unit_of, 1, damping=1e-9).tolist() == [0]
