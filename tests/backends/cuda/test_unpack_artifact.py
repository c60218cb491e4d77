"""Artifacts of Triton formats carry what unpacks them, and sessions without Triton launch that.

The device is the host, and the kernels stand-ins that know W: they check what they are given, and write it.
"""

import ctypes
import json
import re

import numpy as np
import onnx
import pytest
from format_cases import matrix_for
from host_operator import device_operator_on_host
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.artifact.graph import load_graph
from sparsec.backends.cuda import backend, formats
from sparsec.backends.cuda.formats import Packed

torch = pytest.importorskip("torch", reason="the session runs in torch")
pytest.importorskip("triton", reason="compiling for a GPU needs triton")
from sparsec.backends.cuda import aot, compiled, operators  # noqa: E402
from sparsec.backends.cuda.loader import Kernel, extents  # noqa: E402
from sparsec.backends.cuda.variants import FORMATS, unpack_variant  # noqa: E402

M, K = 70, 160
PASSES = {
    "nm24": ("2:4", "nm24"),
    "bm32": ("unstructured", "unstructured:sparsity=0.6"),
    "block16x1": ("block:16x1", "block:rows=16,cols=1,sparsity=0.6"),
}


@pytest.fixture(scope="module", params=PASSES)
def artifact(request, few_kernels, tmp_path_factory):
    """A format and an artifact of one layer in it."""
    folder = tmp_path_factory.mktemp("unpack")
    pattern, name = PASSES[request.param]
    weight = matrix_for(pattern, M, K, 0, 0.6)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", M])],
        [numpy_helper.from_array(np.ascontiguousarray(weight.T), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "layer.onnx")
    out = folder / "layer.sparsec"
    sparsec.compile(folder / "layer.onnx", passes=[name], target="a100", output=out)
    return request.param, out


def packed_of(path):
    """Return the weight of the artifact's only layer, and from how many rows on it is unpacked."""
    (node,) = (each for each in load_graph(path).graph if each.op_type == "PackedMatMul")
    form = formats.get(node.attributes["format"].as_string())
    arrays = {
        name: each.const_value.numpy()
        for name, each in zip(form.arrays, node.inputs[1:], strict=False)
    }
    rows = node.attributes["dense_from"].as_int()
    return Packed(form, arrays, (M, K), "float16"), rows


class StandIn(Kernel):
    """A loaded kernel: what unpacks writes W, what multiplies must not run."""

    def __init__(self, data, packed, launched):
        self.launch_data, self.packed, self.launched = data, packed, launched

    def launch(self, pointers, sizes, stream):
        assert self.launch_data["unpacks"] == self.packed.format.name
        for name, array in self.packed.arrays.items():
            given = ctypes.string_at(pointers[name], array.nbytes)
            assert given == array.tobytes(), name
        assert sizes == {"M": M, "K": K}
        assert extents(self.launch_data["grid"], sizes)[0] >= 1
        w = self.packed.unpack().astype(np.float16)
        ctypes.memmove(pointers["w"], w.ctypes.data, w.nbytes)
        self.launched.append(self.launch_data["name"])


class Host:
    """The driver of the device that the artifact was compiled for."""

    sm = 80


@pytest.fixture
def launched(artifact, monkeypatch):
    """Let sessions take the host for a CUDA device without Triton; return the launches."""
    form, path = artifact
    packed, _ = packed_of(path)
    names = []
    torch_runner = backend._torch_runner
    for module, name, value in (
        (backend, "_why_no_device", lambda: None),
        (torch.cuda, "init", lambda: None),
        (torch.cuda, "current_device", lambda: 0),
        (compiled, "Driver", lambda ordinal: Host()),
        (compiled, "load_kernel", lambda driver, root, data: StandIn(data, packed, names)),
        (compiled, "_LOADED", {}),
        (backend, "_torch_runner", lambda root, _, called: torch_runner(root, "cpu", called)),
        # Of CUDA alone in torch: a float32 product of 16-bit operands.
        (operators, "_product", lambda rows, w: rows.float() @ w.float().T),
    ):
        monkeypatch.setattr(module, name, value)
    with device_operator_on_host(monkeypatch, form):
        yield names


def test_many_rows_are_multiplied_by_a_weight_that_the_artifact_unpacks(artifact, launched):
    _, path = artifact
    packed, rows = packed_of(path)
    session = sparsec.load(path)
    x = np.random.default_rng(0).standard_normal((rows, K)).astype(np.float32)
    y = session.run({"x": x})["y"]
    exact = x.astype(np.float16).astype(np.float64) @ packed.unpack().astype(np.float64).T
    assert np.abs(y - exact).max() <= 1e-5 * np.abs(exact).max()
    (unpack,) = (each["name"] for each in kernels_of(path) if "unpacks" in each)
    assert launched == [unpack]


def kernels_of(path):
    return json.loads((path / "manifest.json").read_text())["kernels"]


def test_the_artifact_carries_one_kernel_that_unpacks_with_all_its_files(artifact):
    form, path = artifact
    (data,) = (each for each in kernels_of(path) if "unpacks" in each)
    wanted = {"unpacks": form, "values": "float16", "dtype": "float16", "grouped": False, "sm": 80}
    assert {name: data[name] for name in wanted} == wanted
    assert [each["name"] for each in data["arguments"] if each["kind"] != "null_pointer"] == [
        *formats.get(form).arrays, "w", "M", "K",
    ]  # fmt: skip
    assert (path / data["file"]).read_bytes().startswith(b"\x7fELF")
    assert f".entry {data['entry']}(" in (path / data["ptx"]).read_text()
    assert (path / data["source"]).read_bytes() == (aot.SOURCES / "unpack.py").read_bytes()


def loaded(monkeypatch, *launch_data):
    """Take kernels of these launch data for loaded on device 0."""
    kernels = {f"{i}@0.": StandIn(data, None, None) for i, data in enumerate(launch_data)}
    launches = []
    monkeypatch.setattr(compiled, "_LOADED", kernels)
    monkeypatch.setattr(
        compiled.on_tensors, "launch", lambda kernels, *_: launches.append(kernels[0].launch_data)
    )
    return launches


def test_only_a_kernel_for_the_same_types_scales_and_columns_is_taken(monkeypatch):
    first = {
        "unpacks": "nm1_4", "values": "int8", "dtype": "float16", "k_multiple": 1, "grouped": False,
    }  # fmt: skip
    groups, aligned = {**first, "grouped": True}, {**first, "k_multiple": 16}
    launches = loaded(monkeypatch, first, groups, aligned)
    form = formats.get("nm1_4")

    def unpack(columns, group=None, dtype=torch.float16, values="int8"):
        packed = Packed.of(form, matrix_for("1:4", 20, columns, 0), values, group)
        arrays = {name: torch.from_numpy(array) for name, array in packed.arrays.items()}
        w = torch.empty(20, columns, dtype=dtype)
        return launches.pop() if compiled.unpack("nm1_4", arrays, w, values) else None

    assert unpack(320) is aligned
    assert unpack(324) is first
    assert unpack(320, 128) is groups
    assert unpack(320, dtype=torch.bfloat16) is None
    assert unpack(320, values="float16") is None
    assert not compiled.unpack("nm24", {}, torch.empty(4, 64, dtype=torch.float16), "int8")


def test_scaled_values_are_rounded_to_the_nearest_bfloat16():
    kernel = aot.compile_variant(unpack_variant("block8x1", 100, "int8", "bfloat16", "sm90"))
    assert re.search(r"cvt\.rn\.bf16", kernel.ptx)
    assert kernel.launch["k_multiple"] == 1


ARCHS = ("sm80", "sm90", "sm120", "gfx942")


@pytest.mark.parametrize(
    ("form", "arch"),
    [
        # Every format for two machines, blocks for all; the others wait for the long suite.
        pytest.param(
            form, arch, marks=() if (i + j) % 2 == 0 or "block" in form else pytest.mark.slow
        )
        for i, form in enumerate(FORMATS)
        for j, arch in enumerate(ARCHS)
    ],
)
def test_what_unpacks_compiles_to_few_registers_and_wide_stores(form, arch):
    values = formats.get(form).values[0]
    kernel = aot.compile_variant(unpack_variant(form, 768, values, "float16", arch))
    assert kernel.code.stack == 0
    assert kernel.launch["unpacks"] == form
    if arch != "gfx942":  # 16 warps at least on a processor
        assert kernel.code.registers <= 128
        assert kernel.code.count("STG") > 0
    if form not in ("block8x1", "block16x1"):
        return
    # The zeros of a strip are there before its blocks, whoever of its threads writes either.
    text = kernel.ptx
    barrier = re.search(r"s_barrier|bar\.sync", text).start()
    stores = [each.start() for each in re.finditer(r"st\.global|(global|buffer)_store", text)]
    assert min(stores) < barrier < max(stores)
