"""The registered evaluators, against the definitions."""

from __future__ import annotations

import itertools
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparsec.cli.main import main
from sparsec.evaluate import evaluators, load_evaluator
from sparsec.ir.errors import CalibrationError
from sparsec.ir.load import load_model
from sparsec.ir.run import OrtRunner
from sparsec.ir.sources import load_feeds
from tests.graphs import matmul, normal, proto, tensor

VOCABULARY, WIDTH = 11, 6


def language_model(mask: bool = False):
    """Embedding and head: the next token depends on this one."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["h"], "embedding"),
        helper.make_node("MatMul", ["h", "head"], ["logits"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "lm",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
            for name in (["input_ids", "attention_mask"] if mask else ["input_ids"])
        ],
        [
            helper.make_tensor_value_info(
                "logits", TensorProto.FLOAT, ["batch", "length", VOCABULARY]
            )
        ],
        [
            tensor("table", normal(VOCABULARY, WIDTH)),
            tensor("head", normal(WIDTH, VOCABULARY, seed=1)),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def ids(items=4, length=9):
    return np.random.default_rng(0).integers(0, VOCABULARY, (items, length))


def test_they_are_registered():
    assert set(evaluators) >= {"labels", "perplexity", "agreement", "cosine"}


def test_perplexity_equals_the_definition(tmp_path):
    np.savez(tmp_path / "text.npz", input_ids=ids())
    model = load_model(language_model())
    run = OrtRunner(model, optimise=False).run
    logits = normal(VOCABULARY, WIDTH).astype(np.float64) @ normal(WIDTH, VOCABULARY, seed=1)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses = [-np.log(probability[a, b]) for row in ids() for a, b in itertools.pairwise(row)]
    evaluate = load_evaluator(f"perplexity:{tmp_path / 'text.npz'}", model)
    assert evaluate(run)["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    assert evaluate.data == "text.npz: 4 windows of 9 tokens"


def test_perplexity_leaves_padding_out_and_names_the_text(tmp_path):
    mask = np.ones((4, 9), np.int64)
    mask[1, 5:] = 0
    path = tmp_path / "text.npz"
    np.savez(path, input_ids=ids(), attention_mask=mask, text=np.array("Lee, second half"))
    model = load_model(language_model(mask=True))
    evaluate = load_evaluator(f"perplexity:{path}", model)
    assert evaluate.data == "Lee, second half: 4 windows of 9 tokens"
    whole = evaluate(OrtRunner(model, optimise=False).run)["perplexity"]
    short = ids()
    np.savez(path, input_ids=short[[0, 2, 3]], attention_mask=mask[[0, 2, 3]])
    three = load_evaluator(f"perplexity:{path}", model)
    np.savez(path, input_ids=short[[1], :5], attention_mask=mask[[1], :5])
    one = load_evaluator(f"perplexity:{path}", model)
    run = OrtRunner(model, optimise=False).run
    log = (24 * np.log(three(run)["perplexity"]) + 4 * np.log(one(run)["perplexity"])) / 28
    assert whole == pytest.approx(np.exp(log), rel=1e-5)


def test_perplexity_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=normal(2, 4))
    with pytest.raises(CalibrationError, match="perplexity needs 'input_ids'"):
        load_evaluator(f"perplexity:{tmp_path / 'x.npz'}", matmul(normal(4, 3)))


def test_labels(tmp_path):
    model = matmul(normal(6, 8))
    x = normal(40, 6)
    scores = x @ normal(6, 8)
    truth = scores.argsort(axis=1)[:, ::-1][np.arange(40), np.arange(40) % 8]  # rank 0..7 in turn
    np.savez(tmp_path / "d.npz", x=x, labels=truth)
    for source in (f"labels:{tmp_path / 'd.npz'}", str(tmp_path / "d.npz")):
        evaluate = load_evaluator(source, model)
        assert evaluate(OrtRunner(model).run) == {"top1": 1 / 8, "top5": 5 / 8}
        assert evaluate.data == "d.npz: 40 labels"


def test_labels_that_do_not_fit(tmp_path):
    model = matmul(normal(6, 8))
    np.savez(tmp_path / "d.npz", x=normal(4, 6), labels=np.zeros(3))
    with pytest.raises(CalibrationError, match="3 labels do not fit"):
        load_evaluator(str(tmp_path / "d.npz"), model)(OrtRunner(model).run)
    np.savez(tmp_path / "d.npz", x=normal(4, 6), labels=np.array([0, 1, 2, 8]))
    with pytest.raises(CalibrationError, match=r"the label 8; .* the classes 0 to 7"):
        load_evaluator(str(tmp_path / "d.npz"), model)(OrtRunner(model).run)
    for labels in (np.array(list("abcd")), np.array([0.5, 1, 2, 3]), np.full(4, np.nan)):
        np.savez(tmp_path / "d.npz", x=normal(4, 6), labels=labels)
        with pytest.raises(CalibrationError, match="must hold whole numbers"):
            load_evaluator(str(tmp_path / "d.npz"), model)
    np.savez(tmp_path / "d.npz", x=normal(4, 6))
    with pytest.raises(CalibrationError, match="no array 'labels'"):
        load_evaluator(str(tmp_path / "d.npz"), model)


def test_agreement_and_cosine_with_the_original(tmp_path):
    weight = normal(6, 8)
    original, other = matmul(weight), matmul(np.where(np.abs(weight) > 0.7, weight, 0))
    x = normal(40, 6)
    np.savez(tmp_path / "x.npz", x=x)
    agreement = load_evaluator(f"agreement:{tmp_path / 'x.npz'}", original)
    cosine = load_evaluator(f"cosine:{tmp_path / 'x.npz'}", original)
    assert agreement(OrtRunner(original).run) == {"agreement": 1.0}
    assert cosine(OrtRunner(original).run)["cosine"] == pytest.approx(1.0)
    a, b = x @ weight, x @ np.where(np.abs(weight) > 0.7, weight, 0)
    same = float((a.argmax(axis=1) == b.argmax(axis=1)).mean())
    assert agreement(OrtRunner(other).run)["agreement"] == pytest.approx(same)
    angles = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine(OrtRunner(other).run)["cosine"] == pytest.approx(angles.mean(), rel=1e-5)
    assert 0 < same < 1


def test_an_unknown_evaluator():
    with pytest.raises(
        CalibrationError, match=r"unknown evaluator .perplexty.; did you mean .perplexity."
    ):
        load_evaluator("perplexty:text.npz", matmul(normal(4, 3)))


def test_the_report_says_what_was_evaluated_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(language_model(), tmp_path / "lm.onnx")
    np.savez(tmp_path / "text.npz", input_ids=ids())
    command = ["compile", "lm.onnx", "--target", "onnx", "--pass", "unstructured:sparsity=0.5"]
    command += ["--calib", "text.npz", "--eval", "perplexity:text.npz", "--goal", "perplexity=+50"]
    assert main([*command, "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    assert accuracy["data"] == "text.npz: 4 windows of 9 tokens"
    assert accuracy["before"]["perplexity"] != accuracy["after"]["perplexity"]
    assert main([*command, "--force", "-q"]) == 0
    assert "evaluated on text.npz: 4 windows of 9 tokens" in capsys.readouterr().out


def test_sources_joined_by_a_plus_alternate(tmp_path):
    model = matmul(normal(2, 3))
    np.savez(tmp_path / "a.npz", x=np.full((3, 2), 1.0))
    np.savez(tmp_path / "b.npz", x=np.full((1, 2), 2.0))
    feeds = load_feeds(f"{tmp_path / 'a.npz'}+{tmp_path / 'b.npz'}", model)
    assert [float(feed["x"][0, 0]) for feed in feeds] == [1, 2, 1, 1]


def test_a_file_with_a_plus_in_its_name_is_one_source(tmp_path):
    np.savez(tmp_path / "a+b.npz", x=np.zeros((2, 2)))
    assert len(load_feeds(str(tmp_path / "a+b.npz"), matmul(normal(2, 3)))) == 2


def test_a_missing_source_of_several_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 2)))
    with pytest.raises(CalibrationError, match=r"b\.npz: no such file"):
        load_feeds(f"{tmp_path / 'a.npz'}+{tmp_path / 'b.npz'}", matmul(normal(2, 3)))


def test_the_models_own_input_may_be_called_labels(tmp_path):
    layer = helper.make_node("MatMul", ["labels", "w"], ["y"], "layer")
    model = load_model(proto([layer], {"labels": ["n", 2]}, ["y"], {"w": normal(2, 3)}))
    np.savez(tmp_path / "a.npz", labels=np.zeros((2, 2)))
    assert len(load_feeds(str(tmp_path / "a.npz"), model)) == 2
