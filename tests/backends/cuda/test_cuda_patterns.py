"""Layers of every pattern, lowered, written and unpacked again; what a target cannot profit from."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from format_cases import matrix_for

from sparsec.backends.base import LowerContext
from sparsec.backends.cuda.backend import CudaBackend
from sparsec.backends.cuda.select import candidates, choose
from sparsec.backends.targets import targets
from sparsec.ir.codes import Code
from sparsec.ir.load import load_model
from sparsec.ir.patterns import parse_pattern
from sparsec.ir.sites import weight_sites
from sparsec.ir.verify import verify

pytest.importorskip("triton", reason="lowering needs triton: pip install sparsec[cuda]")

MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[{rows}, {k}] x) => (float[{rows}, {m}] y) {{
    h = MatMul (x, w)
    y = Add (h, b)
}}
"""
FORMAT_OF = {  # pattern: the format that is chosen where the launch floor makes all of them equal
    "2:4": "nm24",
    "1:4": "nm1_4",
    "2:8": "nm2_8",
    "4:8": "nm4_8",
    "8:16": "nm8_16",
    "1:8": "bm32",
    "unstructured": "bm32",
    "block:16x1": "block16x1",
    "block:8x1": "block8x1",
    "block:32x4": "block16x1",
    "block:4x1": "bm32",
}
FEW = ("2:8", "unstructured", "block:16x1", "1:8")


def build(pattern, m=70, k=160, rows='"B"', sparsity=0.7):
    proto = onnx.parser.parse_model(MODEL.format(rows=rows.strip('"'), k=k, m=m))
    weight = matrix_for(pattern if "32x4" not in pattern else "block:32x1", m, k, 3, sparsity)
    for name, array in (("w", weight.T), ("b", np.linspace(-1, 1, m))):
        array = np.ascontiguousarray(array, np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = load_model(proto)
    for site in weight_sites(model):
        site.mark(parse_pattern(pattern))
    return model


@pytest.mark.usefixtures("few_kernels")
@pytest.mark.parametrize("target", ["a100", "mi300"])
@pytest.mark.parametrize(
    "pattern", [pytest.param(p, marks=() if p in FEW else pytest.mark.slow) for p in FORMAT_OF]
)
def test_a_layer_is_packed_and_comes_back(pattern, target, tmp_path):
    source = build(pattern)
    context = LowerContext(feeds=[])
    lowered = CudaBackend().lower(source.clone(), targets.get(target), context)
    (row,) = lowered.layers
    (node,) = (each for each in lowered.model.graph if each.op_type == "PackedMatMul")
    expected = FORMAT_OF[pattern]
    if target == "mi300" and expected == "block8x1":
        expected = "bm32"  # its matrix instructions are higher than 8
    assert node.attributes["format"].as_string() == expected
    assert row.code == Code.MODELLED
    assert row.pattern == pattern
    suffix = "cubin" if target == "a100" else "hsaco"
    assert all(kernel["file"].endswith(suffix) for kernel in lowered.kernels)
    assert all(lowered.files[kernel["file"]] for kernel in lowered.kernels)
    verify(lowered.model)
    dense = CudaBackend().densify(lowered.model, tmp_path)
    verify(dense)
    (site,) = weight_sites(dense)
    assert str(site.pattern) == pattern  # of the layer, whatever else its format could hold
    site.pattern.check(site.matrix(), site.name)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 160)).astype(np.float32)}
    (masked,), (packed,) = (
        ort.InferenceSession(ir.to_proto(each).SerializeToString()).run(None, feeds)
        for each in (source, dense)
    )
    assert np.abs(masked - packed).max() <= 2e-3 * np.abs(masked).max()


@pytest.mark.parametrize(
    ("pattern", "sparsity", "target", "chosen"),
    [
        ("unstructured", 0.5, "h200", None),  # its instructions cost more than the bytes bring
        ("unstructured", 0.7, "rtx4090", "bm32"),
        ("block:16x1", 0.7, "h200", "block16x1"),
        ("block:8x1", 0.9, "h200", "block8x1"),
        ("block:4x1", 0.5, "h200", None),
        ("1:4", 0.75, "h200", "nm1_4"),
    ],
)
def test_large_layers_go_by_the_model(pattern, sparsity, target, chosen):
    (site,) = weight_sites(build(pattern, 2048, 8192, "16", sparsity))
    choice = choose(site, targets.get(target))
    if chosen is None:
        assert choice.code == Code.MODELLED_SLOWER
        assert "bound by its instructions on h200" in choice.reason
        assert "kept dense" in choice.reason
        assert choice.packed is None
    else:
        assert choice.packed.format.name == chosen
        assert choice.estimate.packed_seconds < choice.estimate.dense_seconds
        assert "modelled" in choice.reason


def test_blocks_of_other_heights_take_a_format_that_divides_them():
    h200 = targets.get("h200")
    named = {
        text: candidates(parse_pattern(text), (64, 64), h200)
        for text in ("block:48x2", "block:24x1", "block:5x1")
    }
    assert named == {
        "block:48x2": ["block16x1", "block8x1", "bm32"],
        "block:24x1": ["block8x1", "bm32"],
        "block:5x1": ["bm32"],
    }
    wide = candidates(parse_pattern("block:16x1"), (64, 1 << 17), h200)
    assert wide == ["bm32"]  # columns are stored in 16 bits
