"""The networks of the CPU benchmarks, rebuilt from a seed: nothing to download, same bits anywhere.

Random weights, BatchNorm already folded, pruned by magnitude. They are for speed; accuracy is
never claimed on them. Opset 13; one fp32 input ``x``, one output ``y``. The mean of ``|y|`` on
:func:`benchmark_input` is the fingerprint of a rebuild (:data:`FINGERPRINTS`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]
Form: TypeAlias = Literal["unstructured", "2:4", "block4", "block8"]

# How a pruned weight of each form is marked in the file; the axis of the reduction follows.
PATTERNS: dict[Form, str] = {
    "unstructured": "unstructured",
    "2:4": "2:4",
    "block4": "block:4x1",
    "block8": "block:8x1",
}


def benchmark_input(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the input on which models are timed and fingerprinted."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def prune_magnitude(weight: Array, sparsity: float) -> Array:
    """Zero the ``round(sparsity * size)`` smallest weights, and those equal to the largest of them.

    Examples
    --------
    >>> prune_magnitude(np.array([3, -1, 2, -4], dtype=np.float32), 0.5)
    array([ 3.,  0.,  0., -4.], dtype=float32)
    """
    count = round(sparsity * weight.size)
    if count == 0:
        return weight
    size = np.abs(weight)
    threshold = np.partition(size, count - 1, axis=None)[count - 1]
    return np.where(size > threshold, weight, np.float32(0))


def prune_2_4(weight: Array) -> Array:
    """Zero the two smallest of every four weights along the last axis of ``[out, reduction]``.

    Examples
    --------
    >>> prune_2_4(np.array([[3, -1, 2, -4]], dtype=np.float32))
    array([[ 3.,  0.,  0., -4.]], dtype=float32)
    """
    groups = weight.reshape(-1, 4)
    smallest = np.argsort(np.abs(groups), axis=1, kind="stable")[:, :2]
    out = groups.copy()
    np.put_along_axis(out, smallest, 0, axis=1)
    return out.reshape(weight.shape)


def prune_blocks(weight: Array, sparsity: float, rows: int) -> Array:
    """Zero the blocks of ``rows`` outputs by one of ``[out, reduction]`` with the smallest sums.

    Examples
    --------
    >>> prune_blocks(np.array([[3, 1], [-1, 1]], dtype=np.float32), 0.5, 2)
    array([[ 3.,  0.],
           [-1.,  0.]], dtype=float32)
    """
    groups = -(-weight.shape[0] // rows)
    padded = np.zeros((groups * rows, weight.shape[1]), np.float32)
    padded[: weight.shape[0]] = np.abs(weight)
    sums = padded.reshape(groups, rows, -1).sum(axis=1)
    kept = np.repeat(prune_magnitude(sums, sparsity) > 0, rows, axis=0)[: weight.shape[0]]
    return np.where(kept, weight, np.float32(0)) if sparsity else weight


def prune(weight: Array, sparsity: float, form: Form) -> Array:
    """Zero part of a weight ``[out, reduction]``; the sparsity of ``2:4`` is its own."""
    if not sparsity or form == "unstructured":
        return prune_magnitude(weight, sparsity)
    if form == "2:4":
        return prune_2_4(weight)
    return prune_blocks(weight, sparsity, int(form.removeprefix("block")))


def mobilenet_v1(sparsity: float = 0.0, form: Form = "unstructured") -> onnx.ModelProto:
    """MobileNetV1 1.0 at 224 x 224; the 1x1 convolutions are pruned."""
    net = _Net(1, (1, 3, 224, 224), sparsity, form)
    x = net.relu6(net.conv("x", 3, 32, 3, stride=2))
    width = 32
    blocks = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5)
    for out, stride in (*blocks, (1024, 2), (1024, 1)):
        x = net.relu6(net.conv(x, width, width, 3, stride, group=width))
        x = net.relu6(net.conv(x, width, out, 1, pruned=True))
        width = out
    return net.classify(x, width, 0.03)


def mobilenet_v2(sparsity: float = 0.0, form: Form = "unstructured") -> onnx.ModelProto:
    """MobileNetV2 1.0 at 224 x 224; the 1x1 convolutions are pruned."""
    net = _Net(2, (1, 3, 224, 224), sparsity, form)
    x = net.relu6(net.conv("x", 3, 32, 3, stride=2))
    width = 32
    stages = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expansion, out, count, first_stride in stages:
        for number in range(count):
            stride = 1 if number else first_stride
            hidden, h = expansion * width, x
            if expansion != 1:
                h = net.relu6(net.conv(h, width, hidden, 1, pruned=True))
            h = net.relu6(net.conv(h, hidden, hidden, 3, stride, group=hidden))
            h = net.conv(h, hidden, out, 1, pruned=True)
            x = net.op("Add", x, h) if stride == 1 and width == out else h
            width = out
    x = net.relu6(net.conv(x, width, 1280, 1, pruned=True))
    return net.classify(x, 1280, 0.03)


def resnet50(sparsity: float = 0.0, form: Form = "unstructured") -> onnx.ModelProto:
    """ResNet-50 at 224 x 224, stride in the 3x3; every convolution but the stem is pruned.

    The residual stream grows with random weights: compare outputs by relative error only.
    """
    net = _Net(3, (1, 3, 224, 224), sparsity, form)
    x = net.op("Relu", net.conv("x", 3, 64, 7, stride=2))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for c, count, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            stride = 1 if number else first_stride
            h = net.op("Relu", net.conv(x, width, c, 1, pruned=True))
            h = net.op("Relu", net.conv(h, c, c, 3, stride, pruned=True))
            h = net.conv(h, c, 4 * c, 1, pruned=True)
            short = x if number else net.conv(x, width, 4 * c, 1, stride, pruned=True)
            x = net.op("Relu", net.op("Add", h, short))
            width = 4 * c
    return net.classify(x, width, 0.02)


def bert4(sparsity: float = 0.0, form: Form = "unstructured", length: int = 128) -> onnx.ModelProto:
    """Four encoder layers of primitive operators, 768 wide; all six weights a layer are pruned."""
    width, hidden, heads = 768, 3072, 12
    net = _Net(4, (1, length, width), sparsity, form)
    x = "x"
    for _ in range(4):
        q, k, v = (net.linear(x, width, width) for _ in range(3))
        split = net.constant(np.array([1, length, heads, width // heads]))
        q = net.op("Transpose", net.op("Reshape", q, split), perm=[0, 2, 1, 3])
        k = net.op("Transpose", net.op("Reshape", k, split), perm=[0, 2, 3, 1])
        v = net.op("Transpose", net.op("Reshape", v, split), perm=[0, 2, 1, 3])
        scores = net.op("Div", net.op("MatMul", q, k), net.scalar(8))
        mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
        joined = net.constant(np.array([1, length, width]))
        mixed = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        x = net.layer_norm(net.op("Add", x, net.linear(mixed, width, width)), width)
        h = net.linear(x, width, hidden)
        erf = net.op("Erf", net.op("Div", h, net.scalar(1.4142135)))
        h = net.op("Mul", h, net.op("Add", erf, net.scalar(1)))
        h = net.op("Mul", h, net.scalar(0.5))
        x = net.layer_norm(net.op("Add", x, net.linear(h, hidden, width)), width)
    return net.finish((1, length, width))


def matmul(
    rows: int, inputs: int, outputs: int, sparsity: float = 0.0, form: Form = "unstructured"
) -> onnx.ModelProto:
    """One product ``[rows, inputs] x [inputs, outputs]`` with a constant on the right."""
    net = _Net(5, (rows, inputs), sparsity, form)
    net.linear("x", inputs, outputs, bias=False)
    return net.finish((rows, outputs))


BUILDERS: dict[str, Callable[..., onnx.ModelProto]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet50": resnet50,
    "bert4": bert4,
    "matmul": matmul,
}

# By builder, its shape arguments and the sparsity (or 2:4): the mean of |y| to four digits.
FINGERPRINTS: dict[tuple[str, tuple[int, ...]], dict[float | str, float]] = {
    ("mobilenet_v1", ()): {
        0: 0.2371,
        0.5: 0.1607,
        0.7: 0.8038,
        0.8: 1.144,
        0.9: 1.496,
        0.95: 1.654,
    },
    ("mobilenet_v2", ()): {0: 1.964, 0.8: 2.515, 0.9: 2.811, 0.95: 2.744},
    ("resnet50", ()): {0: 568, 0.8: 1.497e6, 0.9: 5.518e8, 0.95: 8.942e10},
    ("bert4", ()): {0: 0.7977, 0.8: 0.7974, 0.9: 0.7974, 0.95: 0.7977, "2:4": 0.7975},
    ("matmul", (1, 4096, 4096)): {
        0: 1.024,
        0.5: 0.9817,
        0.8: 0.835,
        0.9: 0.6717,
        0.95: 0.5291,
        "2:4": 0.9606,
    },
    ("matmul", (1, 4096, 11008)): {0: 1.014, 0.8: 0.8179, 0.9: 0.668, "2:4": 0.9456},
    ("matmul", (128, 768, 768)): {0: 0.4424, 0.9: 0.2921},
    ("matmul", (128, 768, 3072)): {0: 0.4422, 0.8: 0.3562, 0.9: 0.2927},
    ("matmul", (128, 3072, 768)): {0: 0.8834, 0.8: 0.7125, 0.9: 0.5837},
}


class _Net:
    """A graph under construction; weights are drawn in the order of the calls."""

    def __init__(self, seed: int, shape: Sequence[int], sparsity: float, form: Form) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = shape
        self.sparsity = sparsity
        self.form = form
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.marks: list[onnx.ValueInfoProto] = []

    def draw(self, shape: Sequence[int], deviation: float) -> Array:
        return (self.rng.standard_normal(shape) * deviation).astype(np.float32)

    def pruned(self, weight: Array, axis: int) -> str:
        """Store a pruned weight, marked with its pattern; ``axis`` holds the reduction."""
        name = self.constant(weight)
        if self.sparsity:
            mark = helper.make_tensor_value_info(name, TensorProto.FLOAT, weight.shape)
            entry = mark.metadata_props.add()
            entry.key, entry.value = "sparsec.pattern", f"{PATTERNS[self.form]}@{axis}"
            self.marks.append(mark)
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: NDArray[np.generic]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def conv(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        group: int = 1,
        pruned: bool = False,
    ) -> str:
        fan_in = inputs // group * kernel * kernel
        weight = self.draw((outputs, inputs // group, kernel, kernel), (2 / fan_in) ** 0.5)
        bias = self.draw((outputs,), 0.05)
        if pruned and self.sparsity:
            zeroed = prune(weight.reshape(outputs, -1), self.sparsity, self.form)
            # Zeros shrink the activations; without the factor deep layers would compute on nothing.
            weight = zeroed.reshape(weight.shape) * np.float32(0.7 / (1 - self.sparsity) ** 0.5)
        return self.op(
            "Conv",
            x,
            self.pruned(weight, 1) if pruned else self.constant(weight),
            self.constant(bias),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=group,
        )

    def relu6(self, x: str) -> str:
        return self.op("Clip", x, self.scalar(0), self.scalar(6))

    def linear(self, x: str, inputs: int, outputs: int, bias: bool = True) -> str:
        weight = prune(self.draw((outputs, inputs), 0.02), self.sparsity, self.form)
        y = self.op("MatMul", x, self.pruned(np.ascontiguousarray(weight.T), 0))
        return self.op("Add", y, self.constant(self.draw((outputs,), 0.02))) if bias else y

    def layer_norm(self, x: str, width: int) -> str:
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        square = self.op("Pow", centred, self.scalar(2))
        variance = self.op("ReduceMean", square, axes=[-1])
        deviation = self.op("Sqrt", self.op("Add", variance, self.scalar(1e-12)))
        unit = self.op("Div", centred, deviation)
        scaled = self.op("Mul", unit, self.constant(np.ones(width, np.float32)))
        return self.op("Add", scaled, self.constant(np.zeros(width, np.float32)))

    def classify(self, x: str, width: int, deviation: float) -> onnx.ModelProto:
        flat = self.op("Flatten", self.op("GlobalAveragePool", x))
        weight = self.constant(self.draw((1000, width), deviation))
        bias = self.constant(np.zeros(1000, np.float32))
        self.op("Gemm", flat, weight, bias, transB=1)
        return self.finish((1, 1000))

    def finish(self, shape: Sequence[int]) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            self.weights,
            value_info=self.marks,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
