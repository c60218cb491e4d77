"""What several folders of tests share: a tiny model and what it compiles to."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.backends.cuda import aot, nvcc
from sparsec.backends.cuda.sass import CodeReport
from sparsec.backends.cuda.variants import Variant

# A file stays with one worker, so those that take longest come first: none runs on alone at the end.
LONGEST = (
    "test_native_code.py",
    "test_kernels_interpreted.py",
    "test_every_real_model.py",
    "test_channel_real.py",
    "test_cuda_aot.py",
    "test_nets.py",
    "test_torchvision.py",
    "test_native_emulated.py",
    "test_cuda_backend.py",
    "test_artifact_reader.py",
    "test_structure_random.py",
    "test_torch_operators.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Let the garbage collector leave alone what collection makes: it stays, and there is much of it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the expected side of golden files"
    )
    parser.addoption(
        "--every-variant",
        action="store_true",
        help="compile every variant of the GPU kernels in slow tests, not a selection: hours",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten instead of compared."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def every_variant(request: pytest.FixtureRequest) -> bool:
    """Whether slow tests compile every variant of the GPU kernels."""
    return bool(request.config.getoption("--every-variant"))


@pytest.fixture(scope="session", autouse=True)
def _kernels_are_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep compiled GPU kernels for the length of a run, for all workers: many tests need the same few.

    A test that names a cache of its own compiles anew.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kernels"
    compile_variant, compile_native = aot.compile_variant, nvcc.compile_native
    read_code = aot.read_code
    kept: dict[Variant, aot.CompiledKernel] = {}

    def by_triton(variant: Variant, cache: Path | None = None) -> aot.CompiledKernel:
        if cache is not None:
            return compile_variant(variant, cache)
        if variant not in kept:
            kept[variant] = compile_variant(variant, folder)
        return kept[variant]

    def by_nvcc(variant: nvcc.AnyNative, cache: Path | None = None) -> aot.CompiledKernel:
        return compile_native(variant, cache or folder)  # which knows compilers and sources apart

    def disassembled(cubin: bytes) -> CodeReport:
        """Read the same bytes once: the disassembler takes as long as the compiler to start."""
        file = folder / f"{hashlib.sha256(cubin).hexdigest()}.report"
        if file.is_file():  # of this run's own temporary folder: nobody else's pickle
            report: CodeReport = pickle.loads(file.read_bytes())
            return report
        report = read_code(cubin)
        folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_bytes(pickle.dumps(report))
        partial.replace(file)
        return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aot, "compile_variant", by_triton)
        patch.setattr(nvcc, "compile_native", by_nvcc)
        for module in (aot, nvcc):
            patch.setattr(module, "read_code", disassembled)
        yield


def write_mlp(path: Path, name: str = "fc") -> Path:
    """Write a perceptron x[batch, 32] -> y[batch, 10] whose three layers take 2:4, and one does not."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (32, 64), "b0": (64,), "w1": (64, 33), "w2": (33, 64), "w3": (64, 10)}
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 6, key)
        for key, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h0"], f"{name}0"),
        helper.make_node("Add", ["h0", "b0"], ["h1"], "bias"),
        helper.make_node("Relu", ["h1"], ["h2"], "relu"),
        helper.make_node("MatMul", ["h2", "w1"], ["h3"], f"{name}1"),
        helper.make_node("MatMul", ["h3", "w2"], ["h4"], f"{name}2"),  # K = 33
        helper.make_node("MatMul", ["h4", "w3"], ["y"], f"{name}3"),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """The function that writes the small perceptron, for tests that want another one."""
    return write_mlp


@pytest.fixture(scope="session")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small perceptron. Not to be changed."""
    return write_mlp(tmp_path_factory.mktemp("model") / "mlp.onnx")


@pytest.fixture(scope="session")
def compiled(mlp: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the perceptron compiles to with nm24 for plain ONNX. Not to be changed."""
    output = tmp_path_factory.mktemp("artifact") / "mlp.sparsec"
    return sparsec.compile(mlp, passes=["nm24"], target="onnx", output=output).path


@pytest.fixture
def artifact(compiled: Path, tmp_path: Path) -> Path:
    """A copy of the compiled perceptron that a test may damage."""
    return Path(shutil.copytree(compiled, tmp_path / "mlp.sparsec"))
