"""Lowering for a machine that is not this one: a model decides, says so, and nothing is timed."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.backends.base import LowerContext
from sparsec.backends.cpu import backend, choose
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.targets import AARCH64, CPU, X86_AVX2, X86_AVX512, platform_tag
from sparsec.ir.codes import Code
from sparsec.ir.errors import UnsupportedTargetError
from sparsec.ir.patterns import Unstructured
from sparsec.ir.sites import weight_sites
from sparsec.ir.target import Status, Target
from sparsec.verification import verify_artifact
from tests.backends.cpu.layers import NEEDS_LIBRARY, sparse_matrix
from tests.backends.cpu.test_backend import feeds, two_layers  # noqa: F401

pytestmark = NEEDS_LIBRARY
Feeds = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand on an x86 machine with AVX-512 that has a library for ARM, and no clock."""
    made = tmp_path / "arm" / "libsparsec_cpu.so"
    made.parent.mkdir()
    made.write_bytes(b"kernels")

    def timed(*arguments: object) -> None:
        raise AssertionError("something was timed")

    monkeypatch.setattr(backend, "platform_tag", lambda: "linux-x86_64")
    monkeypatch.setattr(backend, "features", lambda: ("avx512", "avx2", "portable"))
    monkeypatch.setattr(backend, "library_for", lambda tag: made)
    monkeypatch.setattr(backend, "why_no_library_for", lambda tag: None)
    monkeypatch.setattr(choose, "Measurer", timed)


@pytest.mark.parametrize("target", [AARCH64, X86_AVX2])
def test_what_gains_becomes_a_region(target: Target, feeds: Feeds) -> None:  # noqa: F811
    model = two_layers(0.95)
    lowered = CpuBackend().lower(model, target, LowerContext([feeds]))
    assert [row.code for row in lowered.layers] == [Code.MODELLED, Code.MODELLED, Code.DENSE]
    assert all("modelled" in row.reason for row in lowered.layers[:2])
    assert [node.op_type for node in lowered.model.graph if node.domain == "sparsec"]
    (tag,) = {name.split("/")[1] for name in lowered.files if name.startswith("lib/")}
    assert tag == ("linux-aarch64" if target is AARCH64 else "linux-x86_64")
    assert "nothing was timed" in lowered.notes[0]
    assert lowered.record is not None
    assert {entry.source for entry in lowered.record.entries} <= {"modelled"}
    known = [row.sparse_seconds is not None for row in lowered.layers]
    assert known == ([False] * 3 if target is AARCH64 else [True, True, False])


@pytest.mark.parametrize("target", [AARCH64, X86_AVX2])
def test_what_loses_stays(target: Target, feeds: Feeds) -> None:  # noqa: F811
    model = two_layers(0.05)
    before = [node.op_type for node in model.graph]
    lowered = CpuBackend().lower(model, target, LowerContext([feeds]))
    assert lowered.layers[0].code is Code.MODELLED_SLOWER
    assert "modelled" in lowered.layers[0].reason
    assert "pay" in lowered.layers[0].reason
    if target is X86_AVX2:  # the rule for ARM lets any zero of a 4x1 layer pay
        assert [node.op_type for node in lowered.model.graph] == before
        assert not lowered.files


def test_a_region_of_rows_that_loses_gives_its_layers_a_chance(feeds: Feeds) -> None:  # noqa: F811
    """At sparsity 0.3 the unstructured first layer loses more than the 4x1 second one gains."""
    lowered = CpuBackend().lower(two_layers(0.3), AARCH64, LowerContext([feeds]))
    assert [row.code for row in lowered.layers] == [
        Code.MODELLED_SLOWER,
        Code.MODELLED,
        Code.DENSE,
    ]


def test_a_layer_without_a_kernel_says_so() -> None:
    weight = sparse_matrix(np.random.default_rng(0), 8, 4, 0.9).reshape(8, 4, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "grouped", group=2)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 5, 5])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    (site,) = weight_sites(model)
    site.mark(Unstructured())
    images = {"x": np.ones((1, 8, 5, 5), np.float32)}
    lowered = CpuBackend().lower(model, AARCH64, LowerContext([images]))
    assert [row.code for row in lowered.layers] == [Code.NO_KERNEL]
    assert not lowered.files


def test_only_the_same_kernels_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed() -> list[Target]:
        every = (CPU, X86_AVX2, X86_AVX512, AARCH64)
        return [t for t in every if CpuBackend().status(t) is Status.MEASURED]

    assert timed() == [CPU, X86_AVX512]
    monkeypatch.setattr(backend, "features", lambda: ("avx2", "portable"))
    assert timed() == [CPU, X86_AVX2]
    monkeypatch.setattr(backend, "platform_tag", lambda: "linux-aarch64")
    monkeypatch.setattr(backend, "features", lambda: ("neon", "portable"))
    assert timed() == [CPU, AARCH64]


@pytest.mark.skipif(platform_tag() != "linux-x86_64", reason="stands in for ARM on x86")
def test_an_artifact_for_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proved with this machine's kernels, measured by nobody, loaded only where it belongs."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((128, 256)), "v": rng.standard_normal((256, 64))}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
            helper.make_node("Relu", ["h"], ["r"], "relu"),
            helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [80, 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [80, 64])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "m.onnx")
    compiled = sparsec.compile(
        tmp_path / "m.onnx",
        passes=["unstructured:sparsity=0.9"],
        target="aarch64",
        output=tmp_path / "m.sparsec",
    )
    summary = compiled.summary()
    assert summary["exit_code"] == 0
    assert summary["latency"] is None
    assert {layer["code"] for layer in summary["layers"]} == {"modelled"}
    assert summary["verify"]["passed"]
    manifest = json.loads((compiled.path / "manifest.json").read_text())
    assert manifest["verify"]["with"] == "emulated"
    assert "lib/linux-aarch64/libsparsec_cpu.so" in manifest["files"]
    counted = [
        file["bytes"]
        for name, file in manifest["files"].items()
        if not name.startswith(("plans/", "report"))
    ]
    assert summary["after"]["bytes"] == sum(counted), "the library of the target counts"
    with pytest.raises(UnsupportedTargetError, match="linux-aarch64"):
        sparsec.load(compiled.path)

    # What stands in for the device are this machine's kernels, and stock operators where it has none.
    ran = []
    own = backend._with_own_library
    monkeypatch.setattr(backend, "_with_own_library", lambda *a: ran.append(a) or own(*a))
    assert verify_artifact(compiled.path)["numerics"]["with"] == "emulated"
    assert ran
    monkeypatch.setattr(backend, "why_no_library", lambda: "gone")
    assert verify_artifact(compiled.path)["numerics"]["with"] == "emulated"
    assert len(ran) == 1
