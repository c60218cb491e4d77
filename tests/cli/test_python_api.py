"""The Python mirror of the command line: ``compile``, ``load`` and ``Session.run``."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

import sparsec
from sparsec.ir.errors import (
    ArtifactError,
    PassConfigError,
    ShapeError,
    UnsupportedTargetError,
    UsageError,
)
from sparsec.passes.nm import NMPass


def feed(batch: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).normal(size=(batch, 32)).astype(np.float32)}


def test_compile_and_run(mlp: Path, tmp_path: Path) -> None:
    artifact = sparsec.compile(mlp, passes=["nm24"], target="onnx", output=tmp_path / "a.sparsec")
    assert artifact.path == tmp_path / "a.sparsec"
    assert artifact.exit_code == 0
    assert artifact.summary()["layers"][0]["pattern"] == "2:4"
    (one,) = sparsec.load(artifact.path).run(feed()).values()
    (other,) = artifact.session(threads=1).run(feed()).values()
    assert one.shape == (2, 10)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["path", "str", "proto", "ir"])
def test_sources_are_not_changed(mlp: Path, tmp_path: Path, kind: str) -> None:
    before = mlp.read_bytes()
    proto, model = onnx.load(mlp), onnx_ir.load(mlp)
    source = {"path": mlp, "str": str(mlp), "proto": proto, "ir": model}[kind]
    artifact = sparsec.compile(
        source, passes=["nm24"], target="onnx", output=tmp_path / "a.sparsec"
    )
    assert artifact.manifest["layers"][0]["sparsity"] == 0.5
    assert mlp.read_bytes() == before
    assert proto.SerializeToString() == onnx.load(mlp).SerializeToString()
    assert onnx_ir.to_proto(model).graph.initializer == proto.graph.initializer


def test_passes_may_be_objects(mlp: Path, tmp_path: Path) -> None:
    by_object = sparsec.compile(
        mlp, passes=[NMPass(exclude=("fc0",))], target="onnx", output=tmp_path / "a.sparsec"
    )
    by_spec = sparsec.compile(
        mlp, passes=["nm24:exclude=fc0"], target="onnx", output=tmp_path / "b.sparsec"
    )
    assert by_object.manifest == by_spec.manifest


def test_progress_is_told(mlp: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    sparsec.compile(
        mlp,
        passes=["nm24"],
        target="onnx",
        output=tmp_path / "a.sparsec",
        progress=lambda text, done: told.append((text, done)),
    )
    assert told[0][0] == "import"
    assert all(0 <= done <= 1 for _, done in told)
    assert [done for _, done in told] == sorted(done for _, done in told)


def test_a_model_without_a_name_needs_an_output(mlp: Path) -> None:
    with pytest.raises(UsageError, match="output=PATH"):
        sparsec.compile(onnx.load(mlp), passes=["nm24"], target="onnx")


def test_wrong_requests_raise_what_the_command_line_reports(mlp: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.sparsec"
    with pytest.raises(PassConfigError, match="did you mean"):
        sparsec.compile(mlp, passes=["nm42"], target="onnx", output=output)
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        sparsec.compile(mlp, target="onx", output=output)
    with pytest.raises(UnsupportedTargetError, match="planned"):
        sparsec.compile(mlp, target="tensorrt-sm80", output=output)
    with pytest.raises(UsageError, match="metric=change"):
        sparsec.compile(mlp, target="onnx", goals=["faster"], output=output)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"passes": "nm24"}, r"passes: needed a list, got 'nm24'; write \['nm24'\]"),
        ({"passes": NMPass()}, "passes: needed a list"),
        ({"passes": [3]}, "passes: 3 is neither a text nor a pass"),
        ({"goals": "bytes=-10%"}, r"write \['bytes=-10%'\]"),
        ({"goals": [0.5]}, "goals: 0.5 is no text"),
        (
            {"calib": {"x": np.zeros((1, 32))}},
            "calib: needed a text, got dict; save arrays by numpy",
        ),
        ({"target": None}, "target: needed a text, got NoneType"),
        ({"seed": -1}, "seed: needed a whole number of at least 0, got -1"),
        ({"seed": "a"}, "seed: needed a whole number"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_options_of_other_types_are_usage_errors(
    mlp: Path, tmp_path: Path, options: dict[str, object], words: str
) -> None:
    """A text is a sequence of letters, and arrays are what people have at hand in Python."""
    with pytest.raises(UsageError, match=words):
        sparsec.compile(mlp, **{"target": "onnx", "output": tmp_path / "a.sparsec"} | options)
    assert not list(tmp_path.iterdir())


def test_inputs_may_be_tensors_but_have_names(compiled: Path) -> None:
    torch = pytest.importorskip("torch")
    session = sparsec.load(compiled)
    (got,) = session.run({"x": torch.from_numpy(feed()["x"])}).values()
    (want,) = session.run(feed()).values()
    np.testing.assert_array_equal(got, want)
    with pytest.raises(ShapeError, match=r"needed inputs by name, \{'x': array\}, got list"):
        session.run([feed()["x"]])


def test_a_session_knows_its_interface(compiled: Path) -> None:
    session = sparsec.load(compiled)
    assert session.inputs == [{"name": "x", "dtype": "float32", "shape": ["batch", 32]}]
    assert session.outputs == [{"name": "y", "dtype": "float32", "shape": ["batch", 10]}]


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "missing inputs: x"),
        ({"x": np.zeros((1, 32), np.float32), "z": np.zeros(1)}, "unknown inputs: z"),
        ({"x": np.zeros((1, 32))}, "need float32, got float64"),
        ({"x": np.zeros((1, 31), np.float32)}, r"need shape \['batch', 32\], got \[1, 31\]"),
        ({"x": np.zeros(32, np.float32)}, "need shape"),
        ({"x": [[0.0] * 32]}, "need float32, got float64"),
        ({"x": None}, "need float32, got object"),
    ],
)
def test_wrong_inputs_are_explained(compiled: Path, feeds: dict[str, object], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        sparsec.load(compiled).run(feeds)  # type: ignore[arg-type]


def test_what_only_the_runtime_notices_is_explained(tmp_path: Path) -> None:
    """Two inputs whose dynamic sizes must agree: nothing in the signature says so."""
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [f"n{n}"]) for n in "aby"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])], "g", values[:2], values[2:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    artifact = sparsec.compile(model, target="onnx", output=tmp_path / "a.sparsec")
    feeds = {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)}
    with pytest.raises(ShapeError, match="cannot be run on these inputs"):
        artifact.session().run(feeds)


def test_a_session_may_be_used_from_many_threads(compiled: Path) -> None:
    session = sparsec.load(compiled, threads=1)
    expected = session.run(feed())["y"]
    same: list[bool] = []

    def work() -> None:
        same.extend(np.array_equal(session.run(feed())["y"], expected) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 80


def test_loading_what_is_no_artifact_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact: needed a folder"):
        sparsec.load(tmp_path / "none.sparsec")


def test_public_names_are_there() -> None:
    for name in sparsec.__all__:
        assert getattr(sparsec, name) is not None
    assert set(sparsec.__all__) <= set(dir(sparsec))
    with pytest.raises(AttributeError, match="no attribute 'complie'"):
        _ = sparsec.complie


def test_importing_is_light() -> None:
    code = "import sparsec, sys; print({'torch', 'triton', 'onnx', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
