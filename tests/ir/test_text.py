"""Models as text and back."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsec.ir.errors import ModelImportError
from sparsec.ir.load import load_model
from sparsec.ir.text import from_text, to_text
from tests.corpus.models import good, model, node, tensor, value

HAND = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N,4] x) => (float[N,2] y)
<float[4,2] w = {1, 0, 0, 2, -1, 0, 0, 3}>
{
   [fc] y = MatMul (x, w)
}
# w: sparsec.pattern="2:4@0"
"""


def test_a_model_written_by_hand():
    loaded = from_text(HAND)
    weight = loaded.graph.initializers["w"]
    assert weight.metadata_props == {"sparsec.pattern": "2:4@0"}
    np.testing.assert_array_equal(weight.const_value.numpy(), [[1, 0], [0, 2], [-1, 0], [0, 3]])
    assert [n.name for n in loaded.graph] == ["fc"]


def test_text_of_text_is_the_text():
    text = to_text(from_text(HAND), most_elements=None)
    assert to_text(from_text(text), most_elements=None) == text


def branches() -> onnx.ModelProto:
    then = helper.make_graph([node("Add", ["x", "k"], ["p"], "i")], "t", [], [value("p")],
                             [tensor("k", 1, 4)])  # fmt: skip
    other = helper.make_graph([node("Neg", ["x"], ["q"], "j")], "e", [], [value("q")])
    choice = node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    return model([choice], inputs=[value("x"), value("c", (), TensorProto.BOOL)])


def odd_names() -> onnx.ModelProto:
    proto = model(
        [node("MatMul", ["in:0", "7"], ['{"j": 1}'], "fc/Mat Mul")],
        [tensor("7", 4, 4)],
        [value("in:0")],
        [value('{"j": 1}')],
    )
    note = value("7", (4, 4))
    note.metadata_props.add(key="sparsec.param", value='{"name": "fc.weight", "transform": []}')
    proto.graph.value_info.append(note)
    return proto


def constants(array: np.ndarray) -> onnx.ModelProto:
    return model([node("Identity", ["w"], ["y"])], [numpy_helper.from_array(array, "w")])


CASES = {
    "plain": good(),
    "branches": branches(),
    "odd-names": odd_names(),
    "optional": model([node("Clip", ["x", "", "m"], ["y"])], [tensor("m")]),
    "custom": model([node("Odd", ["x"], ["y"], domain="acme.x", level=3)], domains={"acme.x": 1}),
    "floats": constants(np.random.default_rng(0).standard_normal(50).astype(np.float32)),
    "doubles": constants(np.random.default_rng(0).standard_normal(50)),
    "limits": constants(np.float32([np.inf, -np.inf, -0.0, 1e-45, 3.4e38])),
    "half": constants(np.float16([0.1, 65504, 6e-8])),
    "int8": constants(np.int8([[-128, 127]])),
    "bool": constants(np.array([True, False])),
    "empty": constants(np.zeros((0, 3), np.float32)),
}


@pytest.mark.parametrize("proto", CASES.values(), ids=CASES.keys())
def test_nothing_is_lost_between_model_and_text(proto):
    before = load_model(proto)
    after = from_text(to_text(before, most_elements=None))
    assert [(n.op_type, n.domain, n.name) for n in before.graph.all_nodes()] == [
        (n.op_type, n.domain, n.name) for n in after.graph.all_nodes()
    ]
    assert [v.name for v in before.graph.inputs] == [v.name for v in after.graph.inputs]
    assert [v.name for v in before.graph.outputs] == [v.name for v in after.graph.outputs]
    pairs = zip(
        (before.graph, *before.graph.subgraphs()),
        (after.graph, *after.graph.subgraphs()),
        strict=True,
    )
    for one, other in pairs:
        assert set(one.initializers) == set(other.initializers)
        for name, kept in one.initializers.items():
            got = other.initializers[name]
            assert got.metadata_props == kept.metadata_props
            assert got.const_value.dtype == kept.const_value.dtype
            assert got.const_value.tobytes() == kept.const_value.tobytes()


def test_a_large_tensor_is_abbreviated_and_then_refused():
    text = to_text(load_model(model([node("MatMul", ["x", "w"], ["y"])], [tensor("w", 4, 5)])))
    assert "float[4,5] w" in text
    assert text.endswith("# w: abbreviated\n")
    assert "0.5" not in text
    with pytest.raises(ModelImportError, match=r"'w' was abbreviated.*most_elements=None"):
        from_text(text)


def test_printing_does_not_read_what_it_abbreviates():
    def refuse() -> ir.TensorProtocol:
        raise AssertionError("read")

    loaded = load_model(good())
    shape = ir.Shape([4, 4])
    lazy = ir.LazyTensor(refuse, dtype=ir.DataType.FLOAT, shape=shape, name="w")
    loaded.graph.initializers["w"].const_value = lazy
    assert "float[4,4] w" in to_text(loaded, most_elements=4)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not a model"),
        ("hello", "not a model"),
        (HAND.replace("y = MatMul", "y == MatMul"), "not a model"),
        (HAND.replace("# w:", "# v:"), "'v'"),
        (HAND.replace("2:4@0", "lots"), "lots"),
    ],
)
def test_a_bad_text_is_one_clear_error(text, word):
    with pytest.raises(ModelImportError, match=word):
        from_text(text)
