"""Exit codes and failures: each code from a real cause, each failure as one object."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nasty_bytes
import onnx
import pytest
from onnx import TensorProto, helper

from sparsec.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def failure(result: Any) -> dict[str, Any]:
    """Return the error of a failed call, having checked its shape."""
    value = result.json
    assert value.keys() == {"error", "exit_code"}
    assert value["exit_code"] == result.code != 0
    error: dict[str, Any] = value["error"]
    assert error.keys() == {"type", "message", "where"}
    assert all(isinstance(item, str) for item in error.values())
    assert error["message"]
    assert "Traceback" not in result.err
    return error


USAGE = [
    (("compil",), "did you mean 'compile'"),
    (("compile",), "Missing argument 'MODEL'"),
    (("compile", "M", "--targt", "cpu"), "Did you mean '--target'"),
    (("compile", "M", "--target", "onx"), "did you mean 'onnx'"),
    (("compile", "M", "--target", "onnx", "--pass", "nm42"), "did you mean 'nm4"),
    (("compile", "M", "--target", "onnx", "--pass", "blok"), "did you mean 'block'"),
    (("compile", "M", "--target", "onnx", "--pass", "nm24:exlude=a"), "did you mean 'exclude'"),
    (("compile", "M", "--target", "onnx", "--pass", "nm:n=4,m=2"), "0 < n < m"),
    (("compile", "M", "--target", "onnx", "--pass", "nm:n=x"), "cannot be read as int"),
    (("compile", "M", "--target", "onnx", "--pass", "nm24:include=("), "no regular expression"),
    (("compile", "M", "--goal", "latency"), "metric=change"),
    (("compile", "M", "--goal", "latency=40%"), "must be negative"),
    (("compile", "M", "--goal", "latency=-200%"), "more than 100 %"),
    (("compile", "M", "--seed", "-1"), "--seed"),
    (("compile", ""), "'MODEL': '': needed a path, got nothing"),
    (("compile", "M", "-o", ""), "'--output': '': needed a path"),
    (("compile", "M", "--target", " "), "'--target': ' ': needed a name"),
    (("compile", "M", "--calib", ""), "'--calib': '': needed a source"),
    (("compile", "M", "--eval", ""), "'--eval': '': needed a source"),
    (("compile", "M", "--cache", ""), "'--cache': '': needed a path"),
    (("compile", "M", "--recipe", ""), "'--recipe': '': needed a path"),
    (("bench", "A", "--against", ""), "'--against': '': needed a path"),
    (("verify", "A", "--model", ""), "'--model': '': needed a path"),
    (("compile", "M", "--target", "onnx", "-o", "no/such/folder.sparsec"), "no such folder"),
    (("compile", "M", "--target", "onnx", "-o", "M"), "never replaced"),
    (("compile", "M", "--target", "onnx", "--goal", "top1=-0.5"), "give --eval SOURCE"),
    (("compile", "M", "--target", "onnx", "--goal", "latencyy=-5%"), "did you mean 'latency'"),
    (("compile", "M", "--target", "onnx", "--cache", "/dev/null/c"), "--cache /dev/null/c"),
    (
        ("compile", "M", "--dry-run", "--pass", "unstructured", "--goal", "bytes=-5%"),
        "cannot solve for a sparsity",
    ),
    (("bench", "A", "--threads", "0"), "at least 1"),
    (("bench", "A", "--threads", "1,999999"), "at most 1024 threads"),
    (("bench", "A", "--threads", "two"), "no list of whole numbers"),
    (("passes", "nm42"), "did you mean 'nm4"),
    (("targets", "a10"), "did you mean 'a100'"),
]


@pytest.mark.parametrize(("arguments", "words"), USAGE, ids=lambda value: str(value)[:60])
def test_usage_errors_are_2(
    run: Any, mlp: Path, compiled: Path, arguments: tuple[str, ...], words: str
) -> None:
    paths = {"M": mlp, "A": compiled}
    result = run(*(paths.get(item, item) for item in arguments), "--json")
    assert result.code == 2
    assert words in failure(result)["message"]
    assert result.err == ""


def test_a_goal_that_no_sparsity_can_be_solved_for_is_4(run: Any, mlp: Path) -> None:
    result = run("compile", mlp, "--target", "onnx", "--pass", "unstructured", "--goal",
                 "latency=-40%", "--json")  # fmt: skip
    assert result.code == 4
    assert "cannot be timed here; give sparsity=" in failure(result)["message"]
    assert not list(Path.cwd().iterdir())


def test_errors_for_people_go_to_stderr(run: Any, mlp: Path) -> None:
    result = run("compile", mlp, "--target", "onx")
    assert (result.code, result.out) == (2, "")
    assert result.err == "sparsec: unknown target 'onx'; did you mean 'onnx'?\n"


def test_nothing_to_do_is_a_usage_error_with_help(run: Any) -> None:
    result = run()
    assert result.code == 2
    assert "compile" in result.err
    assert result.out == ""


@pytest.mark.parametrize("case", nasty_bytes.MODELS, ids=lambda case: case[0])
def test_what_is_no_model_is_1(run: Any, tmp_path: Path, case: tuple[str, bytes]) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(case[1])
    result = run("compile", path, "--target", "onnx", "--json")
    assert result.code == 1
    error = failure(result)
    assert error["type"] == "ModelImportError"
    assert "bad.onnx" in error["message"]
    assert [file.name for file in tmp_path.iterdir()] == ["bad.onnx"]


def test_a_missing_model_is_1(run: Any) -> None:
    result = run("compile", "none.onnx", "--target", "onnx", "--json")
    assert result.code == 1
    assert "none.onnx" in failure(result)["message"]


@pytest.mark.parametrize("option", ["--calib", "--eval"])
@pytest.mark.parametrize("source", ["none.npz", "no_such_module:f", "nothing"])
def test_data_that_cannot_be_used_is_1(run: Any, mlp: Path, option: str, source: str) -> None:
    call = ("compile", mlp, "--pass", "nm24", "--target", "onnx", option, source, "--json")
    result = run(*call)
    assert result.code == 1
    assert source.partition(":")[0] in failure(result)["message"]


def test_a_damaged_artifact_is_1_and_an_altered_one_is_3(run: Any, artifact: Path) -> None:
    data = artifact / "model.onnx.data"
    good = data.read_bytes()
    data.write_bytes(good[:-1])
    result = run("verify", artifact, "--json")
    assert result.code == 1
    assert failure(result)["type"] == "ArtifactError"
    data.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    for verb in ("verify", "inspect", "bench"):
        result = run(verb, artifact, "--json")
        assert result.code == 3
        error = failure(result)
        assert error["type"] == "HashMismatchError"
        assert error["where"] == str(data)


def test_the_wrong_model_is_3(run: Any, artifact: Path, tmp_path: Path, write_model: Any) -> None:
    other = write_model(tmp_path / "other.onnx", name="other")
    result = run("verify", artifact, "--model", other, "--json")
    assert result.code == 3
    assert "not the model" in failure(result)["message"]


def test_a_planned_target_is_4(run: Any, mlp: Path) -> None:
    result = run("compile", mlp, "--target", "tensorrt-sm80", "--json")
    assert result.code == 4
    assert failure(result)["type"] == "UnsupportedTargetError"


def test_an_operator_that_cannot_be_run_is_4(run: Any, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(nasty_bytes.custom_operator())
    result = run("compile", tmp_path / "m.onnx", "--target", "onnx", "--pass", "nm24", "--json")
    assert result.code == 4
    error = failure(result)
    assert error["type"] == "UnsupportedOpError"
    assert "Mystery" in error["message"]


def test_the_graph_of_an_artifact_is_no_source(run: Any, tmp_path: Path) -> None:
    region = helper.make_node("Region", ["plan", "x"], ["y"], "region_0", domain="sparsec")
    graph = helper.make_graph(
        [region],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor("plan", TensorProto.UINT8, [1], [0])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("sparsec", 1)]
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx"
    )
    result = run("compile", tmp_path / "model.onnx", "--target", "onnx", "--pass", "nm24", "--json")
    assert result.code == 4
    assert "give the model that it was compiled from" in failure(result)["message"]


def test_nothing_changed_is_5_and_written(run: Any, mlp: Path, tmp_path: Path) -> None:
    result = run("compile", mlp, "--target", "onnx", "--json")
    assert result.code == result.json["exit_code"] == 5
    assert any("nothing was changed" in note for note in result.json["notes"])
    assert run("verify", tmp_path / "mlp.sparsec", "--json").code == 0


def test_a_missed_goal_is_5_and_a_met_one_0(run: Any, mlp: Path) -> None:
    call = ("compile", mlp, "--pass", "nm24", "--target", "onnx", "--force", "--json")
    assert run(*call, "--goal", "nonzero=-90%").code == 5
    result = run(*call, "--goal", "nonzero=-20%")
    assert result.code == 0
    assert [goal["met"] for goal in result.json["goals"]] == [True]


def test_a_goal_that_cannot_be_measured_is_not_missed(run: Any, mlp: Path) -> None:
    call = ("compile", mlp, "--pass", "nm24", "--target", "onnx", "--goal", "latency=-40%")
    result = run(*call, "--json")
    assert result.code == 0
    assert [goal["met"] for goal in result.json["goals"]] == [None]


def test_a_goal_that_nobody_evaluates_is_2(run: Any, mlp: Path, tmp_path: Path) -> None:
    call = ("compile", mlp, "--pass", "nm24", "--target", "onnx", "--goal", "top1=-0.01")
    result = run(*call, "--json")
    assert result.code == 2
    assert "--eval" in failure(result)["message"]
    assert not list(tmp_path.iterdir())


def test_tracebacks_only_with_v(run: Any) -> None:
    assert "Traceback" not in run("compile", "none.onnx", "--target", "onnx").err
    assert "Traceback" in run("compile", "none.onnx", "--target", "onnx", "-v").err


def test_a_bug_is_reported_as_one(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, **options: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("sparsec.inspection.inspect_path", broken)
    result = run("inspect", "x", "--json")
    assert result.code == 1
    assert "internal error: ZeroDivisionError: a bug" in failure(result)["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(mlp: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "def evaluate(run):\n"
        "    pathlib.Path('started').touch()\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-m", "sparsec", "compile", str(mlp), "--pass", "nm24"]
    command += ["--target", "onnx", "--eval", "slow:evaluate", "--json"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(scratch),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # tests may run under nohup
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert '"Interrupted"' in out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scratch", "slow.py", "started"]
    assert not list(scratch.iterdir())


def test_a_reader_that_goes_away_is_no_error(compiled: Path) -> None:
    command = (
        f"{sys.executable} -m sparsec inspect {compiled} --json | true; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.stdout.strip() == "0"
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [(), ("--json",)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_cannot_be_printed_is_said(
    compiled: Path, arguments: tuple[str, ...], unbuffered: str
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sparsec", "inspect", str(compiled), *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "sparsec: the result cannot be printed: No space left on device\n"


def test_closed_streams_are_no_failure() -> None:
    call = [sys.executable, "-m", "sparsec", "passes"]
    done = subprocess.run(
        ["sh", "-c", '"$@" >&- 2>&-', "sh", *call],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0


def test_main_is_importable_without_side_effects() -> None:
    assert callable(main)
