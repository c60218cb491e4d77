"""An artifact for a GPU, run on the CPU by the same graph and the same operators' own references."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.artifact.graph import load_graph
from sparsec.backends.cuda.backend import CudaBackend
from sparsec.backends.cuda.densify import check_packed
from sparsec.ir.errors import (
    ArtifactError,
    ShapeError,
    UnsupportedTargetError,
    UsageError,
)
from sparsec.ir.run import OrtRunner
from tests.conftest import write_mlp
from tests.graphs import proto

torch = pytest.importorskip("torch", reason="the session runs in torch: pip install sparsec[cuda]")
pytest.importorskip("triton", reason="compiling needs triton: pip install sparsec[cuda]")

# What sessions run here are the operators' references, never a kernel.
pytestmark = pytest.mark.usefixtures("few_kernels")


@pytest.fixture(scope="module")
def artifact(few_kernels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    out = folder / "mlp.sparsec"
    sparsec.compile(write_mlp(folder / "mlp.onnx"), passes=["nm24"], target="a100", output=out)
    return out


def stock(artifact):
    """Return a runner of the same graph in stock operators and ONNX Runtime."""
    return OrtRunner(CudaBackend().densify(load_graph(artifact), artifact), optimise=False)


def x_of(rows, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, 32)).astype(np.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_the_error_names_the_ways_out(artifact):
    with pytest.raises(UnsupportedTargetError, match="finds no CUDA device") as error:
        sparsec.load(artifact)
    for way in ("emulate=True", "sparsec verify", "--target cpu"):
        assert way in str(error.value)


@pytest.mark.parametrize("rows", [1, 3, 300])
def test_emulation_computes_what_stock_operators_do(artifact, rows):
    session = sparsec.load(artifact, emulate=True)
    for seed in range(3):  # call by call, traced, and the trace again
        feeds = {"x": x_of(rows, seed)}
        y, expected = session.run(feeds)["y"], stock(artifact).run(feeds)["y"]
        assert y.dtype == expected.dtype
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_transformer_s_layers_end_in_their_kernels(tmp_path):
    """GELU as exporters decompose it, and the residual stream: two nodes are left, and casts."""
    rng = np.random.default_rng(0)
    up, down = (rng.standard_normal(s).astype(np.float32) / 8 for s in ((32, 64), (64, 32)))
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["h"], "up"),
        helper.make_node("Add", ["h", "b"], ["s"]),
        helper.make_node("Div", ["s", "root"], ["t"]),
        helper.make_node("Erf", ["t"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["p"]),
        helper.make_node("Mul", ["s", "p"], ["q"]),
        helper.make_node("Mul", ["q", "half"], ["g"]),
        helper.make_node("MatMul", ["g", "down"], ["d"], "down"),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    constants = {"up": up, "down": down, "b": rng.standard_normal(64).astype(np.float32)}
    constants |= {k: np.float32(v) for k, v in (("root", 2**0.5), ("one", 1), ("half", 0.5))}
    source = proto(nodes, {"x": ["batch", 32]}, ["y"], constants)
    out = tmp_path / "ffn.sparsec"
    sparsec.compile(source, passes=["nm24"], target="a100", output=out)
    lowered = load_graph(out)
    assert [n.op_type for n in lowered.graph] == ["Cast", "PackedMatMul", "Cast", "PackedMatMul"]
    kernels = {
        each["name"]: each["activation"]
        for each in json.loads((out / "manifest.json").read_text())["kernels"]
        if "unpacks" not in each
    }
    assert set(kernels.values()) == {"gelu", "none"}
    session = sparsec.load(out, emulate=True)
    for rows in (1, 5, 5, 300):
        x = rng.standard_normal((rows, 32)).astype(np.float32)
        expected = stock(out).run({"x": x})["y"]
        np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-4)


def test_a_program_is_made_once_for_shapes_that_come_again(artifact):
    session = sparsec.load(artifact, emulate=True)
    runner = session._runner
    for rows in (2, 5, 7, 2, 5, 2, 5, 2):
        session.run({"x": x_of(rows, seed=rows)})
    assert [program.how for program in runner.programs.values()] == ["traced", "traced"]
    assert next(reversed(runner.programs))[0][0] == (2, 32)


def test_the_oldest_program_gives_way(artifact, monkeypatch):
    monkeypatch.setattr("sparsec.backends.cuda.runner.MAX_PROGRAMS", 2)
    session = sparsec.load(artifact, emulate=True)
    for rows in (1, 1, 2, 2, 3, 3):
        session.run({"x": x_of(rows)})
    assert [key[0][0][0] for key in session._runner.programs] == [2, 3]


def test_buckets_pad_and_cut(artifact):
    plain = sparsec.load(artifact, emulate=True)
    session = sparsec.load(artifact, emulate=True, buckets={"batch": [4, 16]})
    for rows in (1, 3, 4, 5, 16, 20, 20):
        x = x_of(rows, seed=rows)
        y = session.run({"x": x})["y"]
        assert y.shape == (rows, 10)
        np.testing.assert_allclose(y, plain.run({"x": x})["y"], rtol=1e-5, atol=1e-6)
    assert sorted(key[0][0][0] for key in session._runner.programs) == [4, 16, 20]


@pytest.mark.parametrize(
    ("buckets", "message"),
    [({"bath": [4]}, "no dynamic axis 'bath'"), ({"batch": [0]}, "positive whole numbers"),
     ({"batch": []}, "positive whole numbers")],
)  # fmt: skip
def test_buckets_that_do_not_suit_are_refused(artifact, buckets, message):
    with pytest.raises(UsageError, match=message):
        sparsec.load(artifact, emulate=True, buckets=buckets)


def test_an_axis_whose_rows_see_each_other_cannot_be_padded(tmp_path):
    weight = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "fc"),
        helper.make_node("ReduceMean", ["h", "axes"], ["mean"], "mean", keepdims=1),
        helper.make_node("Sub", ["h", "mean"], ["y"], "centred"),
    ]
    graph = helper.make_graph(
        nodes,
        "centred",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([0]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "centred.onnx")
    out = tmp_path / "centred.sparsec"
    sparsec.compile(tmp_path / "centred.onnx", passes=["nm24"], target="a100", output=out)
    sparsec.load(out, emulate=True)
    with pytest.raises(UsageError, match="its rows see each other"):
        sparsec.load(out, emulate=True, buckets={"batch": [8]})


def test_wrong_inputs_are_refused_before_torch_sees_them(artifact):
    session = sparsec.load(artifact, emulate=True)
    with pytest.raises(ShapeError, match="need float32"):
        session.run({"x": x_of(2).astype(np.float64)})


def test_packed_data_is_checked_before_a_kernel_could_read_it(artifact):
    model = load_graph(artifact)
    node = next(n for n in model.graph if n.domain == "sparsec")
    masks = node.inputs[2].const_value.numpy().copy()
    masks[1, 0] |= 0xF
    node.inputs[2].const_value = ir.tensor(masks, name="meta")
    with pytest.raises(ArtifactError, match="two bits"):
        check_packed(model, "here")


def test_without_torch_the_way_out_is_named(artifact, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedTargetError, match="sparsec verify"):
        sparsec.load(artifact, emulate=True)
    with pytest.raises(UnsupportedTargetError, match="needs torch"):
        sparsec.load(artifact)


def test_a_path_that_data_decides_runs_eagerly_with_the_reason(tmp_path):
    weight = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)

    def branch(op, name):
        node = helper.make_node(op, ["h"], [name], f"{name}_node")
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [out])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "fc"),
        helper.make_node("ReduceSum", ["h"], ["sum"], "sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"], "positive"),
        helper.make_node("If", ["positive"], ["y"], "if", then_branch=branch("Abs", "t"),
                         else_branch=branch("Neg", "e")),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "branching",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32(0), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "branching.onnx")
    out = tmp_path / "branching.sparsec"
    sparsec.compile(tmp_path / "branching.onnx", passes=["nm24"], target="a100", output=out)
    session = sparsec.load(out, emulate=True)
    for seed in range(6):  # sums of both signs
        feeds = {"x": x_of(3, seed)}
        expected = stock(out).run(feeds)["y"]
        np.testing.assert_allclose(session.run(feeds)["y"], expected, rtol=1e-4, atol=1e-4)
    (program,) = session._runner.programs.values()
    assert program.how == "eager"
    assert "depends on data" in program.reason


def test_a_program_for_cuda_touches_no_tensor_on_the_host(tmp_path):
    """Traced with fake tensors that say they are on a device: nothing is made on the host or moved.

    Such a call is not allowed while a CUDA graph is captured.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    from sparsec.backends.cuda.program import specialise
    from sparsec.backends.cuda.runner import TorchRunner

    runner = TorchRunner(attention_like(tmp_path), "cpu")
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in runner.module.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    held[name] = torch.empty_like(tensor, device="cuda")
        x = torch.empty(2, 5, 32, device="cuda")
        with torch.device("cuda"):
            traced = specialise(runner.module, [x])
        on = {
            node.name: node.meta["val"].device.type
            for node in traced.graph.nodes
            if isinstance(node.meta.get("val"), torch.Tensor) and node.op == "call_function"
        }
    assert len(on) > 5
    assert set(on.values()) == {"cuda"}
    assert not [n for n in traced.graph.nodes if "device" in n.kwargs]


def attention_like(folder):
    """Return a lowered graph with what transformers compute on the host: shapes, ranges, masks."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((32, 32)).astype(np.float32)
    ints = {"zero": 0, "one": 1, "two": 2}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "fc"),
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "one"], ["length"], "length"),
        helper.make_node("Range", ["zero", "length", "one"], ["steps"], "steps"),
        helper.make_node("Unsqueeze", ["steps", "axes"], ["column"], "column"),
        helper.make_node("LessOrEqual", ["column", "steps"], ["seen"], "seen"),
        helper.make_node("Transpose", ["h"], ["ht"], "ht", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["h", "ht"], ["scores"], "scores"),
        helper.make_node("Where", ["seen", "scores", "low"], ["masked"], "masked"),
        helper.make_node("Softmax", ["masked"], ["weights"], "weights", axis=-1),
        helper.make_node("MatMul", ["weights", "h"], ["y"], "mix"),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 32])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.float32(-1e9), "low"),
            numpy_helper.from_array(np.array([1]), "axes"),
            *(numpy_helper.from_array(np.int64(v), k) for k, v in ints.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "attention.onnx")
    out = folder / "attention.sparsec"
    sparsec.compile(folder / "attention.onnx", passes=["nm24"], target="a100", output=out)
    return load_graph(out)
