"""One broken graph per check, with the message that names it."""

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from sparsec.ir.errors import ModelImportError, VerifyError
from sparsec.ir.load import load_model
from sparsec.ir.verify import CHECKS, verify
from tests.graphs import model, normal, proto

N = helper.make_node
INFO = helper.make_tensor_value_info


def sound() -> ir.Model:
    nodes = [N("MatMul", ["x", "w"], ["a"], "first"), N("Relu", ["a"], ["y"], "second")]
    return model(nodes, {"x": ["n", 4]}, ["y"], {"w": normal(4, 4)})


def no_outputs(graph):
    graph.graph.outputs.clear()


def old_opset(graph):
    graph.opset_imports[""] = 3


def no_opset(graph):
    del graph.opset_imports[""]


def unimported_domain(graph):
    graph.graph.node("second").domain = "com.example"


def dangling_input(graph):
    graph.graph.node("second").replace_input_with(0, ir.Value(name="nowhere"))


def missing_operand(graph):
    graph.graph.node("first").resize_inputs(1)


def empty_operand(graph):
    graph.graph.node("first").replace_input_with(0, None)


def unregistered_initializer(graph):
    del graph.graph.initializers["w"]


def removed_producer(graph):
    graph.graph.remove(graph.graph.node("first"))


def dangling_output(graph):
    graph.graph.outputs.append(ir.Value(name="nowhere"))


def wrong_order(graph):
    first = graph.graph.node("first")
    graph.graph.remove(first)
    graph.graph.append(first)


def cycle(graph):
    first, second = graph.graph.node("first"), graph.graph.node("second")
    first.replace_input_with(0, second.outputs[0])


def two_values_of_one_name(graph):
    graph.graph.node("first").outputs[0].name = "x"


def initializer_without_value(graph):
    graph.graph.initializers["w"].const_value = None


def unreadable_pattern(graph):
    graph.graph.initializers["w"].metadata_props["sparsec.pattern"] = "4:2@0"


def name_of_bytes(graph):
    next(iter(graph.graph)).name = b"\xff"


BROKEN = [
    ("has-outputs", no_outputs, "the graph has no outputs"),
    ("opset", old_opset, "opset 3 is not supported: needed 7 to"),
    ("opset", no_opset, "no opset of the standard domain"),
    ("domains-imported", unimported_domain, "Relu 'second' uses the domain 'com.example'"),
    ("operands-given", missing_operand, "MatMul 'first' lacks its input B"),
    ("operands-given", empty_operand, "MatMul 'first' lacks its input A"),
    ("inputs-produced", dangling_input, "Relu 'second' reads 'nowhere', which nothing produces"),
    ("inputs-produced", unregistered_initializer, "MatMul 'first' reads 'w'"),
    ("inputs-produced", removed_producer, "Relu 'second' reads 'a'"),
    ("inputs-produced", dangling_output, "the graph output 'nowhere'"),
    ("topological-order", wrong_order, "Relu 'second' reads 'a' before it is produced"),
    ("acyclic", cycle, "a cycle: "),
    ("names-are-text", name_of_bytes, "is not UTF-8"),
    ("unique-names", two_values_of_one_name, "two values are called 'x'"),
    ("initializers-valued", initializer_without_value, "the initializer 'w' has no value"),
    ("patterns-readable", unreadable_pattern, "the initializer 'w': N:M needs 0 < n < m"),
]


def test_a_sound_graph_passes():
    verify(sound())


def test_an_operator_that_nobody_knows_is_no_violation():
    graph = sound()
    graph.graph.node("second").op_type = "Rleu"
    verify(graph)


@pytest.mark.parametrize(("check", "damage", "message"), BROKEN)
def test_what_is_broken_is_named(check, damage, message):
    graph = sound()
    damage(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph, where="here")
    assert str(caught.value).startswith("here: ")
    assert message in str(caught.value)
    assert f"[{check}]" in str(caught.value)
    assert caught.value.where == "here"


def test_every_check_has_a_broken_graph():
    assert {check for check, _, _ in BROKEN} == set(CHECKS)


def test_all_violations_are_reported_at_once():
    graph = sound()
    unimported_domain(graph)
    unreadable_pattern(graph)
    with pytest.raises(VerifyError, match=r"domains-imported.*patterns-readable"):
        verify(graph)


def test_many_violations_are_counted_not_listed():
    graph = sound()
    for index in range(30):
        value = ir.Value(name=f"u{index}", const_value=ir.tensor(normal(1), name=f"u{index}"))
        value.metadata_props["sparsec.pattern"] = "?"
        graph.graph.register_initializer(value)
    with pytest.raises(VerifyError, match="and 10 more"):
        verify(graph)


def captured(order):
    """``If`` whose bodies read ``a`` of the main graph."""
    body = helper.make_graph([N("Relu", ["a"], ["b"], "inner")], "body", [], [INFO("b", 1, None)])
    other = helper.make_graph(
        [N("Neg", ["a"], ["b2"], "other")], "body2", [], [INFO("b2", 1, None)]
    )
    nodes = {
        "abs": N("Abs", ["x"], ["a"], "abs"),
        "if": N("If", ["c"], ["y"], "if", then_branch=body, else_branch=other),
    }
    built = proto([nodes[name] for name in order], {"x": ["n"]}, ["y"])
    built.graph.input.append(INFO("c", TensorProto.BOOL, []))
    return built


def test_bodies_may_read_what_was_produced_before():
    verify(ir.from_proto(captured(["abs", "if"])))


def test_bodies_may_not_read_what_is_produced_later():
    with pytest.raises(VerifyError, match="If 'if' reads 'a' before it is produced"):
        verify(ir.from_proto(captured(["if", "abs"])))


def test_one_body_may_not_read_from_another():
    graph = ir.from_proto(captured(["abs", "if"]))
    bodies = list(graph.graph.subgraphs())
    inner = next(node for body in bodies for node in body if node.name == "inner")
    other = next(node for body in bodies for node in body if node.name == "other")
    other.replace_input_with(0, inner.outputs[0])
    with pytest.raises(VerifyError, match="Neg 'other' reads 'b'"):
        verify(graph)


def test_a_graph_in_memory_that_cannot_be_cloned_is_named():
    with pytest.raises(ModelImportError, match="If 'if' reads 'a' before it is produced"):
        load_model(ir.from_proto(captured(["if", "abs"])))


def test_loading_restores_the_order():
    verify(load_model(captured(["if", "abs"])))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: m.graph.node[1].input.__setitem__(0, "nowhere"), "nowhere"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "y"), "cycle"),
        (lambda m: m.graph.ClearField("output"), "no outputs"),
    ],
)
def test_a_broken_model_is_an_import_error(damage, message):
    nodes = [N("MatMul", ["x", "w"], ["a"], "first"), N("Relu", ["a"], ["y"], "second")]
    built = proto(nodes, {"x": ["n", 4]}, ["y"], {"w": normal(4, 4)})
    damage(built)
    with pytest.raises(ModelImportError, match=message):
        load_model(built)


@pytest.fixture
def external(tmp_path):
    path = tmp_path / "m.onnx"
    built = proto([N("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, ["y"], {"w": normal(64, 64)})
    onnx.save(built, path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def test_external_data_is_mapped(external):
    tensor = load_model(external).graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert (tensor.numpy() == normal(64, 64)).all()


def test_missing_external_data_is_named(external):
    external.with_name("m.data").unlink()
    with pytest.raises(ModelImportError, match=r"the data file 'm\.data', which is missing"):
        load_model(external)


def test_truncated_external_data_is_named(external):
    data = external.with_name("m.data")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(
        ModelImportError, match=r"'w' needs 16384 bytes, .* 'm\.data', which has 100"
    ):
        load_model(external)


@pytest.mark.parametrize("location", ["../m.data", "/etc/passwd", "a/../../m.data"])
def test_external_data_outside_the_folder_is_refused(external, location):
    built = onnx.load(external, load_external_data=False)
    for entry in built.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    external.write_bytes(built.SerializeToString())
    with pytest.raises(ModelImportError, match="outside the model's folder"):
        load_model(external)
