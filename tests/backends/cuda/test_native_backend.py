"""Lowering to the CUDA C++ kernels: which layers take them, and what an artifact then holds."""

import importlib.util

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from nm24_cases import nm14_matrix, nm24_matrix

from sparsec.backends.base import LowerContext
from sparsec.backends.cuda import native, nvcc
from sparsec.backends.cuda.backend import CudaBackend
from sparsec.backends.cuda.select import candidates
from sparsec.backends.targets import targets
from sparsec.ir.load import load_model
from sparsec.ir.patterns import parse_pattern
from sparsec.ir.sites import weight_sites

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or bool(nvcc.why_not(90)),
    reason="lowering needs triton, these kernels nvcc or NVRTC",
)

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[B, 128] x) => (float[B, 96] y) {
    h = MatMul (x, w)
    y = Add (h, b)
}
"""


def build(pattern):
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    weight = nm24_matrix(96, 128, "float16", seed=0).astype(np.float32)
    if pattern == "1:4":
        weight = nm14_matrix(96, 128, "float16", seed=0).astype(np.float32)
    if pattern == "unstructured":
        weight = rng.standard_normal((96, 128)).astype(np.float16).astype(np.float32)
        weight[rng.random(weight.shape) < 0.8] = 0
    bias = rng.standard_normal(96).astype(np.float32)
    for name, array in (("w", np.ascontiguousarray(weight.T)), ("b", bias)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = load_model(proto)
    for site in weight_sites(model):
        site.mark(parse_pattern(pattern))
    return model


@pytest.mark.parametrize(
    ("pattern", "form", "family"),
    [
        ("2:4", "nm24_sp", "f16_matmul_nm24_sp__sm90"),
        ("1:4", "nm14_sp", "f16_matmul_nm14_sp__sm90"),
        ("unstructured", "lps", "f16_matmul_lps__sm90"),
    ],
)
def test_a_layer_takes_the_kernel_and_comes_back(pattern, form, family, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "BUCKETS", (16,))  # to compile one
    source = build(pattern)
    context = LowerContext(feeds=[])
    lowered = CudaBackend().lower(source.clone(), targets.get("h200"), context)
    (row,), (kernel, unpack) = lowered.layers, lowered.kernels
    assert (row.kernel, row.pattern) == (family, pattern)
    assert "modelled" in row.reason
    (node,) = (each for each in lowered.model.graph if each.op_type == "PackedMatMul")
    assert node.attributes["format"].as_string() == form
    assert list(node.attributes["kernels"].as_strings()) == [kernel["name"]]
    assert list(node.attributes["splits"].as_ints()) == [1]
    assert lowered.files[kernel["file"]].startswith(b"\x7fELF")
    assert b".target sm_90" in lowered.files[kernel["ptx"]]
    assert kernel["entry"].encode() in lowered.files[kernel["source"]]
    assert (unpack["unpacks"], unpack["dtype"], unpack["values"]) == (form, "float16", "float16")
    assert b"_unpack(" in lowered.files[unpack["source"]]
    assert node.attributes["dense_from"].as_int() > 64
    dense = CudaBackend().densify(lowered.model, tmp_path)
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 128)).astype(np.float32)}
    (masked,), (packed,) = (
        ort.InferenceSession(ir.to_proto(each).SerializeToString()).run(None, feeds)
        for each in (source, dense)
    )
    assert np.abs(masked - packed).max() <= 2e-3 * np.abs(masked).max()


def test_candidates_are_those_that_can_be_compiled(monkeypatch):
    h200, mi300 = targets.get("h200"), targets.get("mi300")
    two_of_four, any_zeros = parse_pattern("2:4"), parse_pattern("unstructured")
    assert candidates(two_of_four, (64, 64), h200) == ["nm24_sp", "nm24", "lps", "bm32"]
    one_of_four = parse_pattern("1:4")
    assert candidates(one_of_four, (64, 64), h200) == ["nm14_sp", "nm1_4", "lps", "bm32"]
    assert candidates(one_of_four, (64, 62), h200) == ["nm1_4", "lps", "bm32"]
    assert candidates(one_of_four, (64, 64), mi300) == ["nm1_4", "bm32"]
    assert candidates(any_zeros, (64, 64), h200) == ["lps", "bm32"]
    assert candidates(any_zeros, (64, 64), mi300) == ["bm32"]
    monkeypatch.setattr(nvcc, "why_not", lambda sm: "no compiler here")
    assert candidates(any_zeros, (64, 64), h200) == ["bm32"]


def test_without_a_compiler_the_notes_say_so(few_kernels, monkeypatch):
    monkeypatch.setattr(nvcc, "why_not", lambda sm: "no compiler here")
    context = LowerContext(feeds=[])
    lowered = CudaBackend().lower(build("2:4"), targets.get("a100"), context)
    assert lowered.layers[0].kernel == "f16f32_matmul_nm24__sm80"
    assert any("CUDA C++ kernels were no candidates: no compiler here" in n for n in lowered.notes)
