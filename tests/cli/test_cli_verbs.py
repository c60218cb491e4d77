"""The other verbs: what each prints for scripts, and that each prints something for people."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import sparsec
from tests.graphs import normal, proto

NUMBER = (int, float)
MACHINE = {"cpu": str, "cpus": int, "features": list, "system": str, "onnxruntime": str}


def typed(value: dict[str, Any], **kinds: Any) -> None:
    """Fail unless ``value`` has each key with its type."""
    for key, kind in kinds.items():
        assert key in value, key
        assert isinstance(value[key], kind), key


def test_inspect_a_model(run: Any, mlp: Path) -> None:
    result = run("inspect", mlp, "--json")
    assert (result.code, result.err) == (0, "")
    value = result.json
    typed(value, kind=str, ops=dict, params=int, nonzero=int, macs=int, layers=list, frozen=list)
    assert value["kind"] == "model"
    assert value["ops"] == {"MatMul": 4, "Add": 1, "Relu": 1}
    assert value["macs"] == 32 * 64 + 2 * 64 * 33 + 640
    assert "groups" not in value
    first = value["layers"][0]
    assert first == {
        "name": "fc0", "op": "MatMul", "shape": [64, 32], "pattern": "dense", "sparsity": 0.0,
    }  # fmt: skip
    assert "MatMul 4" in run("inspect", mlp).out


def test_inspect_an_artifact(run: Any, compiled: Path) -> None:
    value = run("inspect", compiled, "--json", "--groups").json
    typed(value, kind=str, ops=dict, params=int, nonzero=int, macs=int, layers=list, frozen=list)
    assert value["kind"] == "artifact"
    assert {"name", "units", "makers"} <= set(value["groups"][0])
    assert [row["code"] for row in value["layers"]] == ["portable"] * 2 + ["dense", "portable"]
    people = run("inspect", compiled, "--why", "--groups").out
    assert value["groups"][0]["name"] in people
    assert "stored dense for any runtime" in people


def test_verify(run: Any, compiled: Path, mlp: Path) -> None:
    result = run("verify", compiled, "--json")
    assert (result.code, result.err) == (0, "")
    value = result.json
    assert value["passed"] is True
    assert value["hashes"]["passed"] is value["graph"]["passed"] is True
    typed(value["numerics"], passed=bool, samples=int, max_abs=NUMBER, max_rel=NUMBER)
    assert value["certificates"] == {"replayed": 0, "failed": 0, "with": "random", "max_rel": 0.0}
    value = run("verify", compiled, "--model", mlp, "--json").json
    assert value["certificates"]["with"] == "model"
    typed(value["fidelity"], cosine=float, agreement=float)
    people = run("verify", compiled).out
    assert re.search(r"hashes +3 files: ok", people)
    assert re.search(r"numerics +max_rel .* ok", people)


def test_bench(run: Any, compiled: Path, mlp: Path) -> None:
    call = ("bench", compiled, "--threads", "1,2", "--batch", "1,3", "--rounds", "2")
    result = run(*call, "--json")
    assert (result.code, result.err) == (0, "")
    value = result.json
    typed(value["machine"], **MACHINE)
    assert [(row["threads"], row["batch"]) for row in value["rows"]] == [
        (1, 1), (2, 1), (1, 3), (2, 3),
    ]  # fmt: skip
    for row in value["rows"]:
        assert row.keys() == {
            "threads", "batch", "dense_ms", "sparse_ms", "speedup", "speedup_p10", "speedup_p90",
            "rounds",
        }  # fmt: skip
        assert row["rounds"] == 2
        assert row["dense_ms"] > 0
        assert row["sparse_ms"] > 0
        assert row["speedup"] == pytest.approx(row["dense_ms"] / row["sparse_ms"])
        assert row["speedup_p10"] <= row["speedup_p90"]
    people = run("bench", compiled, "--against", mlp, "--rounds", "1").out
    assert "speed-up" in people


def test_bench_against_a_model_that_takes_other_inputs(
    run: Any, compiled: Path, tmp_path: Path
) -> None:
    """The runtime would name neither file, and ask for data that bench does not take."""
    graph = proto([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 7]}, ["y"])
    (tmp_path / "other.onnx").write_bytes(graph.SerializeToString())
    result = run("bench", compiled, "--against", tmp_path / "other.onnx", "--rounds", "1")
    assert result.code == 1
    assert "other.onnx: takes 'x' [1,7], but" in result.err
    assert "--calib" not in result.err


def test_a_model_that_no_made_up_input_fits_is_verified_and_timed_on_given_ones(
    run: Any, tmp_path: Path
) -> None:
    """Its length is declared dynamic, but only 9001 is right."""
    nodes = [
        helper.make_node("Reshape", ["x", "sizes"], ["r"], "r"),
        helper.make_node("MatMul", ["r", "w"], ["y"], "layer"),
    ]
    weights = {"sizes": np.array([0, 9001, 16]), "w": normal(16, 16)}
    graph = proto(nodes, {"x": ["batch", "length", 16]}, ["y"], weights)
    (tmp_path / "m.onnx").write_bytes(graph.SerializeToString())
    np.savez(tmp_path / "x.npz", x=normal(2, 1, 9001, 16))
    given = ("--calib", tmp_path / "x.npz")
    assert run("compile", "m.onnx", "--pass", "nm24", "--target", "onnx", *given).code == 0
    for verb in (("verify", "m.sparsec", "--model", "m.onnx"), ("bench", "m.sparsec")):
        refused = run(*verb)
        assert refused.code == 1
        assert "give one valid feed with --calib" in refused.err
    value = run("verify", "m.sparsec", "--model", "m.onnx", *given, "--json").json
    assert value["numerics"]["samples"] == 2
    assert 0 < value["fidelity"]["cosine"] < 1
    rows = run("bench", "m.sparsec", "--against", "m.onnx", "--rounds", 1, *given, "--json").json
    assert [row["batch"] for row in rows["rows"]] == [1]
    both = run("bench", "m.sparsec", "--batch", 2, *given)
    assert both.code == 2
    assert "leave --batch out" in both.err


def test_passes(run: Any) -> None:
    value = run("passes", "--json").json
    names = [entry["name"] for entry in value["passes"]]
    assert {"nm", "unstructured", "block"} <= set(names)
    for entry in value["passes"]:
        typed(entry, name=str, summary=str, exact=bool, aliases=dict, options=list, doc=str)
        for option in entry["options"]:
            typed(option, name=str, type=str)
            assert "default" in option
    people = run("passes").out
    assert all(name in people for name in names)
    assert "nm24" in people


@pytest.mark.parametrize("name", ["nm", "nm24"])
def test_one_pass(run: Any, name: str) -> None:
    value = run("passes", name, "--json").json
    assert value["name"] == "nm"
    assert {"n", "m", "criterion", "include", "exclude", "ops"} <= {
        option["name"] for option in value["options"]
    }
    people = run("passes", name).out
    assert "criterion" in people
    assert "nm24 is short for" in people
    assert "\\n" not in people


def test_targets(run: Any) -> None:
    value = run("targets", "--json").json
    names = {entry["name"] for entry in value["targets"]}
    assert names >= {
        "cpu", "onnx", "x86-avx2", "x86-avx512", "aarch64", "a100", "h100", "h200", "b200",
        "rtx4090", "mi300", *(f"tensorrt-sm{sm}" for sm in (80, 86, 89, 90, 120)),
    }  # fmt: skip
    for entry in value["targets"]:
        typed(entry, name=str, title=str, status=str, available=bool, patterns=list, features=list)
        assert entry["status"] in {"measured here", "modelled", "emitted only", "planned"}
        assert (entry["reason"] is None) == entry["available"]
    people = run("targets").out
    assert all(name in people for name in names)


def test_one_target(run: Any) -> None:
    assert run("targets", "onnx", "--json").json["name"] == "onnx"
    assert "status" in run("targets", "onnx").out


def test_doctor(run: Any) -> None:
    result = run("doctor", "--json")
    assert result.code == 0
    typed(result.json["machine"], **MACHINE)
    for check in result.json["checks"]:
        typed(check, name=str, ok=bool, finding=str)
        assert "way_out" in check
    assert {"python", "onnxruntime", "torch", "triton", "target onnx"} <= {
        check["name"] for check in result.json["checks"]
    }
    assert "target onnx" in run("doctor").out


def test_version(run: Any) -> None:
    assert sparsec.__version__ in run("--version").out


@pytest.mark.parametrize(
    "verb", ["compile", "inspect", "bench", "verify", "passes", "targets", "doctor"]
)
def test_every_verb_has_help_and_json(run: Any, verb: str) -> None:
    result = run(verb, "--help")
    assert result.code == 0
    assert "--json" in result.out
    assert verb in run("--help").out


def test_nothing_is_reported_to_the_runtimes_vendor(
    shell: Any, compiled: Path, tmp_path: Path
) -> None:
    """ONNX Runtime leaves a session file where its telemetry is on."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert shell("verify", compiled, TMPDIR=str(scratch)).code == 0
    assert not list(scratch.iterdir())
