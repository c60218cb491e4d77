import importlib.util
import json

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from nm24_cases import nm24_matrix

from sparsec.backends.base import LowerContext
from sparsec.backends.cuda.backend import CudaBackend
from sparsec.backends.targets import backends, targets
from sparsec.ir.codes import Code
from sparsec.ir.errors import ArtifactError, PatternError, UnsupportedTargetError
from sparsec.ir.load import load_model
from sparsec.ir.patterns import KEY, NM
from sparsec.ir.safetensors import FILE_NAME, point_into, write_weights
from sparsec.ir.sites import weight_sites
from sparsec.ir.verify import verify

pytest.importorskip("triton", reason="lowering needs triton: pip install sparsec[cuda]")

TARGET = targets.get("a100")

MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[B, 64] x) => (float[B, 20] y, float[B, 12] z) {
    h0 = MatMul (x, w_fused)
    h1 = Add (b_fused, h0)
    h2 = Relu (h1)
    q = MatMul (h2, w_shared)
    k = MatMul (h1, w_shared)
    s = Add (q, k)
    y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (s, w_gemm, c_gemm)
    z = Gemm (h1, w_plain)
}
"""
WEIGHTS = {  # name: (rows = outputs, columns = reduction, stored transposed)
    "w_fused": (96, 64, True),
    "w_shared": (48, 96, True),
    "w_gemm": (20, 48, False),
    "w_plain": (12, 96, True),
}


def build(text=MODEL, weights=WEIGHTS, scale=0.1):
    """Return the model with 2:4 weights that claim the pattern, and constants for the rest."""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(5)
    for seed, (name, (rows, columns, transposed)) in enumerate(weights.items()):
        matrix = scale * nm24_matrix(rows, columns, "float16", seed).astype(np.float32)
        array = np.ascontiguousarray(matrix.T if transposed else matrix)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for name, size in (("b_fused", 96), ("c_gemm", 20)):
        if name in text:
            bias = rng.standard_normal(size).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(bias, name))
    model = load_model(proto)
    for site in weight_sites(model):
        site.mark(NM(2, 4))
    return model


def lower(model, target=TARGET):
    return CudaBackend().lower(model.clone(), target, LowerContext(feeds=[]))


def write(lowered, root):
    write_weights(root / FILE_NAME, lowered.weights)
    point_into(lowered.model, root / FILE_NAME, lowered.weights)
    ir.save(lowered.model, root / "model.onnx")


def run(model, feeds):
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, feeds)


@pytest.fixture(scope="module")
def lowered():
    return lower(build())


def test_the_backend_is_registered():
    assert backends.get(TARGET.backend) is CudaBackend


def test_every_site_has_a_row_and_2_4_layers_are_packed(lowered):
    assert [row.name for row in lowered.layers] == [site.name for site in weight_sites(build())]
    for row in lowered.layers:
        assert (row.code, row.pattern, row.kernel) == (
            Code.MODELLED,
            "2:4",
            "f16f32_matmul_nm24__sm80",
        )
        assert row.sparsity == pytest.approx(0.5, abs=0.01)
        assert "modelled" in row.reason
        assert row.dense_seconds >= row.sparse_seconds > 0
    json.dumps([row.to_json() for row in lowered.layers])


def test_nodes_say_what_runs(lowered):
    nodes = [node for node in lowered.model.graph if node.op_type == "PackedMatMul"]
    # The fused Add and C are biases, the Add of two products is the residual of one of them.
    assert [len(node.inputs) for node in nodes] == [4, 3, 5, 4, 3]
    kernels = {kernel["name"]: kernel for kernel in lowered.kernels}
    for node in nodes:
        attributes = node.attributes
        chains = [chain.split() for chain in attributes["kernels"].as_strings()]
        assert {name for chain in chains for name in chain} <= set(kernels)
        assert [kernels[chain[0]]["n_max"] for chain in chains] == [1, 16, 32, 64]
        for chain, shares in zip(chains, attributes["splits"].as_ints(), strict=True):
            assert len(chain) == (1 if shares == 1 else 2)
        assert (attributes["format"].as_string(), attributes["values"].as_string()) == (
            "nm24",
            "float16",
        )
        assert node.inputs[1].const_value.shape == (
            attributes["M"].as_int(),
            -(-attributes["K"].as_int() // 32) * 8,
        )
    assert [node.op_type for node in lowered.model.graph].count("Add") == 0
    shared = [node for node in nodes if node.inputs[1].name == "w_shared.vals"]
    assert len(shared) == 2
    verify(lowered.model)


def test_inputs_and_outputs_keep_their_names_types_and_shapes(lowered):
    source = build()
    for before, after in zip(
        (*source.graph.inputs, *source.graph.outputs),
        (*lowered.model.graph.inputs, *lowered.model.graph.outputs),
        strict=True,
    ):
        assert (before.name, before.type, before.shape) == (after.name, after.type, after.shape)


def test_files_hold_the_kernels_that_the_manifest_names(lowered):
    assert lowered.kernels
    for kernel in lowered.kernels:
        assert lowered.files[kernel["file"]].startswith(b"\x7fELF")
        assert b".target sm_80" in lowered.files[kernel["ptx"]]
        assert lowered.files[kernel["source"]].is_file()
        assert (kernel["sm"], kernel["max_n"]) == (80, 64)
    json.dumps(lowered.kernels)


def test_densified_computes_the_masked_model_within_float16(lowered, tmp_path):
    write(lowered, tmp_path)
    dense = CudaBackend().densify(ir.load(tmp_path / "model.onnx"), tmp_path)
    verify(dense)
    assert "sparsec" not in dense.opset_imports
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)}
    for name, masked, packed in zip("yz", run(build(), feeds), run(dense, feeds), strict=True):
        assert np.abs(masked - packed).max() <= 2e-3 * np.abs(masked).max(), name


def test_densified_weights_are_the_masked_ones_rounded_to_float16(lowered, tmp_path):
    write(lowered, tmp_path)
    dense = CudaBackend().densify(ir.load(tmp_path / "model.onnx"), tmp_path)
    source = build().graph.initializers
    for name in ("w_fused", "w_shared", "w_plain"):
        rounded = source[name].const_value.numpy().astype(np.float16).astype(np.float32)
        unpacked = dense.graph.initializers[name].const_value.numpy()
        assert np.array_equal(unpacked, rounded)


def test_densified_weights_claim_their_pattern_again(lowered, tmp_path):
    write(lowered, tmp_path)
    dense = CudaBackend().densify(ir.load(tmp_path / "model.onnx"), tmp_path)
    sites = list(weight_sites(dense))
    assert len(sites) == len(WEIGHTS)
    for site in sites:
        assert site.pattern == NM(2, 4)
        site.pattern.check(site.matrix(), site.name)


def test_a_rounded_reference_computes_what_the_packed_layers_do(lowered, tmp_path):
    write(lowered, tmp_path)
    dense = CudaBackend().densify(ir.load(tmp_path / "model.onnx"), tmp_path)
    rows = [row.to_json() for row in lowered.layers]
    reference = CudaBackend().reference(build(), rows)
    verify(reference)
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)}
    for rounded, packed in zip(run(reference, feeds), run(dense, feeds), strict=True):
        # Far below the 5e-4 of one rounding to float16: only the order of sums differs.
        assert np.abs(rounded - packed).max() <= 2e-6 * np.abs(rounded).max()


def test_without_packed_layers_the_masked_graph_is_the_reference():
    rows = [{"name": "w_plain", "kernel": "dense"}]
    assert CudaBackend().reference(build(), rows) is None


def test_nothing_is_stored_twice(lowered, tmp_path):
    write(lowered, tmp_path)
    packed = sum(array.nbytes for array in lowered.weights.values())
    assert (tmp_path / FILE_NAME).stat().st_size < packed + 4096
    assert (tmp_path / "model.onnx").stat().st_size < 8192
    assert not {"w_fused", "w_shared", "w_gemm"} & set(lowered.model.graph.initializers)


def test_equal_input_gives_equal_bytes(lowered, tmp_path):
    other = lower(build())
    for root, each in ((tmp_path / "a", lowered), (tmp_path / "b", other)):
        root.mkdir()
        write(each, root)
    for name in (FILE_NAME, "model.onnx"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert lowered.files == other.files
    assert lowered.kernels == other.kernels


CONV = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[1, 8, 6, 6] x) => (float[1, 16, 6, 6] y) { y = Conv (x, w) }
"""
LEFT = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[64, 5] x) => (float[32, 5] y) { y = MatMul (w, x) }
"""
RUNTIME_C = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[5, 64] x, float[5, 32] c) => (float[5, 32] y) { y = Gemm <transB = 1> (x, w, c) }
"""
TRANSPOSED_X = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[64, 5] x) => (float[5, 32] y) { y = Gemm <transA = 1, transB = 1> (x, w) }
"""
MANY_ROWS = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[4, 512, 64] x) => (float[4, 512, 32] y) { y = MatMul (x, w) }
"""


@pytest.mark.parametrize(
    ("text", "shape", "code", "words"),
    [
        (LEFT, (32, 64, False), Code.SHAPE_UNSUPPORTED, "left operand"),
        (RUNTIME_C, (32, 64, False), Code.SHAPE_UNSUPPORTED, "computed at run time"),
        (TRANSPOSED_X, (32, 64, False), Code.SHAPE_UNSUPPORTED, "transposes x"),
        (MANY_ROWS, (32, 64, True), Code.MODELLED_SLOWER, "modelled for 2048 rows"),
    ],
)
def test_what_stays_dense_keeps_its_zeros_and_a_reason(text, shape, code, words):
    source = build(text, {"w": shape})
    lowered = lower(source)
    (row,) = lowered.layers
    assert (row.code, row.kernel) == (code, "dense")
    assert words in row.reason
    assert not lowered.kernels
    before, after = (m.graph.initializers["w"].const_value for m in (source, lowered.model))
    assert np.array_equal(before.numpy(), after.numpy())


def test_convolutions_have_no_kernel():
    proto = onnx.parser.parse_model(CONV)
    weight = nm24_matrix(16, 8, "float16", 0).astype(np.float32).reshape(16, 8, 1, 1)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = load_model(proto)
    model.graph.initializers["w"].metadata_props[KEY] = "2:4@1"
    (row,) = lower(model).layers
    assert row.code == Code.NO_KERNEL
    assert "Conv" in row.reason
    del model.graph.initializers["w"].metadata_props[KEY]
    assert lower(model).layers[0].code == Code.DENSE


def test_weights_beyond_float16_stay_dense():
    lowered = lower(build(scale=1e6))
    assert {row.code for row in lowered.layers} == {Code.NO_KERNEL}
    assert "exceeds the range of float16" in lowered.layers[0].reason


def test_weights_that_break_their_pattern_are_an_error():
    model = build()
    model.graph.initializers["w_plain"].const_value = ir.tensor(np.ones((96, 12), np.float32))
    with pytest.raises(PatternError, match="not 2:4"):
        lower(model)


@pytest.mark.parametrize("damage", ["mask", "attribute", "input", "offset"])
def test_damaged_artifacts_name_what_is_wrong(damage, lowered, tmp_path):
    write(lowered, tmp_path)
    model = ir.load(tmp_path / "model.onnx")
    node = next(node for node in model.graph if node.op_type == "PackedMatMul")
    if damage == "mask":
        meta = model.graph.initializers["w_fused.meta"]
        meta.const_value = ir.tensor(meta.const_value.numpy() ^ 1, name=meta.name)
    elif damage == "attribute":
        node.attributes["K"] = ir.AttrInt64("K", 96)
    elif damage == "input":
        node.replace_input_with(2, None)
    else:
        tensor = model.graph.initializers["w_fused.vals"].const_value
        moved = ir.ExternalTensor(
            FILE_NAME, tensor.offset + 4, tensor.length, tensor.dtype,
            shape=tensor.shape, name="w_fused.vals", base_dir=tmp_path,
        )  # fmt: skip
        model.graph.initializers["w_fused.vals"].const_value = moved
    with pytest.raises(ArtifactError, match="compile it again"):
        CudaBackend().densify(model, tmp_path)


def test_running_is_refused_with_ways_out(tmp_path):
    with pytest.raises(UnsupportedTargetError, match="sparsec verify") as caught:
        CudaBackend().runner(tmp_path, {"target": "a100"}, None)
    assert "--target cpu" in caught.value.message


def test_without_triton_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install sparsec[cuda]" in CudaBackend().why_not(TARGET)
    with pytest.raises(
        UnsupportedTargetError, match=r"target a100: .* pip install sparsec\[cuda\]"
    ):
        CudaBackend().lower(build(), TARGET, LowerContext(feeds=[]))
