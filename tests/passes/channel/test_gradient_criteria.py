"""Criteria with gradients, against gradients written out by hand in double precision."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from onnx import helper

import sparsec
from sparsec.cli.main import main
from sparsec.ir.errors import CalibrationError, PassConfigError, PassError
from sparsec.ir.groups import find_groups
from sparsec.passes.base import PassContext
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.channel.scores import unit_scores
from tests.graphs import model, normal

torch = pytest.importorskip("torch")

HIDDEN, INPUTS, CLASSES = 6, 5, 4


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    return {
        "w0": normal(HIDDEN, INPUTS, seed=seed),
        "b0": normal(HIDDEN, seed=seed + 1),
        "w1": normal(CLASSES, HIDDEN, seed=seed + 2),
        "b1": normal(CLASSES, seed=seed + 3),
    }


def net(softmax: bool = False):
    """Gemm -> Relu -> Gemm (-> Softmax), 5 inputs, 6 hidden units, 4 outputs, batch 1."""
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["a"], "relu"),
        helper.make_node("Gemm", ["a", "w1", "b1"], ["z"], "second", transB=1),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["z"], ["p"], "softmax", axis=-1))
    return model(nodes, {"x": [1, INPUTS]}, ["p" if softmax else "z"], weights())


def backward(x: np.ndarray, top: np.ndarray) -> dict[str, np.ndarray]:
    """Return w * dL/dw of both layers and the first bias, given dL/dz, in double precision."""
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    h = w["w0"] @ x + w["b0"]
    down = (w["w1"].T @ top) * (h > 0)
    return {
        "w0": w["w0"] * np.outer(down, x),
        "b0": w["b0"] * down,
        "w1": w["w1"] * np.outer(top, np.maximum(h, 0)),
    }


def logits(x: np.ndarray) -> np.ndarray:
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    return w["w1"] @ np.maximum(w["w0"] @ x + w["b0"], 0) + w["b1"]


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def scores(graph, criterion: str, calibration: Calibration | None, **options) -> np.ndarray:
    groups = find_groups(graph)
    context = PassContext(seed=3, calibration=calibration)
    (found,) = unit_scores(groups, list(groups.groups), criterion, context, **options)
    return found


SAMPLES = [normal(1, INPUTS, seed=10 + i) for i in range(7)]
LABELS = np.array([0, 3, 1, 2, 2, 0, 1])

PER_SAMPLE = {
    "taylor": lambda p, axis: np.abs(p.sum(axis=axis)),
    "saliency": lambda p, axis: np.abs(p).sum(axis=axis),
    "hessian": lambda p, axis: 0.5 * np.square(p).sum(axis=axis),
}


@pytest.mark.parametrize("criterion", PER_SAMPLE)
@pytest.mark.parametrize("with_softmax", [False, True])
@pytest.mark.parametrize("reduce", ["first", "sum", "max", "prod", "mean"])
def test_scores_by_labels(criterion: str, with_softmax: bool, reduce: str):
    calibration = Calibration([{"x": x} for x in SAMPLES], labels=LABELS)
    found = scores(net(with_softmax), criterion, calibration, reduce=reduce)
    first, second = [], []
    for x, label in zip(SAMPLES, LABELS, strict=True):
        top = softmax(logits(x[0])) - np.eye(CLASSES)[label]
        products = backward(x[0].astype(np.float64), top)
        first.append(PER_SAMPLE[criterion](products["w0"], 1))
        second.append(PER_SAMPLE[criterion](products["w1"], 0))
    tensors = np.stack([np.mean(first, axis=0), np.mean(second, axis=0)])
    expected = tensors[0] if reduce == "first" else getattr(np, reduce)(tensors, axis=0)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("criterion", "of_the_sum"), [("taylor-group", np.abs), ("fisher", lambda s: s**2 / 2)]
)
def test_the_group_forms_add_up_all_tensors_first(criterion: str, of_the_sum):
    calibration = Calibration([{"x": x} for x in SAMPLES], labels=LABELS)
    found = scores(net(), criterion, calibration)
    expected = []
    for x, label in zip(SAMPLES, LABELS, strict=True):
        top = softmax(logits(x[0])) - np.eye(CLASSES)[label]
        p = backward(x[0].astype(np.float64), top)
        expected.append(of_the_sum(p["w0"].sum(axis=1) + p["b0"] + p["w1"].sum(axis=0)))
    np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=2e-4, atol=1e-7)


def test_without_labels_the_square_is_the_fisher_information_of_a_distribution():
    x = SAMPLES[0]
    found = scores(net(softmax=True), "hessian", Calibration([{"x": x}] * 4000), reduce="first")
    p = softmax(logits(x[0]))
    exact = sum(
        p[y] * PER_SAMPLE["hessian"](backward(x[0].astype(float), p - np.eye(CLASSES)[y])["w0"], 1)
        for y in range(CLASSES)
    )
    np.testing.assert_allclose(found, exact, rtol=0.1, atol=1e-9)


def test_without_labels_the_square_is_the_gauss_newton_diagonal_of_numbers():
    x = SAMPLES[0]
    found = scores(net(), "hessian", Calibration([{"x": x}] * 4000), reduce="first")
    z = logits(x[0])
    squares = [backward(x[0].astype(float), row)["w0"] ** 2 for row in np.eye(CLASSES)]
    exact = 0.5 * np.sum(squares, axis=(0, 2)) / (z**2).sum()
    np.testing.assert_allclose(found, exact, rtol=0.1, atol=1e-9)


def test_a_few_samples_are_drawn_for_more_than_once():
    few = scores(net(), "hessian", Calibration([{"x": SAMPLES[0]}]), reduce="first")
    many = scores(net(), "hessian", Calibration([{"x": SAMPLES[0]}] * 400), reduce="first")
    np.testing.assert_allclose(few, many, rtol=0.6)
    again = scores(net(), "hessian", Calibration([{"x": SAMPLES[0]}]), reduce="first")
    np.testing.assert_array_equal(few, again)


def test_what_nobody_listens_to_goes_first_though_its_weights_are_large():
    graph = net()
    initializers = graph.graph.initializers
    loud, deaf = weights()["w0"], weights()["b0"]
    loud[2], deaf[2] = 9.0, -500.0  # large, and never above zero
    from sparsec.ir.edits import replace_array

    replace_array(initializers["w0"], loud)
    replace_array(initializers["b0"], deaf)
    calibration = Calibration([{"x": x} for x in SAMPLES])
    for criterion in ("taylor", "taylor-group", "saliency", "hessian", "fisher"):
        assert scores(graph, criterion, calibration).argmin() == 2
    assert scores(graph, "l1", None).argmax() == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(3), "3 labels do not fit 7 samples"),
        (np.array([0, 1, 2, 3, 4, 0, 1]), "labels up to 4"),
        (np.full(7, 0.5), "whole numbers"),
        (np.full(7, -1), "from 0 up"),
    ],
)
def test_labels_that_do_not_fit(labels: np.ndarray, message: str):
    calibration = Calibration([{"x": x} for x in SAMPLES], labels=labels)
    with pytest.raises(CalibrationError, match=message):
        scores(net(), "taylor", calibration)


def test_data_and_torch_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(PassConfigError, match="needs calibration data"):
        scores(net(), "taylor", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("sparsec.ir.fx")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(PassError, match=r"pip install 'sparsec\[torch\]'"):
        scores(net(), "taylor", Calibration([{"x": SAMPLES[0]}]))


def test_labels_come_with_the_calibration_file(tmp_path, capsys):
    import onnx_ir as ir

    ir.save(net(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate(SAMPLES), labels=LABELS)
    spec = "channel:sparsity=0.5,round=1,criterion=taylor"
    artifact = sparsec.compile(
        tmp_path / "net.onnx",
        passes=[spec],
        target="onnx",
        calib=str(tmp_path / "data.npz"),
        output=tmp_path / "a.sparsec",
    )
    certificate = artifact.manifest["certificates"][0]
    assert certificate["units"] == HIDDEN // 2
    np.savez(tmp_path / "bad.npz", x=np.concatenate(SAMPLES), labels=LABELS[:3])
    arguments = ["compile", str(tmp_path / "net.onnx"), "--pass", spec, "--target", "onnx"]
    assert main([*arguments, "--calib", str(tmp_path / "bad.npz"), "--dry-run"]) == 1
    assert "3 labels do not fit" in capsys.readouterr().err


def test_unknown_words_are_refused():
    for option in ("criterion=tailor", "reduce=median", "normalise=softmax"):
        key, _, value = option.partition("=")
        with pytest.raises(PassConfigError, match=f"unknown {key} '{value}'; did you mean|{value}"):
            sparsec.passes.spec.parse_spec(f"channel:sparsity=0.5,{option}")
