"""BatchNormalization folded into what is before it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from sparsec.ir.cleanup import fold_batch_norm
from sparsec.ir.load import load_model
from tests.corpus.models import model, node, value


def stored(name: str, array: np.ndarray) -> object:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def build(op: str, weight: tuple[int, ...], channels: int, shape: tuple[int, ...], *,
          bias: tuple[int, ...] | None = None, seed: int = 0, dtype=np.float32, opset: int = 17,
          **attributes):  # fmt: skip
    """Build ``y = BatchNormalization(op(x, w, b))`` with random parameters."""
    rng = np.random.default_rng(seed)

    def random(*size: int) -> np.ndarray:
        return rng.standard_normal(size).astype(dtype)

    inits = [stored("w", random(*weight))]
    inputs = ["x", "w"]
    if bias is not None:
        inits.append(stored("b", random(*bias)))
        inputs.append("b")
    inits += [stored(name, random(channels)) for name in ("gamma", "beta", "mean")]
    inits.append(stored("var", np.abs(random(channels)) + dtype(0.1)))
    nodes = [
        node(op, inputs, ["z"], "layer", **attributes),
        node(
            "BatchNormalization", ["z", "gamma", "beta", "mean", "var"], ["y"], "bn", epsilon=1e-3
        ),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    io = [value("x", shape, kind)], [value("y", None, kind)]
    return model(nodes, inits, *io, opset=opset)


def run(proto, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0]


LAYERS = {
    "conv": ("Conv", (6, 4, 3, 3), 6, (2, 4, 5, 5), {}),
    "conv-bias": ("Conv", (6, 4, 3, 3), 6, (2, 4, 5, 5), {"bias": (6,)}),
    "conv-groups": ("Conv", (6, 2, 3), 6, (2, 4, 5), {"group": 2}),
    "conv-depthwise": ("Conv", (4, 1, 3, 3), 4, (1, 4, 5, 5), {"group": 4, "bias": (4,)}),
    "conv-3d": ("Conv", (2, 3, 1, 2, 2), 2, (1, 3, 2, 3, 3), {}),
    "transposed": ("ConvTranspose", (4, 6, 2, 2), 6, (1, 4, 3, 3), {"bias": (6,)}),
    "transposed-groups": ("ConvTranspose", (4, 3, 2), 6, (1, 4, 3), {"group": 2}),
    "gemm": ("Gemm", (4, 6), 6, (3, 4), {"bias": (6,)}),
    "gemm-transposed": ("Gemm", (6, 4), 6, (3, 4), {"transB": 1, "bias": (1, 6)}),
    "gemm-scaled": ("Gemm", (4, 6), 6, (3, 4), {"alpha": 0.5, "beta": -2.0, "bias": (6,)}),
    "gemm-scalar-bias": ("Gemm", (4, 6), 6, (3, 4), {"beta": 3.0, "bias": ()}),
    "gemm-no-bias": ("Gemm", (4, 6), 6, (3, 4), {"beta": 3.0}),
    "old-opset": ("Conv", (6, 4, 3, 3), 6, (2, 4, 5, 5), {"opset": 9}),
    "double": ("Gemm", (4, 6), 6, (3, 4), {"dtype": np.float64}),
}


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_the_layer_computes_what_both_did(case):
    op, weight, channels, shape, options = case
    proto = build(op, weight, channels, shape, **options)
    loaded = load_model(proto)
    assert fold_batch_norm(loaded) == ["bn"]
    assert [n.op_type for n in loaded.graph] == [op]
    assert loaded.graph.outputs[0].name == "y"
    x = np.random.default_rng(1).standard_normal(shape).astype(options.get("dtype", np.float32))
    np.testing.assert_allclose(run(ir.to_proto(loaded), x), run(proto, x), rtol=2e-5, atol=2e-5)
    assert fold_batch_norm(loaded) == []


def test_a_half_precision_weight_is_rounded_once():
    proto = build("Conv", (64, 4, 1), 64, (1, 4, 8), dtype=np.float16)
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    scale = arrays["gamma"] / np.sqrt(arrays["var"] + np.float64(np.float32(1e-3)))
    loaded = load_model(proto)
    fold_batch_norm(loaded)
    wanted = (arrays["w"] * scale[:, None, None]).astype(np.float16)
    np.testing.assert_array_equal(loaded.graph.initializers["w"].const_value.numpy(), wanted)


def test_names_and_metadata_are_kept():
    loaded = load_model(build("Conv", (6, 4, 1), 6, (1, 4, 5), bias=(6,)))
    loaded.graph.initializers["w"].metadata_props["sparsec.param"] = "{}"
    fold_batch_norm(loaded)
    assert set(loaded.graph.initializers) == {"w", "b"}
    assert loaded.graph.initializers["w"].metadata_props == {"sparsec.param": "{}"}


def test_a_layer_without_bias_takes_over_beta():
    loaded = load_model(build("Conv", (6, 4, 1), 6, (1, 4, 5)))
    fold_batch_norm(loaded)
    assert set(loaded.graph.initializers) == {"w", "beta"}


def test_zeros_stay_zeros():
    proto = build("Conv", (6, 4, 1), 6, (1, 4, 5))
    weight = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weight[::2] = 0
    proto.graph.initializer[0].CopyFrom(stored("w", weight))
    loaded = load_model(proto)
    fold_batch_norm(loaded)
    assert not np.any(loaded.graph.initializers["w"].const_value.numpy()[::2])


def second_reader(proto):
    proto.graph.node.append(node("Relu", ["z"], ["extra"], "reader"))
    proto.graph.output.append(value("extra", None))


def inner_output(proto):
    proto.graph.output.append(value("z", None))


def tied_weight(proto):
    proto.graph.node.append(node("Conv", ["x", "w"], ["other"], "second"))
    proto.graph.output.append(value("other", None))


def computed_weight(proto):
    proto.graph.node.insert(0, node("Relu", ["w"], ["v"], "made"))
    proto.graph.node[1].input[1] = "v"


def computed_variance(proto):
    proto.graph.node.insert(0, node("Abs", ["var"], ["v"], "made"))
    proto.graph.node[2].input[4] = "v"


def training(proto):
    proto.graph.node[1].attribute.append(helper.make_attribute("training_mode", 1))
    proto.graph.node[1].output.extend(["m", "v"])


def negative_variance(proto):
    proto.graph.initializer[-1].CopyFrom(stored("var", np.full(6, -1, np.float32)))


def overflow(proto):
    proto.graph.initializer[1].CopyFrom(stored("gamma", np.full(6, 3e38, np.float32)))


def infinite_mean(proto):
    proto.graph.initializer[3].CopyFrom(stored("mean", np.full(6, np.inf, np.float32)))


def activation_between(proto):
    proto.graph.node.insert(1, node("Relu", ["z"], ["r"], "between"))
    proto.graph.node[2].input[0] = "r"


@pytest.mark.parametrize(
    "change",
    [second_reader, inner_output, tied_weight, computed_weight, computed_variance, training,
     negative_variance, overflow, infinite_mean, activation_between],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_what_is_not_the_layers_own_is_left(change):
    proto = build("Conv", (6, 4, 1), 6, (1, 4, 5))
    change(proto)
    loaded = load_model(proto)
    before = ir.to_proto(loaded).SerializeToString()
    assert fold_batch_norm(loaded) == []
    assert ir.to_proto(loaded).SerializeToString() == before


def test_a_gemm_bias_that_differs_by_row_is_left():
    loaded = load_model(build("Gemm", (4, 6), 6, (3, 4), bias=(3, 6)))
    assert fold_batch_norm(loaded) == []
    loaded = load_model(build("Gemm", (4, 3), 3, (3, 4), bias=(3, 1)))
    assert fold_batch_norm(loaded) == []


def test_parameters_that_two_normalisations_share_are_left_to_the_other():
    proto = build("Conv", (6, 4, 1), 6, (1, 4, 5))
    proto.graph.node.append(
        node(
            "BatchNormalization",
            ["r", "gamma", "beta", "mean", "var"],
            ["t"],
            "other",
            epsilon=1e-3,
        )
    )
    proto.graph.node.append(node("Relu", ["y"], ["r"], "between"))
    proto.graph.output[0].CopyFrom(value("t", None))
    loaded = load_model(proto)
    beta = loaded.graph.initializers["beta"].const_value.numpy().copy()
    assert fold_batch_norm(loaded) == ["bn"]
    np.testing.assert_array_equal(loaded.graph.initializers["beta"].const_value.numpy(), beta)
    x = np.random.default_rng(1).standard_normal((1, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(run(ir.to_proto(loaded), x), run(proto, x), rtol=1e-5, atol=1e-5)
