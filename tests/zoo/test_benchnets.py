"""The benchmark networks are the ones that published timings name."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from examples.zoo.benchnets import BUILDERS, FINGERPRINTS, benchmark_input

QUICK = {
    ("mobilenet_v1", ()): {0, 0.5, 0.95},
    ("mobilenet_v2", ()): {0, 0.9},
    ("bert4", ()): {0.9},
    ("matmul", (128, 768, 768)): {0, 0.9},
    ("matmul", (128, 768, 3072)): {0.8},
}
CASES = [
    pytest.param(
        *key,
        sparsity,
        wanted,
        id="-".join(map(str, (key[0], *key[1], sparsity))),
        marks=[] if sparsity in QUICK.get(key, ()) else pytest.mark.slow,
    )
    for key, row in FINGERPRINTS.items()
    for sparsity, wanted in row.items()
]


@pytest.mark.parametrize(("name", "shape", "sparsity", "wanted"), CASES)
def test_fingerprint(name, shape, sparsity, wanted):
    form = (0.5, "2:4") if sparsity == "2:4" else (sparsity, "unstructured")
    model = BUILDERS[name](*shape, *form)
    session = ort.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, benchmark_input(model))
    assert np.abs(y).mean(dtype=np.float64) == pytest.approx(wanted, rel=6e-4)


def test_only_the_layers_named_are_pruned():
    model = BUILDERS["mobilenet_v1"](0.9)
    onnx.checker.check_model(model)
    for tensor in model.graph.initializer:
        weight = onnx.numpy_helper.to_array(tensor)
        if weight.ndim == 4:
            pointwise = weight.shape[2:] == (1, 1)
            assert (weight == 0).mean() == pytest.approx(0.9 if pointwise else 0, abs=1e-3)
