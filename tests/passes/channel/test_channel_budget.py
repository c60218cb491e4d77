"""Budgets: what is asked for is reached, exactly counted, in steps of the target, or refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from sparsec.cli.main import main
from sparsec.ir.cost import graph_cost
from sparsec.ir.errors import PassConfigError, UnsupportedTargetError
from sparsec.ir.feeds import random_feeds
from sparsec.ir.groups import find_groups, prepare
from sparsec.ir.remaining import Remaining
from sparsec.ir.target import Status, Target
from sparsec.passes.base import PassContext
from sparsec.passes.channel.budget import BudgetError
from sparsec.passes.channel.descent import descend, kept_after
from sparsec.passes.spec import parse_spec
from tests.graphs import model, normal
from tests.structure.random_structure import random_model


def convs(widths: tuple[int, ...] = (16, 24, 40), sizes: float = 1.0) -> ir.Model:
    """A chain of 3x3 convolutions with a Relu between, pooled; reads x [1, 3, 12, 12]."""
    nodes, weights, last, channels = [], {}, "x", 3
    for number, width in enumerate((*widths, 10)):
        weights[f"w{number}"] = normal(width, channels, 3, 3, seed=number) * sizes**number
        conv = helper.make_node(
            "Conv", [last, f"w{number}"], [f"h{number}"], f"conv{number}", pads=[1, 1, 1, 1]
        )
        nodes += [conv, helper.make_node("Relu", [f"h{number}"], [f"a{number}"], f"relu{number}")]
        last, channels = f"a{number}", width
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"], "pool"))
    return model(nodes, {"x": [1, 3, 12, 12]}, ["y"], weights)


def cost(graph: ir.Model) -> dict[str, int]:
    found = graph_cost(graph, random_feeds(graph).feeds[0])
    return {"macs": found.macs, "params": found.params}


@pytest.mark.parametrize("budget", ["macs", "params"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("normalise", ["mean", "none"])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8])
def test_the_budget_is_met_and_not_by_far(budget: str, scope: str, normalise: str, sparsity: float):
    graph = convs()
    before = cost(graph)[budget]
    options = f"budget={budget},scope={scope},normalise={normalise},round=2"
    result = parse_spec(f"channel:sparsity={sparsity},{options}").run(graph, PassContext())
    reached = 1 - cost(graph)[budget] / before
    assert result.notes[budget] == pytest.approx(reached)
    assert sparsity <= reached < sparsity + 0.08
    assert all(len(w) % 2 == 0 for w in weights_of(graph) if len(w) != 10)


def weights_of(graph: ir.Model) -> list[np.ndarray]:
    return [v.const_value.numpy() for v in graph.graph.initializers.values()]


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_meet_it_or_say_how_far_they_go(seed: int):
    rng = np.random.default_rng(seed)
    budget = ("macs", "params")[seed % 2]
    step, scope = int(rng.integers(1, 5)), ("global", "layer")[seed // 2 % 2]
    options = f"budget={budget},scope={scope},round={step},criterion=l2"
    wanted = float(rng.uniform(0.05, 0.6))
    graph = random_model(seed)
    before = cost(graph)[budget]
    prepared = graph.clone()
    prepare(prepared)
    sizes = {group.name: group.size for group in find_groups(prepared)}
    refused = None
    try:
        result = parse_spec(f"channel:sparsity={wanted},{options}").run(graph, PassContext())
    except BudgetError as error:
        refused = error
    if refused:
        assert refused.most < wanted
        assert cost(graph)[budget] == before  # nothing was touched
        if refused.most > 0.01:
            within = f"channel:sparsity={refused.most - 1e-9},{options}"
            parse_spec(within).run(graph, PassContext())
            assert 1 - cost(graph)[budget] / before == pytest.approx(refused.most)
        return
    assert 1 - cost(graph)[budget] / before >= wanted - 1e-9
    assert result.notes[budget] == pytest.approx(1 - cost(graph)[budget] / before)
    for name, units, removed in result.certificates[0].groups:
        assert units == sizes[name]
        # An axis of several groups keeps its best unit: only then is a width no multiple.
        assert (units - len(removed)) % step == 0 or scope == "layer"
        assert len(removed) < units


def branches(widths: list[int]) -> ir.Model:
    """Parallel Gemm -> Relu -> Gemm branches of one input, added up: their costs do not interact."""
    nodes, weights, sums = [], {}, []
    for number, width in enumerate(widths):
        weights[f"a{number}"] = normal(5 + number, width, seed=number)
        weights[f"b{number}"] = normal(width, 4, seed=100 + number)
        weights[f"s{number}"] = np.eye(4, 5 + number, dtype=np.float32)
        nodes += [
            helper.make_node("MatMul", ["x", f"s{number}"], [f"i{number}"]),
            helper.make_node("MatMul", [f"i{number}", f"a{number}"], [f"h{number}"], f"up{number}"),
            helper.make_node("Relu", [f"h{number}"], [f"r{number}"]),
            helper.make_node("MatMul", [f"r{number}", f"b{number}"], [f"o{number}"], f"dn{number}"),
        ]
        sums.append(f"o{number}")
    nodes.append(helper.make_node("Sum", sums, ["y"], "sum"))
    return model(nodes, {"x": [1, 4]}, ["y"], weights)


@pytest.mark.parametrize("seed", range(12))
def test_losses_are_weighed_against_what_is_saved(seed: int):
    """But for its last block the choice loses no more than the best of all choices does."""
    rng = np.random.default_rng(seed)
    widths = [int(n) for n in rng.integers(2, 6, 3)]
    graph = branches(widths)
    groups = find_groups(graph)
    chosen = [g for g in groups if g.name.startswith("up")]
    assert [group.size for group in chosen] == widths
    scores = [rng.random(group.size) for group in chosen]
    remaining = Remaining.macs(groups.lattice, {"x": np.zeros((1, 4), np.float32)})
    total = remaining.total()
    until = total * rng.uniform(0.7, 0.95)
    steps = descend(chosen, scores, remaining, step=1, least=1, per_cost=True, until=until)
    assert steps[-1].left <= until < ([total] + [s.left for s in steps])[-2]

    def lost(keeps) -> float:
        return sum(np.sort(s)[: len(s) - k].sum() for s, k in zip(scores, keeps, strict=True))

    best = np.inf
    for keeps in itertools.product(*(range(1, width + 1) for width in widths)):
        parts = [
            group.units[np.argsort(s)[: group.size - k]]
            for group, s, k in zip(chosen, scores, keeps, strict=True)
        ]
        if remaining.without(np.concatenate(parts)) <= until:
            best = min(best, lost(keeps))
    assert lost(kept_after(chosen, steps)) >= best - 1e-12
    assert lost(kept_after(chosen, steps[:-1])) <= best + 1e-12


def test_scores_that_are_no_losses_are_compared_as_they_are():
    graph = convs(sizes=0.1)  # ever smaller weights: normalised, the layers are alike
    parse_spec("channel:sparsity=0.3,scope=global,round=1").run(graph, PassContext())
    first, second, third, _ = (len(w) for w in weights_of(graph))
    assert first < 16
    assert second < 24
    assert third < 40


def fake_clock(graph: ir.Model) -> tuple[PassContext, list[float]]:
    """A target on which a run takes 0.4 of its time anyhow, and the rest in proportion to the work."""
    asked: list[float] = []

    def relative(before: ir.Model, after: ir.Model, feeds) -> float:
        asked.append(0.4 + 0.6 * cost(after)["macs"] / cost(before)["macs"])
        return asked[-1]

    return PassContext(relative_time=relative), asked


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_time_is_approached_by_measuring(scope: str):
    graph = convs()
    context, asked = fake_clock(graph)
    before = cost(graph)["macs"]
    options = f"budget=latency,scope={scope},round=2"
    result = parse_spec(f"channel:sparsity=0.3,{options}").run(graph, context)
    reached = 1 - (0.4 + 0.6 * cost(graph)["macs"] / before)
    assert 0.3 <= reached < 0.36
    assert result.notes["latency"] == pytest.approx(reached)
    assert len(asked) <= 8
    with pytest.raises(
        BudgetError, match=r"budget=latency: 0.7 of it cannot go, at most 0\.\d+ can"
    ):
        parse_spec(f"channel:sparsity=0.7,{options}").run(convs(), context)


def test_a_target_that_cannot_be_timed_has_no_budget_of_time():
    with pytest.raises(UnsupportedTargetError, match="take budget=macs"):
        parse_spec("channel:sparsity=0.3,budget=latency").run(convs(), PassContext())


def target(width: int) -> Target:
    return Target("some", "", "cpu", Status.MODELLED, width=width)


@pytest.mark.parametrize(
    ("options", "context", "step"),
    [
        ("", PassContext(), 8),
        ("", PassContext(target=target(16)), 16),
        (",round=4", PassContext(target=target(16)), 4),
        (",round=auto", PassContext(target=target(4)), 4),
    ],
)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_widths_suit_the_target(options: str, context: PassContext, step: int, scope: str):
    graph = convs(widths=(12, 48, 40))
    result = parse_spec(f"channel:sparsity=0.5,scope={scope}{options}").run(graph, context)
    assert result.notes["round"] == step
    before = (12, 48, 40)
    for old, weight in zip(before, weights_of(graph), strict=False):
        assert len(weight) == old or len(weight) % step == 0
        assert len(weight) >= min(step, old)


def test_heads_are_not_rounded():
    assert parse_spec("heads:sparsity=0.5").step(PassContext(target=target(16))) == 1


def test_the_least_is_rounded_up():
    graph = convs()
    parse_spec("channel:sparsity=0.9,least=10,round=4").run(graph, PassContext())
    assert [len(w) for w in weights_of(graph)][:3] == [12, 12, 12]


def test_an_unknown_budget_is_refused():
    with pytest.raises(PassConfigError, match="unknown budget 'flops'"):
        parse_spec("channel:budget=flops,sparsity=0.5")


@pytest.fixture
def file(tmp_path):
    ir.save(convs(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_a_budget_on_the_command_line(file, tmp_path, capsys):
    spec = "channel:scope=global,budget=macs,sparsity=0.5,round=2"
    arguments = ["compile", str(file), "--pass", spec, "--target", "onnx", "--json"]
    assert main([*arguments, "-o", str(tmp_path / "a.sparsec")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["after"]["macs"] <= 0.5 * result["before"]["macs"]
    arguments[3] = "channel:scope=global,budget=macs,sparsity=0.99,round=8"
    assert main([*arguments, "-o", str(tmp_path / "b.sparsec")]) == 1
    message = json.loads(capsys.readouterr().out)["error"]["message"]
    assert "0.99 of it cannot go, at most 0." in message
    assert not (tmp_path / "b.sparsec").exists()


@pytest.mark.parametrize(
    ("goal", "step", "met", "attempts"), [("macs=-15%", 2, True, 1), ("macs=-95%", 8, False, 4)]
)
def test_a_goal_in_the_metric_of_the_budget_is_its_sparsity(
    file, tmp_path, monkeypatch: pytest.MonkeyPatch, goal: str, step: int, met: bool, attempts: int
):
    import sparsec.api

    built: list[float] = []
    prune: Callable = sparsec.api.prune

    def counted(model, recipe, *rest):
        built.append(recipe.passes[0].sparsity)
        return prune(model, recipe, *rest)

    monkeypatch.setattr(sparsec.api, "prune", counted)
    artifact = sparsec.compile(
        file,
        passes=[f"channel:scope=global,budget=macs,round={step}"],
        goals=[goal],
        target="onnx",
        output=tmp_path / "a.sparsec",
    )
    assert artifact.manifest["goals"][0]["met"] is met
    assert artifact.exit_code == (0 if met else 5)
    assert len(built) == attempts
    reached = 1 - artifact.manifest["after"]["macs"] / artifact.manifest["before"]["macs"]
    assert reached == pytest.approx(0.15, abs=0.06) if met else reached > 0.7
