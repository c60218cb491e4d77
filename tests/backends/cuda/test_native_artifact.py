"""Artifacts with CUDA C++ kernels, from the command line to a session that runs what they carry.

The device is a driver that runs the emulated kernel, its memory the host's; nvcc, NVRTC and Triton are
hidden while artifacts run.
"""

import ctypes
import functools
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from host_operator import device_operator_on_host
from nm24_cases import nm14_matrix, nm24_matrix
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.artifact.graph import load_graph
from sparsec.backends.cuda import backend, native, nvcc
from sparsec.backends.cuda.loader import Driver, load_kernel, load_kernels
from sparsec.backends.cuda.native import NATIVE, NativeUnpack, NativeVariant
from sparsec.cli.main import main
from sparsec.ir.errors import ArtifactError

sys.path.insert(0, str(Path(__file__).parent / "emulator"))
from emulation import COMPILER, compile_library

torch = pytest.importorskip("torch", reason="the session runs in torch")
pytest.importorskip("triton", reason="compiling for a GPU needs triton")
from sparsec.backends.cuda import compiled, native_launch, operators  # noqa: E402

pytestmark = pytest.mark.skipif(
    COMPILER is None or bool(nvcc.why_not(90)),
    reason="the fake driver needs g++, compiling these kernels nvcc or NVRTC",
)

M, K = 96, 128
BUCKET = 16
PASSES = {"nm24_sp": "nm24", "nm14_sp": "nm:n=1,m=4", "lps": "unstructured:sparsity=0.8125"}


def layer(form):
    """Return W [M, K] and b [M]; what is multiplied is W as float16."""
    rng = np.random.default_rng(0)
    weight = nm24_matrix(M, K, "float16", seed=0).astype(np.float32)
    if form == "nm14_sp":
        weight = nm14_matrix(M, K, "float16", seed=0).astype(np.float32)
    if form == "lps":
        weight = rng.standard_normal((M, K)).astype(np.float16).astype(np.float32)
        weight.reshape(-1)[np.argsort(np.abs(weight), axis=None)[: M * K * 13 // 16]] = 0
    return weight, rng.standard_normal(M).astype(np.float32)


def write(path, form):
    weight, bias = layer(form)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "fc"),
        helper.make_node("Add", ["h", "b"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["gate"]),
        helper.make_node("Mul", ["gate", "s"], ["a"]),
        helper.make_node("Add", ["r", "a"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", K]),
            helper.make_tensor_value_info("r", TensorProto.FLOAT, ["batch", M]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", M])],
        [numpy_helper.from_array(np.ascontiguousarray(weight.T), "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )


def compile_by_cli(folder, form):
    """Return the artifact that ``sparsec compile --target h200`` makes of a layer."""
    write(folder / "layer.onnx", form)
    out = folder / f"{form}.sparsec"
    options = ["--pass", PASSES[form], "--target", "h200", "--output", out]
    assert main(["compile", *map(str, [folder / "layer.onnx", *options])]) == 0
    return out


@pytest.fixture(scope="module", params=NATIVE)
def artifact(request, tmp_path_factory):
    """A form and its artifact, of one bucket of rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "BUCKETS", (BUCKET,))
        yield request.param, compile_by_cli(tmp_path_factory.mktemp("native"), request.param)


def variant_of(form, bucket):
    stored = {"lps": 0.5, "nm24_sp": 1.125, "nm14_sp": 0.5625}[form]
    return NativeVariant(form, "float16", 90, bucket, clear=native.clears(form, stored))


def unpack_of(form):
    return NativeUnpack(form, "float16", 90)


@functools.cache
def library_of(variant):
    name = f"artifact_{variant.name}"
    return compile_library(name, variant.source.name, variant.entry, variant.defines)


@pytest.fixture
def device(artifact, monkeypatch):
    """Let sessions take the host for a CUDA device; return what its driver was asked for."""
    form, _ = artifact
    path, unpack = (str(library_of(v)) for v in (variant_of(form, BUCKET), unpack_of(form)))
    library, other = ctypes.CDLL(path), ctypes.CDLL(unpack)
    for each in (library, other):
        each.fake_log.restype = ctypes.c_char_p
        each.fake_open_memory()

    def load(driver, root, data):
        """Load a kernel by the driver that emulates it."""
        return load_kernel(Driver(0, unpack) if "unpacks" in data else driver, root, data)

    for module, name, value in (
        (nvcc, "find_nvcc", lambda: None),
        (nvcc, "find_nvrtc", lambda: None),
        (backend, "_why_no_device", lambda: None),
        (torch.cuda, "init", lambda: None),
        (torch.cuda, "current_device", lambda: 0),
        (compiled, "Driver", lambda ordinal: Driver(ordinal, path)),
        (compiled, "load_kernel", load),
        (native_launch, "_on_device", lambda tensor: True),
        (compiled, "_LOADED", {}),
        (backend, "_torch_runner", functools.partial(_on_host, backend._torch_runner)),
    ):
        monkeypatch.setattr(module, name, value)
    with device_operator_on_host(monkeypatch, form):
        before = len(library.fake_log())
        yield lambda: library.fake_log()[before:].decode().splitlines()


def _on_host(torch_runner, root, device, called):
    assert device == "cuda"
    return torch_runner(root, "cpu", called)


def feeds_of(rows):
    rng = np.random.default_rng(rows)
    return {
        name: rng.standard_normal((rows, width)).astype(np.float32)
        for name, width in (("x", K), ("r", M))
    }


def exact(form, x, r):
    weight, bias = layer(form)
    y = x.astype(np.float16).astype(np.float64) @ weight.astype(np.float64).T + bias
    return y / (1 + np.exp(-y)) + r


@pytest.mark.parametrize(("sm", "kind"), [(90, "cubin"), (80, "ptx")])
def test_a_session_runs_the_code_that_the_artifact_carries(artifact, device, sm, kind, tmp_path):
    form, path = artifact
    if sm != 90:  # as if compiled for an older device
        path = altered(path, tmp_path, sm=sm)
    session = sparsec.load(path)
    assert device()[0] == f"load {kind}"
    for rows in (1, 16, 21, 21, 21):  # 21 rows: call by call, then as a traced program
        feeds = feeds_of(rows)
        y = session.run(feeds)["y"]
        assert np.abs(y - exact(form, **feeds)).max() <= 2e-5
    assert [each.how for each in session._runner.programs.values()] == ["traced"], [
        each.reason for each in session._runner.programs.values()
    ]
    launches = [line for line in device() if line.startswith("launch")]
    assert [line.split(" block")[0] for line in launches[:2]] == ["launch grid 1 1 1"] * 2
    assert set(launches[2:]) == {launches[2]}
    assert launches[2].startswith("launch grid 1 1 2 block 256 1 1")


def altered(path, folder, **changes):
    """Return a copy of an artifact whose kernels say something else; its code stays as it is."""
    copy = folder / path.name
    shutil.copytree(path, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for kernel in manifest["kernels"]:
        kernel.update(changes)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_code_for_a_later_device_needs_a_compiler_and_says_so(
    artifact, device, tmp_path, monkeypatch
):
    _, path = artifact
    path = altered(path, tmp_path, sm=100)
    with pytest.raises(ArtifactError, match="is for sm_100, the device is sm_90") as error:
        sparsec.load(path)
    for way in ("--target of this device", "pip install nvidia-cuda-nvrtc", "emulate=True"):
        assert way in str(error.value)
    monkeypatch.setattr(nvcc, "find_nvcc", lambda: Path("nvcc"))
    sparsec.load(path)  # the source is left
    assert not compiled._LOADED
    (tmp_path / "other").mkdir()
    path = altered(path, tmp_path / "other", source_sha256="0" * 64)
    with pytest.raises(
        ArtifactError, match="another source of it than the one that it was compiled"
    ):
        sparsec.load(path)


def test_artifacts_with_kernels_of_one_name_keep_their_own(artifact, device, tmp_path):
    form, path = artifact
    first = sparsec.load(path)
    changed = altered(path, tmp_path)
    for file in (changed / "kernels" / "sm90").glob("*.cubin"):
        file.write_bytes(file.read_bytes() + b"\0")
    manifest = json.loads((changed / "manifest.json").read_text())
    for kernel in manifest["kernels"]:
        for file in (kernel["file"],):
            code = (changed / file).read_bytes()
            manifest["files"][file] = {
                "sha256": hashlib.sha256(code).hexdigest(), "bytes": len(code),
            }  # fmt: skip
    (changed / "manifest.json").write_text(json.dumps(manifest))
    second = sparsec.load(changed)
    names = [kernel["name"] for kernel in manifest["kernels"]]
    assert [name.split("@")[0] for name in compiled._LOADED] == names * 2
    loads = len([line for line in device() if line.startswith("load")])
    assert loads == 2 * sum("unpacks" not in each for each in manifest["kernels"])
    third = sparsec.load(path)  # the same once more: nothing is loaded again
    assert len([line for line in device() if line.startswith("load")]) == loads
    kernels = list(compiled._LOADED.values())
    launched = []
    for index, kernel in enumerate(kernels):
        launch = kernel.launch
        kernel.launch = lambda *args, i=index, f=launch: (launched.append(i), f(*args))
    feeds = feeds_of(3)
    for session in (first, second, third):
        assert np.abs(session.run(feeds)["y"] - exact(form, **feeds)).max() <= 2e-5
    assert launched == [0, len(names), 0]


def test_many_rows_are_multiplied_by_a_weight_that_the_artifact_unpacks(
    artifact, device, monkeypatch
):
    form, path = artifact
    # Of CUDA alone in torch: a float32 product of 16-bit operands.
    monkeypatch.setattr(operators, "_product", lambda rows, w: rows.float() @ w.float().T)
    (node,) = (each for each in load_graph(path).graph if each.op_type == "PackedMatMul")
    rows = node.attributes["dense_from"].as_int()
    session = sparsec.load(path)
    before = device()
    feeds = feeds_of(rows)
    y = session.run(feeds)["y"]
    assert device() == before  # no packed product
    expected = exact(form, feeds["x"].astype(np.float16), feeds["r"])
    assert np.abs(y - expected).max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("form", NATIVE)
def test_launch_data_of_every_kernel_replayed(form, tmp_path):
    """The manifest and the loader alone, as a program in another language would use them."""
    path = compile_by_cli(tmp_path, form)
    manifest = json.loads((path / "manifest.json").read_text())
    (node,) = (each for each in load_graph(path).graph if each.op_type == "PackedMatMul")
    operands = [each.const_value.numpy() for each in node.inputs[1:-1]]
    assert node.attributes["activation"].as_string() == "silu"
    assert [each.op_type for each in load_graph(path).graph] == ["Cast", "PackedMatMul"]
    splits = node.attributes["splits"].as_ints()
    names = node.attributes["kernels"].as_strings()
    (unpack,) = (each for each in manifest["kernels"] if "unpacks" in each)
    multiply = [each for each in manifest["kernels"] if each is not unpack]
    assert unpack["name"] == unpack_of(form).name
    assert [each["n_max"] for each in multiply] == list(native.BUCKETS)
    assert list(names) == [each["name"] for each in multiply]
    for data, split in zip(multiply, splits, strict=True):
        variant = variant_of(form, data["n_max"])
        assert data["name"] == variant.name
        driver = Driver(library=str(library_of(variant)))
        (kernel,) = load_kernels(driver, path, {"kernels": [data]}).values()
        for rows in (1, data["n_max"], data["n_max"] + 3):
            x, r = feeds_of(rows).values()
            x = x.astype(np.float16)
            sizes = {"M": M, "N": rows, "K": K, "split": split, "wide": 1}
            sizes["activation"] = native.ACTIVATIONS.index("silu")
            order = [e["name"] for e in data["arguments"] if e["kind"] == "pointer"]
            stored = [each for each in order if each not in ("x", "scale", "residual", "y")]
            pointers = {"x": upload(driver, x), "y": driver.allocate(4 * rows * M)}
            pointers["residual"] = upload(driver, r)
            for name, array in zip(stored, operands, strict=True):
                pointers[name] = upload(driver, array)
            for name, (nbytes, zero) in kernel.scratch(sizes).items():
                pointers[name] = driver.allocate(nbytes)
                if zero:
                    driver.fill(pointers[name], 0, nbytes)
            kernel.launch(pointers, sizes)
            y = np.frombuffer(driver.copy_out(pointers["y"], 4 * rows * M), np.float32)
            assert np.abs(y.reshape(rows, M) - exact(form, x, r)).max() <= 2e-5
            for address in pointers.values():
                driver.free(address)


def upload(driver, array):
    address = driver.allocate(max(array.nbytes, 1))
    driver.copy_in(address, array.tobytes())
    return address
