"""Models that are unusual and must be accepted, as they are."""

from __future__ import annotations

import resource
import time

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsec.ir.load import load_model
from sparsec.ir.verify import verify
from tests.corpus.models import good, model, node, saved, tensor, value


def test_an_unknown_operator_of_a_custom_domain():
    loaded = load_model(
        model([node("Odd", ["x"], ["y"], domain="acme", level=3)], domains={"acme": 1})
    )
    (odd,) = loaded.graph
    assert (odd.domain, odd.op_type, odd.attributes["level"].as_int()) == ("acme", "Odd", 3)


def test_an_unknown_operator_of_the_standard_domain_is_left_to_whoever_runs_it():
    loaded = load_model(model([node("Frobnicate", ["x"], ["y"])]))
    assert [n.op_type for n in loaded.graph] == ["Frobnicate"]


def test_domains_that_are_declared_and_never_used():
    loaded = load_model(model([node("Relu", ["x"], ["y"])], domains={"acme": 1, "ai.onnx.ml": 3}))
    assert len(loaded.graph) == 1


def test_weights_that_are_no_numbers():
    bad = np.array([[np.nan, np.inf], [-np.inf, 1]], np.float32)
    loaded = load_model(
        model(
            [node("MatMul", ["x", "w"], ["y"])],
            [numpy_helper.from_array(bad, "w")],
            [value("x", (1, 2))],
            [value("y", (1, 2))],
        )
    )
    np.testing.assert_array_equal(loaded.graph.initializers["w"].const_value.numpy(), bad)


def test_tensors_without_elements():
    loaded = load_model(model([node("Concat", ["x", "e"], ["y"], axis=1)], [tensor("e", 1, 0)]))
    assert loaded.graph.initializers["e"].const_value.numpy().shape == (1, 0)


def test_unknown_ranks_and_dimensions():
    free = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    half = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, "n", 4])
    loaded = load_model(model([node("Relu", ["x"], ["y"])], inputs=[free], outputs=[half]))
    assert loaded.graph.inputs[0].shape is None
    assert [str(d) for d in loaded.graph.outputs[0].shape] == ["None", "n", "4"]


@pytest.mark.parametrize("names", [("", ""), ("same", "same"), ("7", "a b/c:d"), ('{"j": 1}', "ä")])
def test_node_names_of_every_kind(names):
    first, second = names
    nodes = [node("Relu", ["x"], ["a:0"], first), node("Neg", ["a:0"], ["y"], second)]
    loaded = load_model(model(nodes))
    assert [n.op_type for n in loaded.graph] == ["Relu", "Neg"]


def test_constants_become_initializers_wherever_they_are():
    inside = node("Constant", [], ["k"], "k", value=tensor("", 1, 4))
    then = helper.make_graph([inside, node("Add", ["x", "k"], ["p"])], "t", [], [value("p")])
    other = helper.make_graph([node("Relu", ["x"], ["q"])], "e", [], [value("q")])
    nodes = [
        node("Constant", [], ["c"], "c", value_float=2.0),
        node("Mul", ["x", "c"], ["m"]),
        node("If", ["b"], ["i"], then_branch=then, else_branch=other),
        node("Add", ["m", "i"], ["y"]),
    ]
    loaded = load_model(model(nodes, inputs=[value("x"), value("b", (), TensorProto.BOOL)]))
    assert "c" in loaded.graph.initializers
    assert sorted(name for g in loaded.graph.subgraphs() for name in g.initializers) == ["k"]
    assert not [n for n in loaded.graph.all_nodes() if n.op_type == "Constant"]


def test_an_initializer_that_doubles_as_an_input_is_only_an_initializer():
    proto = model(
        [node("Add", ["x", "b"], ["y"])], [tensor("b", 4)], [value("x"), value("b", (4,))]
    )
    loaded = load_model(proto)
    assert [v.name for v in loaded.graph.inputs] == ["x"]


def test_nodes_in_any_order():
    loaded = load_model(
        model([node("Neg", ["a"], ["y"], "last"), node("Relu", ["x"], ["a"], "one")])
    )
    assert [n.name for n in loaded.graph] == ["one", "last"]


def test_functions_are_inlined():
    proto = model([node("Twice", ["x"], ["y"], domain="mine")], domains={"mine": 1})
    body = helper.make_node("Add", ["a", "a"], ["b"])
    proto.functions.append(
        helper.make_function("mine", "Twice", ["a"], ["b"], [body], [helper.make_opsetid("", 17)])
    )
    loaded = load_model(proto)
    assert [n.op_type for n in loaded.graph] == ["Add"]
    assert not loaded.functions


def test_graphs_inside_graphs_inside_graphs():
    depth = 12
    graph = helper.make_graph([node("Relu", ["x"], ["o"], "core")], "g", [], [value("o")])
    for level in range(depth):
        choice = node("If", ["b"], ["o"], f"if{level}", then_branch=graph, else_branch=graph)
        graph = helper.make_graph([choice], "g", [], [value("o")])
        if level > 3:  # two bodies a level would double the size each time
            choice.attribute[1].g.CopyFrom(
                helper.make_graph([node("Neg", ["x"], ["o"])], "e", [], [value("o")])
            )
            graph = helper.make_graph([choice], "g", [], [value("o")])
    nodes = [*graph.node, node("Identity", ["o"], ["y"])]
    loaded = load_model(model(nodes, inputs=[value("x"), value("b", (), TensorProto.BOOL)]))
    assert sum(n.name == "core" for n in loaded.graph.all_nodes()) > 0


def test_a_model_of_3_gb_is_mapped_and_not_read(tmp_path):
    rows, columns, count = 16384, 16384, 3
    inits = []
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(count * rows * columns * 4)  # zeros that take no space on disk
    for index in range(count):
        weight = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[rows, columns])
        weight.data_location = TensorProto.EXTERNAL
        for key, text in (("location", "w.bin"), ("offset", str(index * rows * columns * 4))):
            weight.external_data.add(key=key, value=text)
        inits.append(weight)
    names = ["x", "a", "b", "y"]
    nodes = [node("MatMul", [names[i], f"w{i}"], [names[i + 1]], f"n{i}") for i in range(count)]
    shapes = [value("x", (1, rows))], [value("y", (1, columns))]
    path = saved(model(nodes, inits, *shapes))(tmp_path)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()  # of this process: a machine that pauses does not count
    loaded = load_model(path)
    assert time.process_time() - start < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB
    last = loaded.graph.initializers["w2"].const_value
    assert last.nbytes == rows * columns * 4
    assert last.numpy()[-1, -1] == 0


def test_the_folder_of_a_model_is_remembered(tmp_path, monkeypatch):
    onnx.save(
        good(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    monkeypatch.chdir(tmp_path)
    loaded = load_model("m.onnx")
    monkeypatch.chdir("/")
    assert loaded.graph.initializers["w"].const_value.numpy().shape == (4, 4)


def test_what_comes_out_runs_as_what_went_in():
    proto = model(
        [node("Relu", ["x"], ["a"], "r"), node("MatMul", ["a", "w"], ["y"])], [tensor("w", 4, 4)]
    )
    feed = {"x": np.array([[1, -2, 3, -4]], np.float32)}
    outputs = []
    for candidate in (proto, ir.to_proto(load_model(proto))):
        session = onnxruntime.InferenceSession(candidate.SerializeToString())
        outputs.append(session.run(None, feed)[0])
    np.testing.assert_array_equal(*outputs)


def test_a_canonical_model_passes_the_verifier_again():
    verify(load_model(good()))
