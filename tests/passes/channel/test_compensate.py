"""Compensation after a removal, end to end, against least squares on the rows of a plain numpy net."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import sparsec
from sparsec.cli.main import main
from sparsec.ir.errors import CalibrationError, PassConfigError
from sparsec.ir.feeds import random_feeds
from sparsec.passes.base import PassContext
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.spec import parse_spec
from sparsec.verification import verify_artifact
from tests.graphs import model, normal, proto, run
from tests.structure.random_structure import random_model

node = helper.make_node


def prune(graph, spec: str, feeds):
    calibration = None if feeds is None else Calibration(feeds)
    return parse_spec(spec).run(graph, PassContext(calibration=calibration))


def chain(*layers, x, weights, outputs=("y",)):
    return model(list(layers), {"x": list(x)}, list(outputs), weights)


def low_rank(*shape: int, seed: int) -> np.ndarray:
    """Return filters of which each is a mixture of four: what goes can be made from what stays."""
    rng = np.random.default_rng(seed)
    flat = rng.standard_normal((shape[0], 4)) @ rng.standard_normal((4, int(np.prod(shape[1:]))))
    return (flat / np.sqrt(flat.shape[1])).reshape(shape).astype(np.float32)


def conv_net(**attributes):
    """Conv -> Conv, linear in between and of rank four, so that half of it can be refitted exactly."""
    group = attributes.get("group", 1)
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["a"], "first"),
        node("Conv", ["a", "w1"], ["y"], "second", **attributes),
    ]
    weights = {
        "w0": low_rank(16, 3, 1, 1, seed=0),
        "b0": np.zeros(16, np.float32),
        "w1": normal(6, 16 // group, 3, 3, seed=1) / 5,
    }
    return chain(*nodes, x=(1, 3, 9, 9), weights=weights)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 1, 1, 1]},
        {"strides": [2, 2], "pads": [1, 0, 1, 0]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"group": 2, "pads": [1, 1, 1, 1]},
    ],
    ids=["plain", "padded", "strided", "dilated", "grouped"],
)
def test_a_convolution_is_refitted_to_what_it_was(attributes: dict):
    feeds = [{"x": normal(1, 3, 9, 9, seed=s)} for s in range(8)]
    fresh = {"x": normal(1, 3, 9, 9, seed=99)}
    wrong = {}
    for how in ("none", "bias", "refit"):
        graph = conv_net(**attributes)
        dense = run(graph, fresh)["y"]
        spec = f"channel:sparsity=0.5,round=4,criterion=energy,include=first,compensate={how}"
        result = prune(graph, spec, feeds)
        assert graph.graph.initializers["w1"].shape[1] < 16 // attributes.get("group", 1)
        assert len(result.certificates) == 1
        wrong[how] = np.abs(run(graph, fresh)["y"] - dense).max() / np.abs(dense).max()
    assert wrong["refit"] < 0.1 * wrong["none"]
    assert wrong["refit"] < 0.1 * wrong["bias"]


def test_a_refit_is_the_least_squares_solution_on_the_rows():
    weights = {
        "w0": normal(12, 5, seed=0),
        "b0": normal(12, seed=1),
        "w1": normal(4, 12, seed=2),
        "b1": normal(4, seed=3),
    }
    nodes = [
        node("Gemm", ["x", "w0", "b0"], ["h"], "first", transB=1),
        node("Relu", ["h"], ["a"]),
        node("Gemm", ["a", "w1", "b1"], ["y"], "second", transB=1),
    ]
    graph = chain(*nodes, x=(50, 5), weights=weights)
    feeds = [{"x": normal(50, 5, seed=s)} for s in range(4)]
    result = prune(graph, "channel:sparsity=0.5,round=1,compensate=refit", feeds)
    (_, _, gone) = result.certificates[0].groups[0]
    wide = {name: array.astype(np.float64) for name, array in weights.items()}
    x = np.concatenate([f["x"] for f in feeds]).astype(np.float64)
    hidden = np.maximum(x @ wide["w0"].T + wide["b0"], 0)
    target = hidden @ wide["w1"].T
    kept = np.setdiff1d(np.arange(12), gone)
    centre = hidden - hidden.mean(axis=0)
    mu = 0.01 * (centre[:, kept] ** 2).sum(axis=0).mean()
    design = np.vstack([centre[:, kept], np.sqrt(mu) * np.eye(6)])
    wanted = np.vstack([target - target.mean(axis=0), np.sqrt(mu) * wide["w1"][:, kept].T])
    expected = np.linalg.lstsq(design, wanted, rcond=None)[0].T
    shift = target.mean(axis=0) - expected @ hidden[:, kept].mean(axis=0)
    found = graph.graph.initializers
    np.testing.assert_allclose(found["w1"].const_value.numpy(), expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(
        found["b1"].const_value.numpy(), wide["b1"] + shift, rtol=2e-4, atol=2e-5
    )
    assert result.notes["refitted"] == 1
    assert 0 < result.notes["lost_with_refit"] < result.notes["lost_without_refit"]


def test_layers_are_solved_one_after_the_other_on_inputs_that_are_already_refitted():
    nodes, weights = [], {}
    for i in range(3):
        weights |= {f"w{i}": normal(16, 16, seed=i) / 4, f"b{i}": normal(16, seed=9 + i) / 4}
        nodes.append(
            node("Gemm", ["x" if not i else f"a{i - 1}", f"w{i}", f"b{i}"], [f"h{i}"], f"l{i}")
        )
        nodes.append(node("Relu", [f"h{i}"], [f"a{i}"]))
    nodes.append(node("Gemm", ["a2", "v", "c"], ["y"], "head"))
    weights |= {"v": normal(16, 4, seed=7), "c": normal(4, seed=8)}
    feeds = [{"x": normal(64, 16, seed=s)} for s in range(8)]
    wrong = []
    for how in ("none", "bias", "refit"):
        graph = chain(*nodes, x=(64, 16), weights=weights)
        dense = [run(graph, feed)["y"] for feed in feeds]
        prune(graph, f"channel:sparsity=0.25,round=1,criterion=l2,compensate={how}", feeds)
        pairs = zip(feeds, dense, strict=True)
        wrong.append(np.mean([((run(graph, f)["y"] - y) ** 2).mean() for f, y in pairs]))
    assert wrong == sorted(wrong, reverse=True)
    assert wrong[2] < 0.7 * wrong[0]
    # The mean of every output is that of the dense graph: biases were fitted on what really comes.
    graph = chain(*nodes, x=(64, 16), weights=weights)
    expected = np.mean([run(graph, feed)["y"] for feed in feeds], axis=(0, 1))
    prune(graph, "channel:sparsity=0.25,round=1,compensate=refit", feeds)
    drift = np.mean([run(graph, feed)["y"] for feed in feeds], axis=(0, 1)) - expected
    assert np.abs(drift).max() < 0.2 * np.abs(expected).max()


def test_readers_of_a_concatenation_of_two_pruned_inputs():
    nodes = [
        node("MatMul", ["x", "w0"], ["a"], "left"),
        node("MatMul", ["x", "w1"], ["b"], "right"),
        node("Concat", ["a", "b"], ["c"], axis=-1),
        node("MatMul", ["c", "w2"], ["y"], "reader"),
    ]
    weights = {
        "w0": low_rank(8, 10, seed=0).T.copy(),
        "w1": low_rank(8, 10, seed=1).T.copy(),
        "w2": normal(16, 5, seed=2),
    }
    feeds = [{"x": normal(40, 10, seed=s)} for s in range(4)]
    graph = chain(*nodes, x=(40, 10), weights=weights)
    dense = run(graph, feeds[0])["y"]
    result = prune(graph, "ffn:sparsity=0.5,round=1,criterion=energy", feeds)
    assert result.notes["groups"] == 2
    assert result.notes["refitted"] == 1
    np.testing.assert_allclose(run(graph, feeds[0])["y"], dense, atol=0.12 * np.abs(dense).max())


def test_a_weight_on_the_left_of_matmul():
    nodes = [
        node("MatMul", ["w0", "x"], ["a"], "first"),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["w1", "b"], ["y"], "second"),
    ]
    weights = {"w0": normal(12, 6, seed=0), "w1": normal(4, 12, seed=1)}
    feeds = [{"x": normal(6, 30, seed=s)} for s in range(6)]
    wrong = {}
    for how in ("none", "bias", "refit"):
        graph = chain(*nodes, x=(6, 30), weights=weights)
        dense = run(graph, feeds[0])["y"]
        prune(graph, f"channel:sparsity=0.25,round=1,compensate={how}", feeds)
        wrong[how] = ((run(graph, feeds[0])["y"] - dense) ** 2).mean()
    assert wrong["refit"] < wrong["bias"] < wrong["none"]


def test_what_was_refitted_is_in_the_artifact_and_it_replays(tmp_path: Path, capsys):
    nodes = [
        node("MatMul", ["x", "w0"], ["h"], "first"),
        node("Relu", ["h"], ["a"]),
        node("MatMul", ["a", "w1"], ["y"], "second"),
        node("Relu", ["y"], ["b"]),
        node("MatMul", ["b", "w2"], ["z"], "third"),
    ]
    weights = {
        "w0": normal(8, 32, seed=0),
        "w1": normal(32, 32, seed=1) / 6,
        "w2": normal(32, 4, seed=2),
    }
    onnx.save(proto(nodes, {"x": [16, 8]}, ["z"], weights), tmp_path / "net.onnx")
    np.savez(tmp_path / "calib.npz", x=normal(4, 16, 8, seed=5))
    artifact = sparsec.compile(
        tmp_path / "net.onnx",
        passes=["ffn:sparsity=0.25,include=first", "ffn:sparsity=0.25,include=second"],
        calib=str(tmp_path / "calib.npz"),
        target="onnx",
        output=tmp_path / "net.sparsec",
    )
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert [p["options"]["compensate"] for p in manifest["passes"]] == ["auto", "auto"]
    assert [p["notes"]["refitted"] for p in manifest["passes"]] == [1, 1]
    assert verify_artifact(artifact.path)["certificates"]["replayed"] == 2
    replayed = verify_artifact(artifact.path, tmp_path / "net.onnx")["certificates"]
    assert (replayed["replayed"], replayed["with"]) == (2, "model")
    assert "lost_with_refit" in (artifact.path / "report.html").read_text()
    assert main(["inspect", str(artifact.path)]) == 0
    assert "refitted 1" in capsys.readouterr().out


def test_without_data_nothing_is_compensated_unless_it_was_asked_for():
    feeds = [{"x": normal(1, 3, 9, 9)}]
    assert "refitted" not in prune(conv_net(), "channel:sparsity=0.5,round=4", None).notes
    assert "refitted" in prune(conv_net(), "channel:sparsity=0.5,round=4", feeds).notes
    with pytest.raises(PassConfigError, match="compensate=bias needs calibration data"):
        prune(conv_net(), "channel:sparsity=0.5,round=4,compensate=bias", None)
    with pytest.raises(PassConfigError, match="criterion=energy needs calibration data"):
        prune(conv_net(), "channel:sparsity=0.5,criterion=energy", None)
    with pytest.raises(PassConfigError, match="did you mean 'refit'"):
        parse_spec("channel:compensate=reft")


@pytest.mark.parametrize("how", ["bias", "refit"])
def test_inputs_that_are_not_finite_are_refused(how: str):
    feeds = [{"x": np.full((1, 3, 9, 9), np.nan, np.float32)}]
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        prune(conv_net(), f"channel:sparsity=0.5,round=4,compensate={how}", feeds)


def test_one_sample_that_is_zero_everywhere_leaves_the_weights():
    graph = conv_net()
    old = graph.graph.initializers["w1"].const_value.numpy()
    result = prune(
        graph, "channel:sparsity=0.5,round=4", [{"x": np.zeros((1, 3, 9, 9), np.float32)}]
    )
    (_, _, gone) = result.certificates[0].groups[0]
    new = graph.graph.initializers["w1"].const_value.numpy()
    np.testing.assert_allclose(new, np.delete(old, gone, axis=1), rtol=1e-6)


def test_what_cannot_be_solved_for_is_named():
    nodes = [
        node("Conv", ["x", "w0"], ["a"], "first"),
        node("ConvTranspose", ["a", "w1"], ["y"], "up"),
    ]
    weights = {"w0": normal(8, 3, 1, 1), "w1": normal(8, 4, 2, 2, seed=1)}
    graph = chain(*nodes, x=(1, 3, 5, 5), weights=weights)
    result = prune(graph, "channel:sparsity=0.5,round=4", [{"x": normal(1, 3, 5, 5)}])
    assert result.notes["refitted"] == 0
    entry = next(item for item in result.skipped if str(item.code) == "not_a_site")
    assert (entry.site, "ConvTranspose cannot" in entry.reason) == ("up", True)


def test_the_energy_of_a_unit_is_the_share_that_leaves_through_its_readers():
    from sparsec.ir.groups import find_groups
    from sparsec.passes.channel.scores import unit_scores

    graph = conv_net()
    feeds = [{"x": normal(1, 3, 9, 9, seed=s)} for s in range(3)]
    groups = find_groups(graph)
    first = next(group for group in groups if group.name == "first")
    (found,) = unit_scores(groups, [first], "energy", PassContext(calibration=Calibration(feeds)))
    w0 = graph.graph.initializers["w0"].const_value.numpy().astype(np.float64)[:, :, 0, 0]
    w1 = graph.graph.initializers["w1"].const_value.numpy().astype(np.float64)
    a = np.stack([np.einsum("oc,chw->ohw", w0, f["x"][0]) for f in feeds])
    share = np.zeros(16)
    for i in range(3):
        for j in range(3):
            seen = a[:, :, i : i + 7, j : j + 7].transpose(1, 0, 2, 3).reshape(16, -1)
            share += (w1[:, :, i, j] ** 2).sum(axis=0) * seen.var(axis=1)
    np.testing.assert_allclose(found, share / share.sum(), rtol=1e-5)


def deep(seed: int = 0):
    """Three hidden layers with biases; the calibration data that goes with them."""
    nodes, weights = [], {}
    for i in range(3):
        weights |= {f"w{i}": normal(16, 16, seed=seed + i) / 4, f"b{i}": normal(16, seed=9 + i) / 4}
        source = f"a{i - 1}" if i else "x"
        nodes.append(node("Gemm", [source, f"w{i}", f"b{i}"], [f"h{i}"], f"l{i}"))
        nodes.append(node("Relu", [f"h{i}"], [f"a{i}"]))
    nodes.append(node("Gemm", ["a2", "v"], ["y"], "head"))
    graph = chain(*nodes, x=(64, 16), weights=weights | {"v": normal(16, 4, seed=7)})
    return graph, [{"x": normal(64, 16, seed=s)} for s in range(4)]


def test_the_reader_chooses_what_it_can_make_up_for():
    """Of two hidden units that say the same one goes, though both carry much."""
    weights = {"w0": normal(6, 5, seed=0), "b0": normal(6, seed=1), "w1": normal(4, 6, seed=2)}
    for name in ("w0", "b0"):
        weights[name][4] = 2 * weights[name][1]
    weights["w0"][2:4] *= 0.3
    weights["b0"][2:4] *= 0.3
    nodes = [
        node("Gemm", ["x", "w0", "b0"], ["h"], "first", transB=1),
        node("Relu", ["h"], ["a"]),
        node("Gemm", ["a", "w1"], ["y"], "second", transB=1),
    ]
    feeds = [{"x": normal(80, 5, seed=s)} for s in range(4)]
    gone = {}
    for criterion in ("energy", "obs"):
        graph = chain(*nodes, x=(80, 5), weights=weights)
        dense = run(graph, feeds[0])["y"]
        result = prune(graph, f"channel:sparsity=0.17,round=1,criterion={criterion}", feeds)
        ((_, _, gone[criterion]),) = result.certificates[0].groups
        wrong = np.abs(run(graph, feeds[0])["y"] - dense).max() / np.abs(dense).max()
        assert (wrong < 0.02) == (criterion == "obs")
    assert gone["energy"] != gone["obs"]
    assert gone["obs"] in ((1,), (4,))


def test_a_walk_that_was_interrupted_goes_on_and_ends_the_same(tmp_path: Path):
    graph, feeds = deep()
    spec = "channel:sparsity=0.25,round=1,criterion=obs"
    ticks: list[str] = []

    def watched(model, cache: Path | None, limit: float):
        def tick(text: str, done: float) -> None:
            ticks.append(text) if text.startswith("calibrate") else None
            if len(ticks) > limit:
                raise KeyboardInterrupt

        ticks.clear()
        calibration = Calibration(feeds, cache=cache)
        return parse_spec(spec).run(model, PassContext(calibration=calibration, progress=tick))

    expected = watched(graph, None, np.inf)
    again, _ = deep()
    with pytest.raises(KeyboardInterrupt):
        watched(again, tmp_path, len(ticks) - 2)
    assert list((tmp_path / "walks").iterdir())
    again, _ = deep()
    result = watched(again, tmp_path, np.inf)
    assert len(ticks) < 8  # the rest of one layer, or two
    assert result.certificates[0].groups == expected.certificates[0].groups
    for name, value in graph.graph.initializers.items():
        np.testing.assert_array_equal(
            again.graph.initializers[name].const_value.numpy(), value.const_value.numpy()
        )


def test_a_criterion_that_lets_readers_choose_needs_the_refit():
    with pytest.raises(PassConfigError, match="needs compensate=refit, got bias"):
        parse_spec("channel:sparsity=0.5,criterion=obs,compensate=bias")


@pytest.mark.parametrize("seed", range(6))
def test_any_graph_can_be_refitted_and_loses_no_more_for_it(seed: int):
    for spec in ("channel:round=2", "heads:round=1", "ffn:round=2"):
        graph = random_model(seed)
        feeds = random_feeds(graph, seed=seed, samples=2).feeds
        result = prune(graph, f"{spec},criterion=obs,sparsity=0.4", feeds)
        notes = result.notes
        assert notes.get("lost_with_refit", 0) <= notes.get("lost_without_refit", 0) + 1e-9
        assert all(np.isfinite(y).all() for y in run(graph, feeds[0]).values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 200))
def test_any_graph_can_be_refitted_many(seed: int):
    test_any_graph_can_be_refitted_and_loses_no_more_for_it(seed)
