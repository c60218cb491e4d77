"""Reading: whatever was done to an artifact, one error that names the file, or a whole artifact."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import nasty
import numpy as np
import pytest

import sparsec
from sparsec.artifact import Artifact
from sparsec.artifact.reader import open_artifact
from sparsec.artifact.schema import complaint
from sparsec.benchmark import bench_artifact
from sparsec.cli import compile as compile_verb
from sparsec.cli import inspect as inspect_verb
from sparsec.inspection import inspect_path
from sparsec.ir.errors import ArtifactError, HashMismatchError, SparsecError, UnsupportedTargetError
from sparsec.report import render
from sparsec.verification import verify_artifact

# Every way in. None may trust what another has checked.
DOORS = {
    "load": sparsec.load,
    "verify": verify_artifact,
    "inspect": inspect_path,
    "bench": lambda path: bench_artifact(path, rounds=1),
}


def test_a_good_artifact_opens(artifact: Path) -> None:
    manifest = open_artifact(artifact)
    assert manifest["target"] == "onnx"
    assert Artifact.read(artifact).manifest == manifest


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", nasty.CASES, ids=lambda case: case.name)
def test_the_corpus_is_refused_at_every_door(case: nasty.Case, door: str, artifact: Path) -> None:
    case.damage(artifact)
    with pytest.raises((ArtifactError, UnsupportedTargetError), match=case.words) as caught:
        DOORS[door](artifact)
    assert case.where in caught.value.where
    assert len(caught.value.message) < 6000


def test_an_altered_byte_is_a_hash_mismatch(artifact: Path) -> None:
    next(case for case in nasty.CASES if case.name == "flipped").damage(artifact)
    with pytest.raises(HashMismatchError, match=r"model\.onnx\.data") as caught:
        sparsec.load(artifact)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("path", ["missing.sparsec", "file.sparsec", "empty.sparsec"])
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_artifact_is_refused(path: str, door: str, tmp_path: Path) -> None:
    (tmp_path / "file.sparsec").write_text("x")
    (tmp_path / "empty.sparsec").mkdir()
    with pytest.raises(SparsecError, match=path) as caught:
        DOORS[door](tmp_path / path)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("key", ["layers", "recipe", "after", "latency", "notes", "exit_code"])
def test_a_missing_field_is_named(key: str, artifact: Path) -> None:
    nasty.drop(key)(artifact)
    with pytest.raises(ArtifactError, match=f"{key} is missing"):
        open_artifact(artifact)


def use(manifest: dict[str, Any]) -> None:
    """Use a manifest that the reader let through, in all ways that do not run the model."""
    render(manifest)
    artifact = Artifact(Path("a.sparsec"), manifest)
    compile_verb.show(artifact.summary())
    keys = ("params", "nonzero", "macs")
    shown = {"kind": "artifact", "ops": {}, "layers": manifest["layers"], "frozen": []}
    inspect_verb.show(shown | {key: manifest["after"][key] for key in keys}, why=True)
    json.dumps(artifact.summary(), allow_nan=False)
    artifact.exit_code.to_bytes(1, "little")


def test_every_field_of_every_odd_type_is_refused_or_harmless(
    compiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = nasty.read(compiled)
    good["layers"] = good["layers"][:1]
    good["latency"] = {
        **dict.fromkeys(("dense_ms", "sparse_ms", "speedup", "speedup_p10", "speedup_p90"), 1.0),
        "rounds": 1,
        "threads": 1,
        "machine": {"cpu": "", "cpus": 1, "features": [], "system": "", "onnxruntime": ""},
    }
    good["accuracy"] = {"before": {"top1": 0.5}, "after": {"top1": 0.5}}
    good["goals"] = [{"goal": "macs=-1%", "before": 1, "after": 1, "met": False}]
    good["kernels"] = [
        {"name": "k", "file": "model.onnx", "sm": 80, "num_warps": 4, "shared_bytes": 0}
    ]
    assert complaint(good) is None
    refused = 0
    for path in list(nasty.paths(good)):
        for odd in nasty.ODD_VALUES:
            manifest = copy.deepcopy(good)
            at: Any = manifest
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = odd
            if complaint(manifest):
                refused += 1
            else:
                use(manifest)
    assert refused > 1000
    assert "\u202e" not in capsys.readouterr().out


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` with one random injury."""
    at = rng.randrange(len(data))
    length = rng.choice((1, 1, 2, 8, 64))
    kind = rng.randrange(5)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + rng.randbytes(length) + data[at + length :]
    if kind == 2:
        return data[:at] + data[at + length :]
    if kind == 3:
        return data[:at] + data[at : at + length] * 2 + data[at + length :]
    return data[:at]


def fuzz_manifests(compiled: Path, tmp_path: Path, count: int) -> None:
    good = (compiled / "manifest.json").read_bytes()
    root = Path(shutil.copytree(compiled, tmp_path / "a.sparsec"))
    rng = random.Random(0)
    refused = 0
    for _ in range(count):
        (root / "manifest.json").write_bytes(mutate(good, rng))
        try:
            use(open_artifact(root))
        except SparsecError:  # and no other
            refused += 1
    assert count / 2 < refused < count


def fuzz_payloads(compiled: Path, tmp_path: Path, count: int) -> None:
    """Injure the payload, make the hashes right, and run what still opens."""
    rng = random.Random(1)
    root = tmp_path / "a.sparsec"
    feeds = {"x": np.ones((1, 32), np.float32)}
    refused = 0
    for _ in range(count):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(compiled, root)
        file = root / rng.choice(("model.onnx", "model.onnx", "model.onnx.data"))
        file.write_bytes(mutate(file.read_bytes(), rng))
        nasty.rehash(root)
        for door in (lambda path: sparsec.load(path).run(feeds), verify_artifact, inspect_path):
            try:
                door(root)
            except SparsecError:  # and no other
                refused += 1
    assert 0 < refused < 3 * count


def test_fuzzed_manifests(
    compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz_manifests(compiled, tmp_path, 400)


def test_fuzzed_payloads(compiled: Path, tmp_path: Path) -> None:
    fuzz_payloads(compiled, tmp_path, 60)


@pytest.mark.slow
def test_many_fuzzed_manifests(
    compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz_manifests(compiled, tmp_path, 20_000)


@pytest.mark.slow
def test_many_fuzzed_payloads(compiled: Path, tmp_path: Path) -> None:
    fuzz_payloads(compiled, tmp_path, 3_000)
