"""Every real model loses 30 % of its channels, and every certificate is replayed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparsec
from examples.zoo import real
from examples.zoo.cache import UnavailableError
from sparsec.ir.cleanup import clean_up, fold_batch_norm
from sparsec.ir.groups import find_groups, prepare
from sparsec.ir.load import load_model
from sparsec.verification import verify_artifact

pytestmark = pytest.mark.zoo

# How many groups are found at least; fewer means that an operator has become a barrier.
GROUPS = {
    "effnet_lite0": 24,
    "opennsfw": 37,
    "ddddocr_det": 67,
    "ppocr_rec": 17,
    "ppocr_det": 36,
    "ppocr_cls": 25,
    "minilm": 24,
    "minilm_int8": 6,
    "smollm2": 121,
    "smollm2_decode": 30,  # its heads are in the states that come in and go out
    "ddddocr_ocr": 12,
    "ddddocr_ocr_int8": 0,  # its convolutions are ConvInteger
    "silero_vad": 0,  # all of it lies in bodies of If
    "magika": 1,
    "mtcnn_pnet": 3,
    "mtcnn_rnet": 4,
    "mtcnn_onet": 5,
    "oww_hey_jarvis": 0,  # a normalisation behind every Gemm
    "oww_alexa": 2,
    "oww_timer": 2,
    "oww_weather": 2,
    "oww_embedding": 19,
    "oww_mel": 0,  # its one group is a fixed transform, which the pass leaves alone
}
# Models of which the pass takes nothing.
UNCHANGED = {"ddddocr_ocr_int8", "silero_vad", "oww_hey_jarvis", "oww_mel"}
SLOW = {"smollm2", "smollm2_decode", "minilm"}
# Those whose compilation takes long; EfficientNet and a small one of the same kind stay.
SLOW_TO_COMPILE = SLOW | {"minilm_int8", "ddddocr_det", "ppocr_det", "ppocr_rec", "opennsfw"}
SLOW_TO_COMPILE |= {"ddddocr_ocr", "ddddocr_ocr_int8"}  # Silero's LSTMs stay


def models(slow: set[str]) -> list[object]:
    return [
        pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in real.REAL
    ]


def source(name: str) -> Path:
    try:
        return real.path(name)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", models(SLOW))
def test_groups(name: str) -> None:
    model = load_model(source(name))
    clean_up(model)
    fold_batch_norm(model)
    prepare(model)
    groups = find_groups(model)
    assert len(groups) >= GROUPS[name]
    assert all(group.reason for group in groups.frozen)


@pytest.mark.parametrize("name", models(SLOW_TO_COMPILE))
def test_pruned_at_30_percent(name: str, tmp_path: Path) -> None:
    path = source(name)
    calibration = tmp_path / "feed.npz"
    feed = {key: array[None] for key, array in real.feeds(name)[0].items()}
    np.savez(calibration, **feed)  # type: ignore[arg-type]
    artifact = sparsec.compile(
        path,
        passes=["channel:sparsity=0.3"],
        target="onnx",
        calib=str(calibration),
        output=tmp_path / "out.sparsec",
    )
    before, after = artifact.manifest["before"], artifact.manifest["after"]
    certificates = artifact.manifest["certificates"]
    assert len(certificates) == (name not in UNCHANGED)
    if certificates:
        assert after["params"] < before["params"]
        assert after["macs"] <= before["macs"]
    result = verify_artifact(artifact.path, path)["certificates"]
    assert (result["replayed"], result["failed"]) == (len(certificates), 0)


@pytest.mark.parametrize("name", ["minilm", pytest.param("smollm2", marks=pytest.mark.slow)])
def test_heads_and_hidden_units(name: str, tmp_path: Path) -> None:
    path = source(name)
    artifact = sparsec.compile(
        path,
        passes=["heads:sparsity=0.25", "ffn:sparsity=0.25"],
        target="onnx",
        output=tmp_path / "out.sparsec",
    )
    assert [len(step["changed"]) > 0 for step in artifact.manifest["passes"]] == [True, True]
    assert verify_artifact(artifact.path, path)["certificates"]["replayed"] == 2
