"""Random feeds are ones that the model runs with; if there are none, the way out is told."""

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from sparsec.ir.errors import CalibrationError, UnsupportedOpError
from sparsec.ir.feeds import random_feeds
from sparsec.ir.load import load_model
from tests.graphs import matmul, model, normal, proto, run, tensor

N = helper.make_node
INT64 = TensorProto.INT64


def retyped(nodes, inputs, weights, types):
    built = proto(nodes, inputs, ["y"], weights)
    for value in built.graph.input:
        value.type.tensor_type.elem_type = types.get(value.name, TensorProto.FLOAT)
    return load_model(built)


def only_multiples_of(multiple):
    """A model that runs only if its length is a multiple."""
    shape = tensor("", np.array([-1, multiple], np.int64))
    nodes = [N("Constant", [], ["s"], value=shape), N("Reshape", ["x", "s"], ["y"])]
    return model(nodes, {"x": [1, "length"]}, ["y"])


@pytest.mark.parametrize("multiple", [7, 32, 160, 576, 17280])
def test_a_length_is_found_by_trying(multiple):
    graph = only_multiples_of(multiple)
    found = random_feeds(graph)
    assert found.sizes["length"] % multiple == 0
    assert run(graph, found.feeds[0])["y"].size


def test_a_length_that_the_exporter_wrote_into_the_graph_is_found():
    feeds = random_feeds(only_multiples_of(1009)).feeds
    assert feeds[0]["x"].shape == (1, 1009)
    with pytest.raises(CalibrationError):
        random_feeds(only_multiples_of(8209))


def test_equal_names_get_equal_sizes_and_unnamed_axes_may_differ():
    nodes = [N("Add", ["a", "b"], ["y"])]
    found = random_feeds(model(nodes, {"a": [1, "t"], "b": [1, "t"]}, ["y"]))
    assert found.feeds[0]["a"].shape == found.feeds[0]["b"].shape
    unnamed = random_feeds(model(nodes, {"a": ["?", "?"], "b": ["?", "?"]}, ["y"]))
    assert unnamed.feeds[0]["a"].shape[0] == 1  # the batch, although its sibling has another size


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_is_the_one_asked_for(batch):
    graph = model([N("Relu", ["x"], ["y"])], {"x": ["n", 4]}, ["y"])
    assert random_feeds(graph, batch=batch).feeds[0]["x"].shape == (batch, 4)


def test_token_ids_lie_inside_the_embedding():
    nodes = [N("Unsqueeze", ["ids", "at"], ["u"]), N("Gather", ["w", "u"], ["y"])]
    weights = {"w": normal(5, 3), "at": np.array([2], np.int64)}
    graph = retyped(nodes, {"ids": ["n", "t"]}, weights, {"ids": INT64})
    ids = random_feeds(graph).feeds[0]["ids"]
    assert ids.dtype == np.int64
    assert set(np.unique(ids)) == set(range(5))


def test_ids_of_two_tables_fit_the_smaller():
    nodes = [
        N("Gather", ["u", "ids"], ["a"]),
        N("Gather", ["v", "ids"], ["b"]),
        N("Add", ["a", "b"], ["y"]),
    ]
    weights = {"u": normal(50, 3), "v": normal(4, 3)}
    graph = retyped(nodes, {"ids": ["n", "t"]}, weights, {"ids": INT64})
    assert random_feeds(graph).feeds[0]["ids"].max() < 4


def test_masks_are_ones_and_sample_rates_are_usual():
    nodes = [
        N("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        N("Cast", ["sr"], ["r"], to=TensorProto.FLOAT),
        N("Mul", ["m", "r"], ["y"]),
    ]
    types = {"mask": INT64, "sr": INT64}
    (feed,) = random_feeds(retyped(nodes, {"mask": ["n", "t"], "sr": []}, {}, types)).feeds
    assert feed["mask"].all()
    assert feed["sr"] == 16000


def test_bytes_are_drawn_from_their_whole_range_if_the_model_takes_it():
    graph = retyped([N("Cast", ["b"], ["y"], to=1)], {"b": ["n", 64]}, {}, {"b": TensorProto.INT32})
    assert random_feeds(graph).feeds[0]["b"].max() > 1


def test_the_seed_decides_and_samples_differ():
    graph = only_multiples_of(32)
    first, second = random_feeds(graph, seed=3, samples=2).feeds
    again, _ = random_feeds(graph, seed=3, samples=2).feeds
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], second["x"])
    assert not np.array_equal(first["x"], random_feeds(graph, seed=4).feeds[0]["x"])


def test_a_static_model_of_numbers_is_not_run(monkeypatch):
    from sparsec.ir import feeds as module

    monkeypatch.setattr(module, "OrtRunner", None)
    graph = model([N("Relu", ["x"], ["y"])], {"x": [2, 3]}, ["y"])
    assert random_feeds(graph).feeds[0]["x"].shape == (2, 3)


def test_a_model_without_inputs_has_one_empty_feed():
    graph = model([N("Relu", ["w"], ["y"])], {}, ["y"], {"w": normal(2, 2)})
    assert random_feeds(graph).feeds == ({},)


def test_when_nothing_runs_the_way_out_is_told():
    with pytest.raises(
        CalibrationError, match=r"^m\.onnx: no .* one valid feed with --calib FILE\.npz"
    ):
        random_feeds(only_multiples_of(1_000_003), where="m.onnx")


def test_an_input_without_rank_asks_for_a_feed():
    built = proto([N("Relu", ["x"], ["y"])], {"x": [1]}, ["y"])
    built.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(CalibrationError, match="'x' has no rank"):
        random_feeds(load_model(built))


def test_an_input_without_a_type_is_named():
    graph = retyped([N("Relu", ["x"], ["y"])], {"x": [1]}, {}, {"x": TensorProto.UNDEFINED})
    with pytest.raises(CalibrationError, match="'x' has no element type"):
        random_feeds(graph)


def test_an_operator_that_cannot_be_run_is_named():
    nodes = [N("Twirl", ["x"], ["y"], "t", domain="com.example")]
    graph = model(nodes, {"x": ["n", 4]}, ["y"], domains=["com.example"])
    with pytest.raises(
        UnsupportedOpError, match=r"no kernel for the operator com\.example:Twirl"
    ) as caught:
        random_feeds(graph)
    assert caught.value.exit_code == 4


def test_a_type_that_the_runtime_cannot_multiply_has_a_way_out():
    graph = matmul(np.eye(4, dtype=ml_dtypes.bfloat16), dtype=TensorProto.BFLOAT16)
    with pytest.raises(UnsupportedOpError, match=r"MatMul .* convert it to float32 or float16"):
        random_feeds(graph)


def test_no_image_as_large_as_a_recording_is_long_is_tried():
    shape = tensor("", np.array([-1, 1_000_003], np.int64))
    nodes = [N("Constant", [], ["s"], value=shape), N("Reshape", ["x", "s"], ["y"])]
    graph = model(nodes, {"x": [1, 64, "height", "width"]}, ["y"])
    with pytest.raises(CalibrationError, match="no made-up input runs"):
        random_feeds(graph)  # 64 x 17280 x 17280 numbers are 142 GiB


def test_an_input_that_is_large_whatever_is_tried_is_made_up():
    nodes = [N("ReduceMax", ["x"], ["y"])]
    feeds = random_feeds(model(nodes, {"x": ["batch", 4097, 4097]}, ["y"])).feeds
    assert feeds[0]["x"].shape == (1, 4097, 4097)


def test_a_mask_that_hides_everything_is_turned_around():
    """Torch marks what is padding: ones everywhere would leave a softmax of nothing."""
    hidden = np.array(-np.inf, np.float32)
    nodes = [
        N("Where", ["padding", "hidden", "x"], ["scores"]),
        N("Softmax", ["scores"], ["y"], axis=-1),
    ]
    graph = retyped(
        nodes,
        {"padding": ["n", "t"], "x": ["n", "t"]},
        {"hidden": hidden},
        {"padding": TensorProto.BOOL},
    )
    (feed,) = random_feeds(graph).feeds
    assert not feed["padding"].any()
    assert np.isfinite(run(graph, feed)["y"]).all()


def test_a_model_that_returns_no_number_whatever_it_gets_still_has_feeds():
    graph = model([N("Div", ["zero", "zero"], ["nan"]), N("Mul", ["x", "nan"], ["y"])],
                  {"x": ["n", 4]}, ["y"], {"zero": np.zeros(4, np.float32)})  # fmt: skip
    assert random_feeds(graph).feeds[0]["x"].shape == (1, 4)
