"""Every real model: imported, pruned to 2:4, written for two targets and verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparsec
from examples.zoo import real
from examples.zoo.cache import UnavailableError
from sparsec.artifact import Artifact
from sparsec.verification import verify_artifact

pytestmark = pytest.mark.zoo

# Models in which nm24 finds nothing to prune: exit code 5 for every target.
UNTOUCHED = {"ddddocr_ocr_int8", "oww_mel"}

# What the skipped sites and frozen operators of a model must at least say.
REASONS = {
    "effnet_lite0": {"depthwise", "reduction_not_multiple"},
    "ddddocr_ocr": {"not_a_site"},  # its LSTM
    "ddddocr_ocr_int8": {"not_a_site"},  # ConvInteger, MatMulInteger, DynamicQuantizeLSTM
    "silero_vad": {"not_a_site"},  # its LSTMs
    "smollm2": {"shared"},  # the head is the embedding
    "smollm2_decode": {"shared"},
    "ppocr_det": {"not_a_site"},  # ConvTranspose
}

# Half a gigabyte of weights, or many layers; on the CPU also those whose layers take long to time.
LARGE = {
    *("smollm2", "smollm2_decode", "minilm", "minilm_int8"),
    *("ddddocr_det", "ppocr_rec", "ppocr_det"),
}
SLOW = {
    "onnx": LARGE,
    "cpu": {
        *LARGE,
        *("opennsfw", "ddddocr_ocr", "ddddocr_ocr_int8", "effnet_lite0", "oww_embedding"),
        "ppocr_cls",
    },
}


def cases() -> list[object]:
    return [
        pytest.param(name, target, marks=pytest.mark.slow if name in SLOW[target] else ())
        for name in real.REAL
        for target in SLOW
    ]


@pytest.fixture
def source(name: str, tmp_path: Path) -> tuple[Path, str]:
    """The model's file, and one valid feed as a calibration file."""
    try:
        path = real.path(name)
    except UnavailableError as error:
        pytest.skip(str(error))
    feed = real.feeds(name)[0]
    calibration = tmp_path / "feed.npz"
    np.savez(calibration, **{key: array[None] for key, array in feed.items()})  # type: ignore[arg-type]
    return path, str(calibration)


@pytest.mark.parametrize(("name", "target"), cases())
def test_nm24(name: str, target: str, source: tuple[Path, str], tmp_path: Path) -> None:
    path, calibration = source
    before = path.read_bytes()
    artifact = sparsec.compile(
        path, passes=["nm24"], target=target, calib=calibration, output=tmp_path / "out.sparsec"
    )
    assert path.read_bytes() == before, "the source was changed"
    summary = artifact.summary()
    assert summary["verify"]["passed"]
    check_exit_code(name, target, artifact)
    check_reasons(name, summary)
    check_outputs(name, artifact)
    result = verify_artifact(artifact.path, path)
    assert result["passed"]
    assert result["numerics"]["with"] == "device"


def check_exit_code(name: str, target: str, artifact: Artifact) -> None:
    summary = artifact.summary()
    changed = summary["passes"][0]["changed"]
    if name in UNTOUCHED:
        assert not changed
        assert artifact.exit_code == 5
    else:
        assert changed
        assert artifact.exit_code == 0 if target == "onnx" else artifact.exit_code in (0, 5)
    if artifact.exit_code == 5:
        assert summary["notes"], "exit code 5 must be explained"


def check_reasons(name: str, summary: dict[str, object]) -> None:
    """Every site is either changed or skipped with a reason, and has a row with a code."""
    (step,) = summary["passes"]  # type: ignore[misc]
    codes = {item["code"] for item in step["skipped"]}
    assert REASONS.get(name, set()) <= codes
    assert all(item["reason"] for item in step["skipped"])
    rows = {row["name"]: row for row in summary["layers"]}  # type: ignore[attr-defined]
    assert set(step["changed"]) <= set(rows)
    for site in step["changed"]:
        assert rows[site]["pattern"] == "2:4"
        assert 0.49 <= rows[site]["sparsity"] <= 1
    assert all(row["code"] and row["reason"] for row in rows.values())


def check_outputs(name: str, artifact: Artifact) -> None:
    """The artifact runs through the public session and keeps its output names."""
    outputs = artifact.session().run(real.feeds(name)[0])
    assert list(outputs) == [entry["name"] for entry in artifact.manifest["outputs"]]
    assert all(np.size(array) for array in outputs.values())
