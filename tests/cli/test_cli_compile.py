"""``sparsec compile``: what it prints, in both forms, and where it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import yaml

from sparsec.artifact.reader import open_artifact
from sparsec.backends.cpu.library import why_no_library

NUMBER = (int, float)
TOTALS = {"params": int, "nonzero": int, "bytes": int, "macs": int}
# The contract of docs/cli.md: every key with its type. What stands here may be added to only.
SHAPE: dict[str, Any] = {
    "artifact": str,
    "target": str,
    "passes": [
        {
            "name": str,
            "options": dict,
            "changed": [str],
            "skipped": [{"site": str, "code": str, "reason": str}],
        }
    ],
    "layers": [
        {
            "name": str,
            "op": str,
            "shape": [int],
            "pattern": str,
            "sparsity": NUMBER,
            "kernel": str,
            "code": str,
            "reason": str,
        }
    ],
    "before": TOTALS,
    "after": TOTALS,
    "verify": {"passed": bool, "samples": int, "max_abs": NUMBER, "max_rel": NUMBER},
    "fidelity": {"cosine": NUMBER, "agreement": NUMBER},
    "exit_code": int,
}
LATENCY = {"dense_ms": NUMBER, "sparse_ms": NUMBER, "speedup": NUMBER}


def conforms(value: Any, shape: Any, at: str = "") -> None:
    """Fail if ``value`` lacks a key of ``shape`` or has another type there."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), at
        for key, inner in shape.items():
            assert key in value, f"{at}.{key}"
            conforms(value[key], inner, f"{at}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), at
        for index, item in enumerate(value):
            conforms(item, shape[0], f"{at}[{index}]")
    else:
        assert isinstance(value, shape), at
        assert not isinstance(value, bool) or shape is bool, at


def test_json_has_every_key_of_the_contract(run: Any, mlp: Path) -> None:
    result = run("compile", mlp, "--pass", "nm24", "--target", "onnx", "--json")
    assert result.code == 0
    summary = result.json
    conforms(summary, SHAPE)
    assert summary["accuracy"] is None
    assert summary["latency"] is None
    assert summary["target"] == "onnx"
    assert summary["exit_code"] == 0
    assert [layer["name"] for layer in summary["layers"]] == ["fc0", "fc1", "fc2", "fc3"]
    assert [layer["pattern"] for layer in summary["layers"]] == ["2:4", "2:4", "dense", "2:4"]
    assert summary["layers"][0]["shape"] == [64, 32]
    assert summary["layers"][0]["sparsity"] == 0.5
    (step,) = summary["passes"]
    assert step["changed"] == ["fc0", "fc1", "fc3"]
    assert [(item["site"], item["code"]) for item in step["skipped"]] == [
        ("fc2", "reduction_not_multiple")
    ]
    assert (
        summary["before"]["params"]
        == summary["after"]["params"]
        == 32 * 64 + 64 + 2 * 64 * 33 + 640
    )
    assert summary["before"]["nonzero"] - summary["after"]["nonzero"] == (2048 + 2112 + 640) // 2
    assert summary["after"]["macs"] == 32 * 64 + 2 * 64 * 33 + 640
    assert summary["before"]["bytes"] == mlp.stat().st_size


def test_json_stands_alone_on_stdout(shell: Any, mlp: Path) -> None:
    result = shell("compile", mlp, "--pass", "nm24", "--target", "onnx", "--json")
    assert result.out.startswith("{")
    assert result.out.rstrip().endswith("}")
    assert result.json["artifact"] == str(Path(result.json["artifact"]).absolute())
    assert result.err == ""


def test_people_get_a_table_and_progress_on_stderr(shell: Any, mlp: Path) -> None:
    result = shell("compile", mlp, "--pass", "nm24", "--target", "onnx")
    assert result.code == 0
    for words in ("before", "nonzero", "fidelity", "verify", "passed", "mlp.sparsec", "portable"):
        assert words in result.out
    assert "its reduction of 33 is not a multiple of 4: fc2" in result.out
    assert "import" in result.err
    assert "import" not in result.out
    assert "\x1b" not in result.out + result.err


def test_quiet_says_nothing_on_stderr(run: Any, mlp: Path) -> None:
    result = run("compile", mlp, "--pass", "nm24", "--target", "onnx", "-q")
    assert (result.code, result.err) == (0, "")
    assert "artifact" in result.out


def test_no_color_is_respected(run: Any, mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    result = run("compile", mlp, "--pass", "nm24", "--target", "onnx")
    assert result.code == 0
    assert "\x1b[3" not in result.out + result.err


def test_ascii_terminals_get_ascii(run: Any, shell: Any, tmp_path: Path, write_model: Any) -> None:
    model = write_model(tmp_path / "m.onnx", name="caf\u00e9 \u6df1")
    call = ("compile", model, "--pass", "nm24", "--target", "onnx", "--force")
    result = shell(*call, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert result.code == 0, result.err
    result = run(*call, "--json")  # for any terminal
    assert result.out.isascii()
    assert result.json["layers"][0]["name"] == "caf\u00e9 \u6df10"


def test_output_is_named_after_the_model(run: Any, mlp: Path, tmp_path: Path) -> None:
    assert run("compile", mlp, "--pass", "nm24", "--target", "onnx", "-q").code == 0
    assert (tmp_path / "mlp.sparsec" / "manifest.json").is_file()


@pytest.mark.parametrize("output", ["x.sparsec", "no-suffix", "with space.sparsec", "./y.sparsec/"])
def test_output_may_be_named(run: Any, mlp: Path, tmp_path: Path, output: str) -> None:
    call = ("compile", mlp, "--pass", "nm24", "--target", "onnx", "-o", output, "--json")
    assert run(*call).json["artifact"] == str(tmp_path / output)
    open_artifact(tmp_path / output)
    assert run("inspect", output, "--json").json["kind"] == "artifact"


def test_force_replaces(run: Any, mlp: Path) -> None:
    call = ("compile", mlp, "--pass", "nm24", "--target", "onnx", "--json")
    assert run(*call).code == 0
    refused = run(*call)
    assert refused.code == 2
    assert "--force" in refused.json["error"]["message"]
    assert run(*call, "--force").code == 0


def test_dry_run_writes_nothing_and_has_the_same_keys(run: Any, mlp: Path, tmp_path: Path) -> None:
    call = ("compile", mlp, "--pass", "nm24", "--target", "onnx", "--dry-run")
    result = run(*call, "--json")
    assert result.code == 0
    assert result.json.keys() >= SHAPE.keys() | {"accuracy", "latency"}
    assert result.json["artifact"] is None
    assert result.json["passes"][0]["changed"] == ["fc0", "fc1", "fc3"]
    assert "nothing was written" in run(*call).out
    assert not list(tmp_path.iterdir())


def test_the_manifests_recipe_gives_the_same_bytes(run: Any, mlp: Path, tmp_path: Path) -> None:
    first = ("--pass", "nm24:exclude=fc0", "--pass", "unstructured:sparsity=0.5", "--seed", "7")
    assert run("compile", mlp, *first, "--target", "onnx", "-o", "a.sparsec", "--json").code == 0
    recipe = json.loads((tmp_path / "a.sparsec/manifest.json").read_text())["recipe"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run("compile", mlp, "--recipe", "recipe.yaml", "-o", "b.sparsec", "--json").code == 0
    names = sorted(file.name for file in (tmp_path / "a.sparsec").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "b.sparsec").iterdir())
    for name in names:
        one, other = (tmp_path / folder / name for folder in ("a.sparsec", "b.sparsec"))
        assert one.read_bytes() == other.read_bytes(), name


def test_options_win_over_the_recipe(run: Any, mlp: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("sparsec: 1\ntarget: cpu\nseed: 3\npasses: [nm24]\n")
    call = ("compile", mlp, "--recipe", "r.yaml", "--target", "onnx", "--seed", "4", "--json")
    assert run(*call).json["target"] == "onnx"
    assert json.loads((tmp_path / "mlp.sparsec/manifest.json").read_text())["recipe"]["seed"] == 4
    both = run(*call, "--pass", "nm24")
    assert both.code == 2
    assert "not both" in both.json["error"]["message"]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("", "a recipe is a mapping"),
        ("[]", "a recipe is a mapping"),
        ("passes: [nm24]", "sparsec: 1"),
        ("sparsec: 2", "sparsec: 1"),
        ("sparsec: 1\npases: []", "did you mean 'passes'"),
        ("sparsec: 1\nseed: x", "whole number"),
        ("sparsec: 1\npasses: nm24", "must be a list"),
        ("sparsec: 1\npasses: [nm42]", "did you mean 'nm"),
        ("sparsec: 1\npasses: [{nm24: {exclde: []}}]", "did you mean 'exclude'"),
        ("sparsec: 1\npasses: [{nm24: {}, block: {}}]", "a pass is a SPEC"),
        ("sparsec: 1\ntarget: [cpu]", "must be a text"),
        ("sparsec: 1\ngoals: [latency]", "metric=change"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system [id]", "not valid YAML"),
    ],
)
def test_bad_recipes_are_usage_errors(
    run: Any, mlp: Path, tmp_path: Path, recipe: str, words: str
) -> None:
    (tmp_path / "r.yaml").write_text(recipe)
    result = run("compile", mlp, "--recipe", "r.yaml", "--target", "onnx", "--json")
    assert result.code == 2
    assert words in result.json["error"]["message"]


def test_a_missing_recipe_is_named(run: Any, mlp: Path) -> None:
    result = run("compile", mlp, "--recipe", "none.yaml", "--json")
    assert result.code == 2
    assert "none.yaml" in result.json["error"]["message"]


def test_evaluation_gives_accuracy_before_and_after(run: Any, mlp: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 32)).astype(np.float32)
    (scores,) = ort.InferenceSession(str(mlp)).run(None, {"x": x})
    labels = scores.argmax(axis=1)
    labels[:2] = scores.argmin(axis=1)[:2]  # two of eight are wrong
    np.savez(tmp_path / "e.npz", x=x, labels=labels)
    call = ("compile", mlp, "--pass", "nm24", "--target", "onnx", "--eval", "e.npz", "--json")
    accuracy = run(*call).json["accuracy"]
    assert accuracy["before"]["top1"] == pytest.approx(0.75)
    conforms(accuracy, {"before": {"top1": NUMBER, "top5": NUMBER}, "after": {"top1": NUMBER}})


def test_calibration_data_is_what_is_verified_on(run: Any, mlp: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "c.npz", x=rng.normal(size=(5, 1, 32)).astype(np.float32))
    call = ("compile", mlp, "--pass", "nm24", "--target", "onnx", "--calib", "c.npz", "--json")
    assert run(*call).json["verify"]["samples"] == 5


@pytest.mark.skipif(bool(why_no_library()), reason="SparseC was installed without its library")
def test_a_target_that_can_be_timed_gives_latency(run: Any, mlp: Path, tmp_path: Path) -> None:
    result = run("compile", mlp, "--pass", "unstructured:sparsity=0.9", "--json")
    summary = result.json
    conforms(summary, SHAPE)
    conforms(summary["latency"], LATENCY)
    assert summary["target"] == "cpu"
    assert summary["latency"]["speedup"] == pytest.approx(
        summary["latency"]["dense_ms"] / summary["latency"]["sparse_ms"]
    )
    # Whether so small a model gains is the machine's to say; that the verdict follows is ours.
    assert result.code == summary["exit_code"]
    assert result.code in (0, 5)
    assert any("no gain" in note for note in summary["notes"]) == (result.code == 5)
    assert "times as fast as dense, measured" in (tmp_path / "mlp.sparsec/report.html").read_text()


FUNCTIONS = """
import numpy as np

def direct(run):
    return {"sum": np.float32(run({"x": np.ones((1, 32), np.float32)})["y"].sum())}

def maker():
    return direct

def nothing(run):
    return {}

def broken(run):
    raise KeyError("oops")

def nan(run):
    return {"loss": float("nan")}

def text(run):
    return {"loss": "low"}

def leaves(run):
    raise SystemExit(0)

def fickle(run, calls=[]):
    calls.append(run)
    return {f"loss{len(calls)}": 1.0}
"""


@pytest.mark.parametrize("name", ["direct", "maker"])
def test_a_function_evaluates(run: Any, mlp: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "evaluation_functions.py").write_text(FUNCTIONS)
    source = f"evaluation_functions:{name}"
    call = ("compile", mlp, "--pass", "nm24", "--target", "onnx", "--eval", source, "--json")
    accuracy = run(*call).json["accuracy"]
    assert accuracy["before"]["sum"] != accuracy["after"]["sum"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "needed a dictionary of metrics"),
        ("broken", "the function failed: KeyError: 'oops'"),
        ("nan", "needed a finite number for 'loss', got nan"),
        ("text", "needed a finite number for 'loss', got 'low'"),
        ("leaves", "the function failed: SystemExit: 0"),
        ("fickle", "gave the metrics loss1 for the compiled model and loss2 for the original"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_a_function_that_fails_is_explained(
    run: Any, mlp: Path, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "evaluation_functions.py").write_text(FUNCTIONS)
    source = f"evaluation_functions:{name}"
    call = ("compile", mlp, "--pass", "nm24", "--target", "onnx", "--eval", source, "--json")
    result = run(*call)
    assert result.code == 1
    assert words in result.json["error"]["message"]
    assert not list(tmp_path.glob("*.sparsec"))
