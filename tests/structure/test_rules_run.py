"""Rules on small graphs around an operator: channels are free, and shrunk is masked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from sparsec.ir.edits import emptied, removal_of, remove, zero
from sparsec.ir.groups import Groups, find_groups, prepare
from sparsec.ir.load import load_model
from sparsec.ir.run import OrtRunner
from tests.graphs import normal, proto

node = helper.make_node
INT8 = np.int8


@dataclasses.dataclass
class Case:
    """Nodes that make ``y`` of a picture x [1, 3, 4, 4] (or ``shape``), and their constants.

    ``free`` are the layers some of whose channels must be free.
    """

    name: str
    nodes: list[onnx.NodeProto]
    weights: dict[str, np.ndarray]
    free: tuple[str, ...] = ("first",)
    shape: Sequence[int] = (1, 3, 4, 4)
    opset: int = 20


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def around(
    name: str, *middle: onnx.NodeProto, made: int = 6, after: int = 6, **more: object
) -> Case:
    """Put ``middle``, which makes z of h, between two 1 x 1 convolutions."""
    weights = {"w0": normal(made, 3, 1, 1), "w1": normal(2, after, 1, 1), **more.pop("weights", {})}
    nodes = [
        node("Conv", ["x", "w0"], ["h"], "first"),
        *middle,
        node("Conv", ["z", "w1"], ["y"], "last"),
    ]
    return Case(name, nodes, weights, **more)


def on_rows(
    name: str, *middle: onnx.NodeProto, made: int = 6, after: int = 6, **more: object
) -> Case:
    """Put ``middle`` between two linear layers on a sequence [1, 5, 3]."""
    weights = {"w0": normal(3, made), "w1": normal(after, 2), **more.pop("weights", {})}
    nodes = [
        node("MatMul", ["x", "w0"], ["h"], "first"),
        *middle,
        node("MatMul", ["z", "w1"], ["y"], "last"),
    ]
    return Case(name, nodes, weights, shape=(1, 5, 3), **more)


GRID = np.random.default_rng(0).uniform(-1, 1, (1, 3, 3, 2)).astype(np.float32)
BOXES = np.array([[0, 0, 3, 3], [1, 1, 3, 2]], np.float32)
SCALE = np.float32(0.05)


CASES = [
    around("GridSample", node("GridSample", ["h", "grid"], ["z"]), weights={"grid": GRID}),
    around(
        "RoiAlign",
        node("RoiAlign", ["h", "boxes", "which"], ["z"], output_height=2, output_width=2),
        weights={"boxes": BOXES, "which": ints(0, 0)},
    ),
    around(
        "MaxRoiPool",
        node("MaxRoiPool", ["h", "boxes"], ["z"], pooled_shape=[2, 2]),
        weights={"boxes": np.insert(BOXES, 0, 0, axis=1)},
    ),
    around(
        "MaxUnpool",
        node("MaxPool", ["h"], ["p", "i"], kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxUnpool", ["p", "i"], ["z"], kernel_shape=[2, 2], strides=[2, 2]),
    ),
    around("CumSum on a picture", node("CumSum", ["h", "two"], ["z"]), weights={"two": ints(2)[0]}),
    around("CumSum on channels", node("CumSum", ["h", "one"], ["z"]), weights={"one": ints(1)[0]}),
    around("Trilu", node("Trilu", ["h"], ["z"])),
    around("TopK", node("TopK", ["h", "k"], ["z", "i"], axis=3), weights={"k": ints(2)}),
    around(
        "Compress",
        node("Compress", ["h", "which"], ["z"], axis=2),
        weights={"which": np.array([True, False, True, True])},
    ),
    around(
        "CenterCropPad",
        node("CenterCropPad", ["h", "to"], ["z"], axes=[2, 3]),
        weights={"to": ints(3, 5)},
    ),
    around(
        "ReverseSequence",
        node("Transpose", ["h"], ["t"], perm=[3, 0, 1, 2]),
        node("ReverseSequence", ["t", "lengths"], ["r"], time_axis=0, batch_axis=1),
        node("Transpose", ["r"], ["z"], perm=[1, 2, 3, 0]),
        weights={"lengths": ints(3)},
    ),
    around(
        "GatherElements",
        node("GatherElements", ["h", "which"], ["z"], axis=3),
        weights={"which": np.random.default_rng(0).integers(0, 4, (1, 6, 4, 2))},
    ),
    around(
        "ScatterElements",
        node("ScatterElements", ["h", "which", "new"], ["z"], axis=3),
        weights={
            "which": np.argsort(np.random.default_rng(0).random((1, 6, 4, 4)))[..., :2],
            "new": normal(1, 6, 4, 2),
        },
    ),
    on_rows(
        "GatherND",
        node("GatherND", ["h", "which"], ["z"]),
        weights={"which": ints(0, 3, 0, 1).reshape(2, 2)},
    ),
    on_rows(
        "ScatterND",
        node("ScatterND", ["h", "which", "new"], ["z"]),
        weights={"which": ints(0, 3, 0, 1).reshape(2, 2), "new": normal(2, 6)},
    ),
    Case(
        "ScatterND with constant rows",
        [
            node("Constant", [], ["zero"], value_int=0),
            node("Constant", [], ["six"], value_int=6),
            node("Constant", [], ["one"], value_int=1),
            node("Range", ["zero", "six", "one"], ["every"]),
            node("Slice", ["every", "from", "to"], ["some"]),
            node("Unsqueeze", ["some", "last"], ["rows"]),
            node("ScatterND", ["b", "rows", "two"], ["bias"]),
            node("MatMul", ["x", "w0"], ["m"], "first"),
            node("Add", ["m", "bias"], ["h"]),
            node("Sigmoid", ["h"], ["z"]),
            node("MatMul", ["z", "w1"], ["y"], "last"),
        ],
        {
            "from": ints(2),
            "to": ints(4),
            "last": ints(1),
            "b": normal(6),
            "two": normal(2),
            "w0": normal(3, 6),
            "w1": normal(6, 2),
        },
        shape=(1, 5, 3),
    ),
    on_rows(
        "Einsum with a weight",
        node("Einsum", ["h", "w"], ["z"], "middle", equation="bld,de->ble"),
        weights={"w": normal(6, 4)},
        after=4,
        free=("first", "middle"),
    ),
    Case(
        "Einsum as attention",
        [
            *(node("Einsum", ["x", f"w{s}"], [s], s, equation="bld,dhe->blhe") for s in "qkv"),
            node("Einsum", ["q", "k"], ["s"], equation="bihe,bjhe->bhij"),
            node("Softmax", ["s"], ["a"]),
            node("Einsum", ["a", "v"], ["m"], equation="bhij,bjhe->bihe"),
            node("Einsum", ["m", "wo"], ["y"], equation="bihe,hed->bid"),
        ],
        {**{f"w{s}": normal(3, 2, 4) for s in "qkv"}, "wo": normal(2, 4, 3)},
        free=("q", "v"),
        shape=(1, 5, 3),
    ),
    Case(
        "RotaryEmbedding",
        [
            *(node("MatMul", ["x", f"w{s}"], [s], s) for s in "qkv"),
            *(
                node("RotaryEmbedding", [s, "cos", "sin"], [f"{s}r"], num_heads=2, interleaved=i)
                for i, s in enumerate("qk")
            ),
            node("Attention", ["qr", "kr", "v"], ["m"], q_num_heads=2, kv_num_heads=2),
            node("MatMul", ["m", "wo"], ["y"]),
        ],
        {
            **{f"w{s}": normal(3, 16) for s in "qkv"},
            "wo": normal(16, 2),
            "cos": normal(1, 5, 4),
            "sin": normal(1, 5, 4),
        },
        free=("q", "k", "v"),
        shape=(1, 5, 3),
        opset=23,
    ),
    around(
        "Q and DQ of an activation",
        node("QuantizeLinear", ["h", "s", "zp"], ["q"]),
        node("DequantizeLinear", ["q", "s", "zp"], ["d"]),
        node("ReduceSum", ["d", "one"], ["z"]),
        weights={"s": SCALE, "zp": np.array(128, np.uint8), "one": ints(1)},
        after=1,
    ),
    around(
        "DQ of a weight, by channel",
        node("DequantizeLinear", ["w", "s"], ["wd"], axis=0),
        node("Conv", ["h", "wd"], ["z"], "middle"),
        weights={
            "w": np.random.default_rng(0).integers(-99, 99, (4, 6, 1, 1)).astype(INT8),
            "s": np.random.default_rng(0).uniform(0.01, 0.02, 4).astype(np.float32),
        },
        after=4,
        free=("first", "middle"),
    ),
    around(
        "DQ of a weight with a zero point",
        node("DequantizeLinear", ["w", "s", "zp"], ["wd"]),
        node("Conv", ["h", "wd"], ["c"], "middle"),
        node("Sigmoid", ["c"], ["z"]),
        weights={
            "w": np.random.default_rng(0).integers(0, 255, (4, 6, 1, 1)).astype(np.uint8),
            "s": SCALE,
            "zp": np.array(100, np.uint8),
        },
        after=4,
        free=("first", "middle"),
    ),
    around(
        "ConvInteger",
        node("DynamicQuantizeLinear", ["h"], ["q", "s", "zp"]),
        node("ConvInteger", ["q", "w", "zp", "wz"], ["i"], "middle"),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["z"]),
        weights={
            "w": np.random.default_rng(0).integers(-99, 99, (4, 6, 3, 3)).astype(INT8),
            "wz": np.array(0, INT8),
        },
        after=4,
        free=("first", "middle"),
    ),
    on_rows(
        "MatMulInteger",
        node("DynamicQuantizeLinear", ["h"], ["q", "s", "zp"]),
        node("MatMulInteger", ["q", "w", "zp"], ["i"], "middle"),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["z"]),
        weights={"w": np.random.default_rng(0).integers(-99, 99, (6, 4)).astype(INT8)},
        after=4,
        free=("first", "middle"),
    ),
    around(
        "QLinearConv",
        node("QuantizeLinear", ["h", "s", "zp"], ["q"]),
        node("QLinearConv", ["q", "s", "zp", "w", "ws", "wz", "s2", "zp"], ["i"], "middle"),
        node("DequantizeLinear", ["i", "s2", "zp"], ["z"]),
        weights={
            "w": np.random.default_rng(0).integers(-99, 99, (4, 6, 1, 1)).astype(INT8),
            "ws": np.random.default_rng(0).uniform(0.01, 0.02, 4).astype(np.float32),
            "wz": np.zeros(4, INT8),
            "s": SCALE,
            "s2": np.float32(0.1),
            "zp": np.array(120, np.uint8),
        },
        after=4,
        free=("first", "middle"),
    ),
    on_rows(
        "QLinearMatMul",
        node("QuantizeLinear", ["h", "s", "zp"], ["q"]),
        node("QLinearMatMul", ["q", "s", "zp", "w", "s", "wz", "s2", "zp"], ["i"], "middle"),
        node("DequantizeLinear", ["i", "s2", "zp"], ["z"]),
        weights={
            "w": np.random.default_rng(0).integers(-99, 99, (6, 4)).astype(INT8),
            "wz": np.array(0, INT8),
            "s": SCALE,
            "s2": np.float32(0.1),
            "zp": np.array(120, np.uint8),
        },
        after=4,
        free=("first", "middle"),
    ),
    around(
        "DFT",
        node("Unsqueeze", ["h", "last"], ["u"]),
        node("Constant", [], ["axis"], value_int=2),
        node("DFT", ["u", "", "axis"], ["f"]),
        node("ReduceSum", ["f", "last"], ["z"], keepdims=0),
        weights={"last": ints(4)},
    ),
    around(
        "a shuffle",
        node("Reshape", ["h", "grid"], ["g"]),
        node("Transpose", ["g"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "flat"], ["z"]),
        weights={"grid": ints(1, 2, 3, 4, 4), "flat": ints(1, 6, 4, 4)},
    ),
    on_rows(
        "BitwiseAnd",
        node("Cast", ["h"], ["i"], to=TensorProto.INT32),
        node("BitwiseAnd", ["i", "mask"], ["a"]),
        node("Cast", ["a"], ["z"], to=TensorProto.FLOAT),
        weights={"mask": np.arange(6).astype(np.int32)},
    ),
    on_rows(
        "OneHot",
        node("ArgMax", ["h"], ["a"], axis=1, keepdims=0),
        node("OneHot", ["a", "five", "values"], ["o"], axis=1),
        node("Mul", ["o", "h"], ["z"]),
        weights={"five": ints(5)[0], "values": np.array([0, 1], np.float32)},
    ),
    Case(
        "Col2Im",
        [
            node("Conv", ["x", "w0"], ["h"], "first"),
            node("Reshape", ["h", "rows"], ["r"]),
            node("Col2Im", ["r", "image", "block"], ["z"]),
            node("Conv", ["z", "w1"], ["y"], "last"),
        ],
        {
            "w0": normal(24, 3, 1, 1),
            "rows": ints(1, 24, 16),
            "image": ints(5, 5),
            "block": ints(2, 2),
            "w1": normal(2, 6, 1, 1),
        },
    ),
    on_rows(
        "fused gates of another domain",
        node("BiasGelu", ["h", "b"], ["g"], domain="com.microsoft"),
        node("FastGelu", ["g", "b"], ["f"], domain="com.microsoft"),
        node("QuickGelu", ["f"], ["q"], domain="com.microsoft"),
        node("Gelu", ["q"], ["z"], domain="com.microsoft"),
        weights={"b": normal(6)},
    ),
    around(
        "DeformConv",
        node("Conv", ["x", "wf"], ["offset"]),
        node("DeformConv", ["h", "w", "offset", "b"], ["z"], "middle", kernel_shape=[1, 1]),
        weights={"wf": normal(2, 3, 1, 1), "w": normal(4, 6, 1, 1), "b": normal(4)},
        after=4,
        free=("first", "middle"),
    ),
]


def built(case: Case) -> ir.Model:
    domains = sorted({each.domain for each in case.nodes} - {""})
    made = load_model(
        proto(
            case.nodes,
            {"x": list(case.shape)},
            ["y"],
            case.weights,
            opset=case.opset,
            domains=domains,
        )
    )
    prepare(made)
    return made


def free_units(groups: Groups, name: str) -> np.ndarray:
    """Return the units that can go of what a layer makes."""
    found = [group.units for group in groups if any(m.name == name for m in group.makers)]
    return np.concatenate([np.empty(0, np.int64), *found])


def run(model: ir.Model, case: Case) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal(case.shape).astype(np.float32)
    return OrtRunner(model, optimise=False).run({"x": x})["y"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_channels_around_an_operator_are_free(case: Case):
    for name in case.free:
        model = built(case)
        groups = find_groups(model)
        units = free_units(groups, name)
        assert len(units) > 1, [(g.name, g.reason) for g in groups.frozen]
        rng = np.random.default_rng(0)
        chosen = rng.choice(units, len(units) // 2, replace=False)
        while emptied(groups.lattice, groups.lattice.atoms.gone(chosen)):
            chosen = chosen[:-1]
        assert len(chosen)
        full = run(model, case)
        masked = model.clone()
        zero(masked, removal_of(groups.lattice, chosen))
        expected = run(masked, case)
        remove(groups.lattice, chosen)
        got = run(model, case)
        assert np.abs(full - expected).max() > 1e-3 * np.abs(full).max()  # they did matter
        # Masked as float, a sum has more terms; as integers, not even that.
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
