"""The model that decides for other machines: how it is fitted, how far it errs, where it changes sides."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cpu.cases import Case
from sparsec.backends.base import LowerContext
from sparsec.backends.cpu.choose_modelled import choose_modelled
from sparsec.backends.cpu.cost_model import (
    DENSE,
    BreakEven,
    CostModel,
    Fitted,
    Product,
    features,
    fit,
    measured,
    records,
)
from sparsec.ir.sites import weight_sites
from tests.backends.cpu.layers import NEEDS_LIBRARY

ROOT = Path(__file__).resolve().parents[3]

ISAS = ("avx2", "avx512")
KINDS = [(block, direct) for block in (1, 2, 4, 8) for direct in (False, True)]


def test_fit_finds_the_weights_that_made_the_times() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(16, 2000, (40, 4)).tolist()
    products = [Product(m, k, n, 1, kept) for m, k, n, kept in sizes]
    weights = np.array([2e-11, 0.0, 3e-11, 4e-10, 1e-6])
    found = fit(products, [float(np.dot(features(product), weights)) for product in products])
    np.testing.assert_allclose(found, weights, rtol=1e-6, atol=1e-16)


def test_fit_never_goes_below_nothing() -> None:
    products = [Product(64, 64, n, 1, 100 * n) for n in (16, 32, 64, 128, 256)]
    falling = [1e-3 / n for n in range(1, 6)]
    assert (fit(products, falling) >= 0).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("block", "direct"), KINDS)
def test_shapes_that_were_left_out_are_foretold(isa: str, block: int, direct: bool) -> None:
    """Fitted without a shape, the model says its time: half of all times within a third."""
    products, seconds = measured(isa, block, direct)
    assert products
    shapes = sorted({(p.rows, p.reduction, p.columns) for p in products})
    errors = []
    for shape in shapes:
        out = [(p.rows, p.reduction, p.columns) == shape for p in products]
        kept = [i for i, left in enumerate(out) if not left]
        weights = fit([products[i] for i in kept], [seconds[i] for i in kept])
        errors += [
            abs(np.log(np.dot(features(p), weights) / s))
            for p, s, left in zip(products, seconds, out, strict=True)
            if left
        ]
    assert np.exp(np.median(errors)) < 1.34


@pytest.mark.parametrize("isa", ISAS)
def test_the_model_takes_the_side_that_was_measured(isa: str) -> None:
    """Where a margin separates sparse from dense, the fitted model is on the same side."""
    model = Fitted(isa)
    dense = {
        (p.rows, p.reduction, p.columns): s
        for direct in (False, True)
        for p, s in zip(*measured(isa, DENSE, direct), strict=True)
    }
    wrong, count = 0, 0
    for block, direct in KINDS:
        for product, seconds in zip(*measured(isa, block, direct), strict=True):
            real = dense[product.rows, product.reduction, product.columns] / seconds
            count += 1
            if model.dense(product) > model.margin * model.sparse(product):
                wrong += real < 1
    assert count > 150
    assert wrong <= 0.03 * count, "the model keeps what measures slower"


@pytest.mark.parametrize("costs", [Fitted("avx2"), Fitted("avx512"), BreakEven()])
def test_more_zeros_never_cost_more(costs: CostModel) -> None:
    for block, direct in KINDS:
        full = Product(256, 256, 1 if direct else 196, block, 256 * 256, direct)
        fewer = [dataclasses.replace(full, kept=kept) for kept in (60000, 30000, 6000, 600)]
        times = [costs.sparse(product) for product in fewer]
        assert times == sorted(times, reverse=True)
        assert costs.dense(full) == costs.dense(fewer[-1])


def test_break_even_is_where_the_rule_says() -> None:
    rule = BreakEven()
    for block, columns, direct, point in (
        (1, 128, False, 0.55), (1, 49, False, 0.60), (1, 1, True, 0.65),
        (4, 128, False, 0.0), (8, 1, True, 0.25),
    ):  # fmt: skip
        product = Product(1000, 1000, columns, block, 1_000_000, direct)
        for off, wins in ((-0.01, False), (0.01, True)):
            kept = round((1 - point - off) * 1_000_000)
            at = dataclasses.replace(product, kept=kept)
            assert (rule.sparse(at) < rule.dense(at)) is wins


@pytest.mark.parametrize("isa", ISAS)
def test_records_say_where_they_are_from(isa: str) -> None:
    found = records(isa)
    assert found["machine"]["isas"][0] == isa
    assert {len(row) for row in found["rows"]} == {len(found["columns"])}
    assert {row[3] for row in found["rows"]} == {DENSE, 1, 2, 4, 8}


def raced() -> list[Any]:
    """Networks with what they gained on the machines of the records."""
    found = []
    for isa, file in (("avx2", "cpu-zen3-1thread.json"), ("avx512", "cpu-emr.json")):
        for row in json.loads((ROOT / "benchmarks/results" / file).read_text())["rows"]:
            name = f"{isa}-{row['network']}-{row['pattern']}-{row['sparsity']}"
            if (
                row["network"] in ("mobilenet_v1", "mobilenet_v2", "bert4")
                and row.get("threads", 1) == 1
            ):
                found.append(pytest.param(isa, row, id=name))
    return found


@pytest.mark.slow
@NEEDS_LIBRARY
@pytest.mark.parametrize(("isa", "row"), raced())
def test_whole_networks_gain_what_was_raced(isa: str, row: dict[str, Any]) -> None:
    """The model keeps as many regions as racing did, and promises what they saved within a half to two.

    With half of the weights kept, a gain may be within the model's margin: then it keeps no more than racing.
    """
    model, feeds = Case(row["network"], row["sparsity"], row["pattern"]).build()
    outcome = choose_modelled(model, weight_sites(model), LowerContext([feeds]), Fitted(isa))
    assert len(outcome.kept) <= row["regions"]
    if row["sparsity"] > 0.5:
        assert len(outcome.kept) == row["regions"]
    promised = sum(candidate.cost.dense - candidate.cost.sparse for candidate in outcome.kept)
    saved = (row["dense_ms"] - row["sparse_ms"]) * 1e-3
    if outcome.kept:
        assert 0.5 < promised / saved < 2
