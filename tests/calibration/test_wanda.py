"""The criterion wanda, from formula to command line."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper

import sparsec
from sparsec.cli.main import main
from sparsec.ir.errors import PassConfigError
from sparsec.ir.load import load_model
from sparsec.ir.sites import weight_sites
from sparsec.passes.base import PassContext
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.masks.nm import nm_mask
from sparsec.passes.spec import parse_spec
from tests.calibration import nets
from tests.graphs import normal, proto


def matrices(model):
    return {site.name: site.matrix() for site in weight_sites(model)}


def prune(spec, model, feeds, **options):
    return parse_spec(spec).run(model, PassContext(calibration=Calibration(feeds, **options)))


def chain():
    """Two layers, so that the order matters to the second."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["g"]),
        helper.make_node("MatMul", ["g", "b"], ["y"], "second"),
    ]
    weights = {"a": normal(16, 16), "b": normal(16, 16, seed=1)}
    return load_model(proto(nodes, {"x": ["n", 16]}, ["y"], weights))


def inputs():
    scale = np.exp(normal(16, seed=9))
    return [{"x": normal(32, 16, seed=i) * scale} for i in range(3)]


def masked(weight, x):
    """The formula, in numpy: weight [out, reduction]."""
    score = np.abs(weight) * np.linalg.norm(x, axis=0)
    return np.where(nm_mask(score, 2, 4), weight, 0)


@pytest.mark.parametrize("order", ["sequential", "parallel"])
def test_equals_the_formula(order):
    dense = matrices(chain())
    model, feeds = chain(), inputs()
    result = prune(f"nm24:criterion=wanda,order={order}", model, feeds)
    found = matrices(model)
    x = np.concatenate([feed["x"] for feed in feeds])
    np.testing.assert_array_equal(found["first"], masked(dense["first"], x))
    first = found["first"] if order == "sequential" else dense["first"]
    hidden = np.maximum(x @ first.T, 0)
    np.testing.assert_array_equal(found["second"], masked(dense["second"], hidden))
    assert result.changed == ["first", "second"]
    assert result.notes["sparsity"] == 0.5
    assert {str(site.pattern) for site in weight_sites(model)} == {"2:4"}


def test_the_two_orders_differ():
    one, two = chain(), chain()
    prune("unstructured:sparsity=0.9,criterion=wanda", one, inputs())
    prune("unstructured:sparsity=0.9,criterion=wanda,order=parallel", two, inputs())
    assert not np.array_equal(matrices(one)["second"], matrices(two)["second"])


def test_differs_from_magnitude_and_loses_less():
    from tests.graphs import run

    feeds, results = inputs(), {}
    for criterion in ("magnitude", "wanda"):
        model = chain()
        prune(f"nm24:criterion={criterion}", model, feeds)
        results[criterion] = [run(model, feed)["y"] for feed in feeds]
    dense = [run(chain(), feed)["y"] for feed in feeds]
    error = {
        name: sum(np.square(a - b).sum() for a, b in zip(outputs, dense, strict=True))
        for name, outputs in results.items()
    }
    assert error["wanda"] < 0.8 * error["magnitude"]


@pytest.mark.parametrize("spec", ["unstructured:sparsity=0.6", "block41:sparsity=0.5"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_every_mask_pass_takes_it(spec, scope):
    model = nets.network()
    result = prune(f"{spec},criterion=wanda,scope={scope}", model, nets.images(3))
    wanted = float(spec.split("=")[1].split(",")[0])
    assert len(result.changed) >= 2
    assert result.notes["sparsity"] == pytest.approx(wanted, abs=0.1)


def test_grouped_convolutions_are_judged_by_their_own_channels():
    weight = np.ones((4, 4, 1, 1), np.float32)
    model = nets.single("Conv", [1, 8, 5, 5], weight, group=2)
    x = normal(1, 8, 5, 5)
    x[:, [1, 3]] *= 10  # of group 0
    x[:, [4, 6]] *= 10  # of group 1
    prune("nm24:criterion=wanda", model, [{"x": x}])
    kept = matrices(model)["layer"] != 0
    assert kept.tolist() == [[False, True, False, True]] * 2 + [[True, False, True, False]] * 2


def test_an_unreached_layer_is_judged_by_its_weights():
    model = nets.branching()
    feeds = [feed for feed in nets.choices() if feed["first"]]
    dense = matrices(model)
    prune("unstructured:sparsity=0.5,criterion=wanda", model, feeds)
    kept = matrices(model)["else"] != 0
    assert np.abs(dense["else"][kept]).min() >= np.abs(dense["else"][~kept]).max()


def test_what_cannot_be_looked_at_is_skipped_with_the_reason():
    model = nets.branching(opset=12)
    result = prune("unstructured:sparsity=0.5,criterion=wanda", model, nets.choices())
    assert set(result.changed) == {"before", "after"}
    codes = {item.site: str(item.code) for item in result.skipped}
    assert codes == dict.fromkeys(["then", "deep", "else"], "not_observable")


def test_without_data_it_says_how_to_give_some():
    with pytest.raises(PassConfigError, match=r"nm:criterion=wanda needs .* give --calib SOURCE"):
        parse_spec("nm24:criterion=wanda").run(chain(), PassContext())


def test_an_unknown_order_is_refused_at_once():
    with pytest.raises(PassConfigError, match="order must be sequential or parallel"):
        parse_spec("nm24:order=random")


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["g"]),
        helper.make_node("MatMul", ["g", "b"], ["y"], "second"),
    ]
    weights = {"a": normal(16, 16), "b": normal(16, 16, seed=1)}
    onnx.save(proto(nodes, {"x": ["n", 16]}, ["y"], weights), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([feed["x"] for feed in inputs()]))
    return tmp_path


@pytest.fixture
def compile_(files, capsys):
    def call(*arguments):
        code = main(["compile", "net.onnx", "--target", "onnx", "--json", *arguments])
        return code, json.loads(capsys.readouterr().out)

    return call


def test_from_the_command_line(files, compile_):
    code, summary = compile_(
        "--pass", "nm24:criterion=wanda", "--calib", "data.npz", "--cache", "c"
    )
    assert code in (0, 5)
    assert [layer["pattern"] for layer in summary["layers"]] == ["2:4", "2:4"]
    assert summary["passes"][0]["options"]["criterion"] == "wanda"
    assert list((files / "c" / "statistics").glob("*.npz"))
    assert "second" in summary["passes"][0]["changed"]


def test_the_command_line_without_calibration(files, compile_):
    code, summary = compile_("--pass", "nm24:criterion=wanda")
    assert code == 2
    assert "--calib SOURCE" in summary["error"]["message"]
    assert not (files / "net.sparsec").exists()


def test_a_dry_run_calibrates_too(compile_):
    code, summary = compile_("--pass", "nm24:criterion=wanda", "--calib", "data.npz", "--dry-run")
    assert code == 0
    assert summary["passes"][0]["changed"] == ["first", "second"]


def test_from_python(files):
    artifact = sparsec.compile(
        "net.onnx", passes=["nm24:criterion=wanda"], calib="data.npz", target="onnx"
    )
    assert artifact.manifest["recipe"]["calib"] == "data.npz"
