"""Noise is forgiven where it was measured, as much as was measured, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import sparsec
from sparsec.cli.main import main
from sparsec.compare import Difference
from sparsec.ir.noise import FACTOR, MOST, difference, noise_of
from sparsec.ir.run import OrtRunner
from sparsec.prove import verification_json
from sparsec.verification import verify_artifact
from tests.graphs import model, normal

TOLERANCE = 1e-4
MANIFEST = {"kernels": []}


def net() -> ir.Model:
    """Two outputs of one trunk: plain numbers, and sigmoids of about 1e-4, which the runtime steps."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["a"], "relu"),
        helper.make_node("Conv", ["a", "w1"], ["y"], "plain", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w2", "b2"], ["z"], "faint", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["z"], ["p"], "sigmoid"),
    ]
    weights = {
        "w0": normal(32, 3, 3, 3, seed=0) / 5,
        "w1": normal(4, 32, 3, 3, seed=1) / 17,
        "w2": normal(4, 32, 3, 3, seed=2) / 17,
        "b2": np.full(4, -9.5, np.float32),
    }
    return model(nodes, {"x": [1, 3, 16, 16]}, ["y", "p"], weights)


FEEDS = [{"x": normal(1, 3, 16, 16, seed=seed)} for seed in (5, 6)]


@pytest.fixture(scope="module")
def expected() -> list[dict[str, np.ndarray]]:
    runner = OrtRunner(net(), optimise=False)
    return [runner.run(feed) for feed in FEEDS]


def verdict(expected, change) -> dict:
    """Return the verdict on an artifact whose outputs are the reference's but for ``change``."""
    changed = [{name: change(name, a) for name, a in outputs.items()} for outputs in expected]
    difference = Difference.between(changed, expected)
    return verification_json(
        difference, MANIFEST, "device", lambda: noise_of(net(), FEEDS, expected)
    )


def off_by(output: str, fraction: float):
    def change(name: str, array: np.ndarray) -> np.ndarray:
        moved = array.astype(np.float64)
        if name == output:
            moved.flat[0] += fraction * np.abs(array).max()
        return moved

    return change


def test_noise_is_of_the_output_that_has_it(expected):
    noise = noise_of(net(), FEEDS, expected)
    assert noise["y"] < 1e-5
    assert 1e-4 < noise["p"] < MOST
    # Against exact arithmetic the stock runtime is that far off itself.
    exact = [1 / (1 + np.exp(-z)) for z in faint_in_float64()]
    off = max(
        np.abs(got["p"] - right).max() / right.max()
        for got, right in zip(expected, exact, strict=True)
    )
    assert off > 0.2 * noise["p"]


def faint_in_float64() -> list[np.ndarray]:
    torch = pytest.importorskip("torch")
    from sparsec.ir.fx import FxExecutor

    executor = FxExecutor(net(), dtype=torch.float64)
    return [executor.run(feed, values=["z"])["z"] for feed in FEEDS]


def test_what_is_within_the_tolerance_needs_no_noise(expected):
    result = verdict(expected, off_by("y", 0.9e-4))
    assert result["passed"]
    assert (result["tolerance"], "noise" in result) == (TOLERANCE, False)


def test_noise_is_forgiven_where_it_is_measured(expected):
    noise = noise_of(net(), FEEDS, expected)["p"]
    result = verdict(expected, off_by("p", 2 * noise))
    assert result["passed"]
    assert result["noise"] == pytest.approx(noise)
    assert result["tolerance"] == pytest.approx(FACTOR * noise)
    assert result["max_rel"] <= result["tolerance"]


@pytest.mark.parametrize("output", ["y", "p"])
@pytest.mark.parametrize("fraction", [FACTOR * MOST * 1.01, 0.5])
def test_more_than_noise_is_never_forgiven(expected, output: str, fraction: float):
    assert not verdict(expected, off_by(output, fraction))["passed"]


def test_a_noisy_output_does_not_excuse_another(expected):
    noise = noise_of(net(), FEEDS, expected)["p"]

    def both(name: str, array: np.ndarray) -> np.ndarray:
        return off_by("y", 3e-4)(name, off_by("p", 2 * noise)(name, array))

    assert verdict(expected, off_by("p", 2 * noise))["passed"]
    assert not verdict(expected, both)["passed"]
    assert not verdict(expected, off_by("y", 3e-4))["passed"]


def test_weights_of_fewer_bits_are_not_rounded_anew():
    half = net()
    for value in half.graph.initializers.values():
        array = value.const_value.numpy().astype(np.float16)
        value.const_value = ir.tensor(array, name=value.name)
    cast = helper.make_node("Cast", ["w0"], ["w0f"], "cast", to=onnx.TensorProto.FLOAT)
    nodes = [cast, helper.make_node("Conv", ["x", "w0f"], ["y"], "first", pads=[1, 1, 1, 1])]
    graph = model(
        nodes, {"x": [1, 3, 16, 16]}, ["y"], {"w0": normal(4, 3, 3, 3).astype(np.float16)}
    )
    runner = OrtRunner(graph, optimise=False)
    noise = noise_of(graph, FEEDS, [runner.run(feed) for feed in FEEDS])
    assert noise["y"] < 1e-5  # not the 1e-3 of a half


def test_such_a_model_compiles_and_says_why(tmp_path: Path, capsys):
    ir.save(net(), tmp_path / "net.onnx")
    np.savez(tmp_path / "feed.npz", x=np.concatenate([feed["x"] for feed in FEEDS]))
    arguments = ["compile", str(tmp_path / "net.onnx"), "--pass", "channel:sparsity=0.5"]
    output = ["-o", str(tmp_path / "a.sparsec"), "--calib", str(tmp_path / "feed.npz")]
    assert main([*arguments, *output, "--target", "cpu", "--json"]) in (0, 5)
    result = json.loads(capsys.readouterr().out)["verify"]
    assert result["passed"]
    assert result["max_rel"] <= result["tolerance"] <= FACTOR * MOST
    again = verify_artifact(tmp_path / "a.sparsec")["numerics"]
    assert again["passed"]
    for each in (result, again):
        assert ("noise" in each) == (each["max_rel"] > TOLERANCE)


def test_a_wrong_lowering_is_found_on_the_plain_output(tmp_path: Path, monkeypatch):
    from sparsec.backends.onnx.backend import OnnxBackend

    ir.save(net(), tmp_path / "net.onnx")
    lower = OnnxBackend.lower

    def wrong(self, graph, target, context):
        lowered = lower(self, graph, target, context)
        value = lowered.model.graph.initializers["w1"]
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.0005), name="w1")
        return lowered

    monkeypatch.setattr(OnnxBackend, "lower", wrong)
    with pytest.raises(sparsec.SparsecError, match="lowered model differs from the pruned one"):
        sparsec.compile(
            tmp_path / "net.onnx",
            passes=["unstructured:sparsity=0.5"],
            target="onnx",
            output=tmp_path / "a.sparsec",
        )


def test_overflow_is_infinitely_far_apart_and_no_warning():
    overflown = np.array([np.inf, 1.0], np.float32)
    assert difference(overflown, np.array([np.inf, 2.0], np.float32)) == np.inf
