"""The channel pass from end to end: compiled, certified, verified, and refused where it must be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import sparsec
from sparsec.artifact.digest import sha256
from sparsec.cli.main import main
from sparsec.ir.errors import ArtifactError, PassConfigError, VerifyError
from sparsec.passes.spec import parse_spec
from sparsec.verification import verify_artifact
from tests.graphs import normal, proto


def residual_net(path: Path) -> Path:
    """Write stem -> (conv -> relu -> conv) + skip -> pool -> Gemm, 16 and 24 channels."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["s"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["s"], ["a"], "relu0"),
        helper.make_node("Conv", ["a", "w1"], ["h"], "inner", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["i"], "relu1"),
        helper.make_node("Conv", ["i", "w2"], ["j"], "outer", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "j"], ["k"], "skip"),
        helper.make_node("GlobalAveragePool", ["k"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "head", transB=1),
    ]
    weights = {
        "w0": normal(16, 3, 3, 3, seed=0) / 5,
        "w1": normal(24, 16, 3, 3, seed=1) / 12,
        "w2": normal(16, 24, 3, 3, seed=2) / 15,
        "w3": normal(10, 16, seed=3) / 4,
        "b3": normal(10, seed=4),
    }
    onnx.save(proto(nodes, {"x": [1, 3, 8, 8]}, ["y"], weights), path)
    return path


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return residual_net(tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.fixture(scope="module")
def pruned(net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "net.sparsec"
    passes = ["channel:sparsity=0.5,round=4"]
    return sparsec.compile(net, passes=passes, target="onnx", output=output).path


def test_channels_go_and_the_rest_follows(pruned: Path):
    shapes = {
        tensor.name: list(tensor.dims)
        for tensor in onnx.load(pruned / "model.onnx").graph.initializer
    }
    assert shapes["w0"] == [8, 3, 3, 3]
    assert shapes["w1"] == [12, 8, 3, 3]
    assert shapes["w2"] == [8, 12, 3, 3]
    assert shapes["w3"] == [10, 8]


def test_the_certificate_is_replayed_with_random_and_with_real_weights(pruned: Path, net: Path):
    assert verify_artifact(pruned)["certificates"]["with"] == "random"
    result = verify_artifact(pruned, net)["certificates"]
    assert (result["replayed"], result["failed"], result["with"]) == (1, 0, "model")
    assert result["max_rel"] < 1e-5


@pytest.fixture
def forged(pruned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pruned, tmp_path / "net.sparsec"))


def certificate_of(artifact: Path) -> Path:
    manifest = json.loads((artifact / "manifest.json").read_text())
    return artifact / manifest["certificates"][0]["file"]


def rehash(artifact: Path, file: Path) -> None:
    """Make the hash of a changed file fit again, as somebody who means harm would."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    entry = {"sha256": sha256(file), "bytes": file.stat().st_size}
    manifest["files"][file.relative_to(artifact).as_posix()] = entry
    (artifact / "manifest.json").write_text(json.dumps(manifest))


def rewrite(artifact: Path, change) -> None:
    file = certificate_of(artifact)
    body = json.loads(file.read_text())
    change(body)
    file.write_text(json.dumps(body))
    rehash(artifact, file)


def test_a_certificate_that_removes_other_channels_fails(forged: Path, capsys):
    def other_channels(body):
        runs = body["tensors"]["w1"]["removed"]["0"]
        taken = {p for first, n in runs for p in range(first, first + n)}
        chosen = [p for p in range(24) if p not in taken][: len(taken)]
        body["tensors"]["w1"]["removed"]["0"] = [[p, 1] for p in chosen]

    rewrite(forged, other_channels)
    with pytest.raises(VerifyError, match="certificate of channel fails"):
        verify_artifact(forged)
    assert main(["verify", str(forged)]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b["tensors"]["w1"]["removed"].update({"0": [[20, 9]]}), "out of order or range"),
        (lambda b: b["tensors"]["w1"]["removed"].update({"7": [[0, 1]]}), "no axis '7'"),
        (lambda b: b["tensors"].update(nothing={"removed": {}}), "no parameter"),
        (lambda b: b.update(dense="../net.onnx"), "not listed"),
        (lambda b: b.update(format="other"), "not a certificate"),
    ],
)
def test_a_damaged_certificate_is_refused(forged: Path, change, message: str):
    rewrite(forged, change)
    with pytest.raises(sparsec.SparsecError, match=message):
        verify_artifact(forged)


def outside(tensor: onnx.TensorProto) -> None:
    """Let a tensor lie in a file that its reader, but not the artifact, has."""
    tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=1, dims=[1], data_location=1))
    for key, value in (("location", "../../secret"), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)


@pytest.mark.parametrize("where", ["initializer", "attribute"])
def test_a_certificate_whose_graph_reads_another_file_is_refused(forged: Path, where: str):
    (forged.parent / "secret").write_bytes(b"1234")
    file = certificate_of(forged).with_suffix(".dense.onnx")
    graph = onnx.load(file)
    if where == "initializer":
        outside(graph.graph.initializer.add(name="stolen"))
    else:
        node = graph.graph.node.add(op_type="Constant", name="thief", output=["stolen"])
        attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
        outside(attribute.t)
    onnx.save(graph, file)
    rehash(forged, file)
    with pytest.raises(ArtifactError, match=r"lies in '\.\./\.\./secret'"):
        verify_artifact(forged)


def of_any_size(graph: onnx.GraphProto) -> None:
    graph.input[1].type.tensor_type.shape.dim[0].dim_param = "n"


def of_no_rank(graph: onnx.GraphProto) -> None:
    graph.input[1].type.tensor_type.ClearField("shape")


def of_no_type(graph: onnx.GraphProto) -> None:
    graph.input[1].ClearField("type")


def of_texts(graph: onnx.GraphProto) -> None:
    graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.STRING


def of_more_channels(graph: onnx.GraphProto) -> None:
    graph.input[1].type.tensor_type.shape.dim[1].dim_value += 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (of_any_size, "needed numbers of a known shape"),
        (of_no_rank, "needed numbers of a known shape"),
        (of_no_type, "needed numbers of a known shape"),
        (of_texts, "needed numbers of a known shape"),
        (of_more_channels, "its graphs cannot be run"),
    ],
)
def test_a_certificate_whose_parameters_do_not_fit_is_refused(forged: Path, edit, message: str):
    file = certificate_of(forged).with_suffix(".dense.onnx")
    graph = onnx.load(file)
    edit(graph.graph)
    onnx.save(graph, file)
    rehash(forged, file)
    with pytest.raises(ArtifactError, match=message) as caught:
        verify_artifact(forged)
    assert caught.value.where == str(certificate_of(forged))


def test_groups_are_inspected(net: Path, capsys):
    assert main(["inspect", str(net), "--groups", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    by_name = {group["name"]: group for group in result["groups"]}
    assert by_name["stem"]["units"] == 16
    assert by_name["stem"]["makers"] == ["stem", "outer"]
    assert by_name["inner"]["units"] == 24
    (head,) = result["frozen"]
    assert head["value"] == "head"
    assert "graph output 'y'" in head["reason"]
    # One channel of the stem: 64 positions x (27 + 9 of every neighbour in and out), and the head.
    macs = 64 * 9 * (3 + 24 + 24) + 10
    assert by_name["stem"]["saves"] == {"macs": macs, "params": 9 * (3 + 24 + 24) + 10}
    assert main(["inspect", str(net), "--groups"]) == 0
    printed = capsys.readouterr().out
    assert "outer" in printed
    assert "frozen  head: the graph output 'y' keeps its shape" in printed
    assert "groups 2, units 40; frozen: groups 1, units 10" in printed


def test_excluding_one_convolution_keeps_what_is_coupled_with_it(net: Path, tmp_path: Path):
    passes = ["channel:sparsity=0.5,round=1,exclude=outer"]
    artifact = sparsec.compile(net, passes=passes, target="onnx", output=tmp_path / "a.sparsec")
    (step,) = artifact.manifest["passes"]
    assert step["changed"] == ["inner"]
    assert {"stem", "head"} == {item["site"] for item in step["skipped"]}


def test_nothing_is_rounded_to_zero(net: Path, tmp_path: Path):
    passes = ["channel:sparsity=0.99,round=1"]
    artifact = sparsec.compile(net, passes=passes, target="onnx", output=tmp_path / "a.sparsec")
    shapes = [list(t.dims) for t in onnx.load(artifact.path / "model.onnx").graph.initializer]
    assert all(size > 0 for shape in shapes for size in shape)
    assert verify_artifact(artifact.path)["passed"]


def test_two_passes_leave_two_certificates(net: Path, tmp_path: Path):
    passes = ["channel:sparsity=0.25,round=4", "channel:sparsity=0.5,round=4,include=inner"]
    artifact = sparsec.compile(net, passes=passes, target="onnx", output=tmp_path / "a.sparsec")
    assert verify_artifact(artifact.path, net)["certificates"]["replayed"] == 2


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "lamp", "random", "bn"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_criteria_and_scopes(net: Path, tmp_path: Path, criterion: str, scope: str):
    spec = f"channel:sparsity=0.4,round=2,criterion={criterion},scope={scope}"
    artifact = sparsec.compile(net, passes=[spec], target="onnx", output=tmp_path / "a.sparsec")
    assert artifact.manifest["after"]["params"] < artifact.manifest["before"]["params"]


def test_the_smallest_filters_go_first(tmp_path: Path):
    weight = np.ones((8, 3, 1, 1), np.float32)
    weight[[1, 4]] = 0.01
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "first"),
        helper.make_node("Conv", ["h", "v"], ["y"], "second"),
    ]
    weights = {"w": weight, "v": np.ones((2, 8, 1, 1), np.float32)}
    onnx.save(proto(nodes, {"x": [1, 3, 4, 4]}, ["y"], weights), tmp_path / "m.onnx")
    passes = ["channel:sparsity=0.25,round=2"]
    output = tmp_path / "a.sparsec"
    artifact = sparsec.compile(tmp_path / "m.onnx", passes=passes, target="onnx", output=output)
    body = json.loads((artifact.path / artifact.manifest["certificates"][0]["file"]).read_text())
    assert body["tensors"]["w"]["removed"]["0"] == [[1, 1], [4, 1]]
    assert body["groups"] == [{"name": "first", "units": 8, "removed": [[1, 1], [4, 1]]}]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("channel:sparsity=1.5", "between 0 and 1"),
        ("channel:sparsity=0.5,criterion=l3", "unknown criterion"),
        ("channel:sparsity=0.5,round=0", "at least 1"),
        ("channel:sparsity=0.5,scope=all", "layer or global"),
    ],
)
def test_options_out_of_range_are_refused(spec: str, message: str):
    with pytest.raises(PassConfigError, match=message):
        parse_spec(spec)


def test_the_scale_of_a_normalisation_decides(tmp_path: Path):
    scale = np.ones(8, np.float32)
    scale[[2, 3]] = 0.001
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "first"),
        helper.make_node("BatchNormalization", ["h", "s", "b", "m", "v"], ["n"], "norm"),
        helper.make_node("Conv", ["n", "u"], ["y"], "second"),
    ]
    weights = {
        "w": normal(8, 3, 1, 1),
        "s": scale,
        "b": normal(8, seed=1),
        "m": normal(8, seed=2),
        "v": np.abs(normal(8, seed=3)) + 1,
        "u": normal(2, 8, 1, 1),
    }
    source = tmp_path / "m.onnx"
    onnx.save(proto(nodes, {"x": [1, 3, 4, 4]}, ["y"], weights), source)
    passes = ["channel:sparsity=0.25,round=2,criterion=bn"]
    output = tmp_path / "a.sparsec"
    artifact = sparsec.compile(source, passes=passes, target="onnx", output=output)
    body = json.loads((artifact.path / artifact.manifest["certificates"][0]["file"]).read_text())
    assert body["tensors"]["s"]["removed"]["0"] == [[2, 2]]
    assert body["never_zero"] == ["v"] or body["never_zero"] == ["m", "v"]
    assert verify_artifact(artifact.path, source)["certificates"]["replayed"] == 1


def test_criterion_bn_without_a_normalisation_is_l2(net: Path, tmp_path: Path):
    shapes = []
    for criterion in ("bn", "l2"):
        spec = f"channel:sparsity=0.5,round=4,criterion={criterion}"
        output = tmp_path / f"{criterion}.sparsec"
        artifact = sparsec.compile(net, passes=[spec], target="onnx", output=output)
        shapes.append(artifact.manifest["after"]["nonzero"])
    assert shapes[0] == shapes[1]
