"""The search for a sparsity, with goals that are met from some point on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sparsec.goals import Goal
from sparsec.passes.spec import parse_spec
from sparsec.recipe import Recipe
from sparsec.search import (
    HIGHEST,
    LOWEST,
    MOST_TRIALS,
    RESOLUTION,
    has_open,
    least,
    most,
    settle,
    stated,
)


def recorded(meets: Callable[[float], bool]) -> tuple[Callable[[float], bool], set[float]]:
    asked: set[float] = set()

    def met(sparsity: float) -> bool:
        asked.add(sparsity)
        return meets(sparsity)

    return met, asked


@pytest.mark.parametrize("border", [0.301, 0.32, 0.5, 0.613, 0.9, 0.979])
def test_the_least_that_meets_is_found_to_the_resolution(border: float) -> None:
    met, asked = recorded(lambda sparsity: sparsity >= border)
    found = least(met)
    assert border <= found <= border + RESOLUTION
    assert len(asked) <= MOST_TRIALS


@pytest.mark.parametrize("border", [0.301, 0.32, 0.5, 0.613, 0.9, 0.979])
def test_the_most_that_meets_is_found_to_the_resolution(border: float) -> None:
    met, asked = recorded(lambda sparsity: sparsity <= border)
    found = most(met)
    assert border - RESOLUTION <= found <= border
    assert len(asked) <= MOST_TRIALS


def test_where_all_or_none_will_do_the_ends_are_taken() -> None:
    assert least(lambda sparsity: True) == LOWEST
    assert least(lambda sparsity: False) == HIGHEST
    assert least(lambda sparsity: True, 0.4) == 0.4
    assert most(lambda sparsity: True) == HIGHEST
    assert most(lambda sparsity: False) == LOWEST


def recipe(spec: str, *goals: str) -> Recipe:
    specs = tuple(parse_spec(each) for each in spec.split(";"))
    return Recipe(passes=specs, goals=tuple(Goal.parse(goal) for goal in goals))


@pytest.mark.parametrize(
    ("given", "start"),
    [
        (recipe("channel:budget=macs", "macs=-40%"), 0.4),
        (recipe("channel:budget=macs", "macs=-40%", "bytes=-60%"), 0.4),
        (recipe("channel:budget=macs", "params=-40%"), LOWEST),
        (recipe("channel:budget=macs", "macs=-99%"), LOWEST),
        (recipe("channel:budget=macs;unstructured", "macs=-40%"), LOWEST),
        (recipe("unstructured", "nonzero=-40%"), LOWEST),
    ],
)
def test_a_goal_in_the_metric_of_the_pass_states_its_sparsity(given: Recipe, start: float) -> None:
    assert stated(given) == pytest.approx(start)


def test_only_open_sparsities_are_settled() -> None:
    given = recipe("unstructured;nm24;channel:sparsity=0.2", "bytes=-50%")
    assert has_open(given)
    settled = settle(given, 0.7)
    assert [item.options().get("sparsity") for item in settled.passes] == [0.7, None, 0.2]
    assert not has_open(settled)
    assert not has_open(recipe("unstructured"))
