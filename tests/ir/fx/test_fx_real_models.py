"""The real models in FX: the outputs of ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
import torch

from examples.zoo import real
from examples.zoo.cache import UnavailableError
from sparsec.ir.errors import UnsupportedOpError
from sparsec.ir.fx import FxExecutor
from sparsec.ir.load import load_model

pytestmark = pytest.mark.zoo

# One activation on a rounding boundary falls to the other integer, and later layers amplify it.
LOOSE = {"ddddocr_ocr_int8": 2e-2}
SLOW = {"smollm2"}
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in real.REAL]


def load(name):
    try:
        return real.path(name), real.feeds(name, 1, seed=3)[0]
    except UnavailableError as missing:
        pytest.skip(str(missing))


def runtime(path, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_near(got, want, tolerance):
    for g, w in zip(got.values(), want, strict=True):
        assert g.shape == w.shape
        assert g.dtype == w.dtype
        scale = max(float(np.abs(w).max()), 1e-2)  # an output of noise alone is a sigmoid's
        assert np.abs(g.astype(np.float64) - w).max() <= tolerance * scale


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_runtime(name):
    path, feeds = load(name)
    executor = FxExecutor(load_model(path), ort_leaves=name == "ddddocr_ocr_int8")
    assert_near(executor.run(feeds), runtime(path, feeds), LOOSE.get(name, 1e-4))


def test_the_vendor_operator_is_named():
    path, _ = load("ddddocr_ocr_int8")
    with pytest.raises(UnsupportedOpError, match=r"1 nodes.*DynamicQuantizeLSTM.*com\.microsoft"):
        FxExecutor(load_model(path))


@pytest.mark.parametrize("name", ["ppocr_rec", "minilm", "silero_vad", "ppocr_cls"])
def test_float64_agrees_with_single_precision(name):
    path, feeds = load(name)
    double = FxExecutor(load_model(path), dtype=torch.float64).run(feeds)
    single = runtime(path, feeds)
    for g, w in zip(double.values(), single, strict=True):
        assert g.dtype == np.float64
        assert np.abs(g - w).max() <= 1e-4 * max(float(np.abs(w).max()), 1e-3)


@pytest.mark.parametrize(
    ("name", "output"), [("magika", "target_label"), ("ppocr_rec", "softmax_11.tmp_0")]
)
def test_gradients_reach_every_weight(name, output):
    path, feeds = load(name)
    executor = FxExecutor(load_model(path))
    got = executor.gradients(feeds, lambda v: v[output].square().sum())
    matrices = {n: g for n, g in got.parameters.items() if g.ndim >= 2 and g.size >= 1000}
    assert len(matrices) >= 3
    for name_, gradient in matrices.items():
        assert np.isfinite(gradient).all(), name_
        assert gradient.any(), name_
