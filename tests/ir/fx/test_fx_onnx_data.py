"""The graphs that the onnx package carries for backends, with their own inputs and outputs."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnx.numpy_helper as nh
import onnx_ir as ir
import pytest

from sparsec.ir.errors import UnsupportedOpError
from sparsec.ir.fx import FxExecutor

DATA = Path(onnx.backend.test.__file__).parent / "data"
CASES = sorted(p.parent for p in DATA.glob("*/*/model.onnx"))
LIGHT = sorted(DATA.glob("light/*.onnx"))
#: Why a case cannot be imported: the operator and the reason.
REFUSED = {
    r"test_gradient_of.*": ("Gradient", "no torch form"),
    r"test_strnorm.*": ("StringNormalizer", "no torch form"),
    r"test_operator_max": ("Max", "from opset 8"),
    r"test_operator_min": ("Min", "from opset 8"),
    r"test_operator_pow": ("Pow", "from opset 7"),
}


def tensor(path):
    return nh.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def test_there_are_cases():
    assert len(CASES) > 100
    assert len(LIGHT) == 9


@pytest.mark.parametrize("folder", CASES, ids=lambda p: p.name)
def test_case(folder):
    model = onnx.load(folder / "model.onnx")
    refusal = next((v for k, v in REFUSED.items() if re.fullmatch(k, folder.name)), None)
    if refusal is not None:
        with pytest.raises(UnsupportedOpError, match=f"{refusal[0]}.*{refusal[1]}"):
            FxExecutor(ir.from_proto(model))
        return
    executor = FxExecutor(ir.from_proto(model))
    for data in sorted(folder.glob("test_data_set_*")):
        feeds = {n: tensor(data / f"input_{i}.pb") for i, n in enumerate(executor.inputs)}
        for i, got in enumerate(executor.run(feeds).values()):
            np.testing.assert_allclose(got, tensor(data / f"output_{i}.pb"), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_light_network(path, ort_run, rng):
    model = onnx.load(path)
    weights = {t.name for t in model.graph.initializer}
    feeds = {
        v.name: rng.standard_normal([d.dim_value for d in v.type.tensor_type.shape.dim]).astype(
            "f4"
        )
        for v in model.graph.input
        if v.name not in weights
    }
    got = FxExecutor(ir.from_proto(model)).run(feeds)
    for g, w in zip(got.values(), ort_run(model, feeds), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-3, atol=1e-6)
