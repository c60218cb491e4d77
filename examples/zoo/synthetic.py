"""Networks with random weights for measuring speed: nothing to download, no accuracy claimed.

MobileNetV1 and V2, ResNet-50, a BERT-like encoder and single products, built node by node (opset 13)
with BatchNorm already folded. Weights come from a fixed seed and are pruned by magnitude, so that
anyone can rebuild them; :data:`FINGERPRINTS` holds the mean absolute output to check a rebuild by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array: TypeAlias = NDArray[np.float32]
Form: TypeAlias = Literal["unstructured", "block4", "block8", "2:4"]

PATTERNS: dict[str, str] = {
    "unstructured": "unstructured",
    "block4": "block:4x1",
    "block8": "block:8x1",
    "2:4": "2:4",
}

FINGERPRINTS: dict[tuple[str, float], float] = {
    ("mobilenet_v1", 0.0): 0.2371, ("mobilenet_v1", 0.5): 0.1607, ("mobilenet_v1", 0.7): 0.8038,
    ("mobilenet_v1", 0.8): 1.144, ("mobilenet_v1", 0.9): 1.496, ("mobilenet_v1", 0.95): 1.654,
    ("mobilenet_v2", 0.0): 1.964, ("mobilenet_v2", 0.8): 2.515, ("mobilenet_v2", 0.9): 2.811,
    ("mobilenet_v2", 0.95): 2.744, ("resnet50", 0.0): 568, ("resnet50", 0.8): 1.497e6,
    ("resnet50", 0.9): 5.518e8, ("resnet50", 0.95): 8.942e10, ("bert4", 0.0): 0.7977,
    ("bert4", 0.8): 0.7974, ("bert4", 0.9): 0.7974, ("bert4", 0.95): 0.7977,
    ("matmul_1x4096x4096", 0.0): 1.024, ("matmul_1x4096x4096", 0.5): 0.9817,
    ("matmul_1x4096x4096", 0.8): 0.835, ("matmul_1x4096x4096", 0.9): 0.6717,
    ("matmul_1x4096x4096", 0.95): 0.5291, ("matmul_128x768x3072", 0.8): 0.3562,
    ("matmul_128x768x3072", 0.9): 0.2927,
}  # fmt: skip


def prune(weight: Array, sparsity: float, form: Form = "unstructured") -> Array:
    """Zero the smallest of ``weight`` [out, reduction], per tensor; ``2:4`` per group of four."""
    if form == "2:4":
        groups = weight.reshape(-1, 4)
        small = np.argsort(np.abs(groups), axis=1, kind="stable")[:, :2]
        kept = groups.copy()
        np.put_along_axis(kept, small, 0, axis=1)
        return kept.reshape(weight.shape)
    if form == "unstructured":
        scores = np.abs(weight)
    else:
        rows = int(form[-1])
        groups = -(-weight.shape[0] // rows)
        padded = np.zeros((groups * rows, weight.shape[1]), np.float32)
        padded[: weight.shape[0]] = np.abs(weight)
        sums = padded.reshape(groups, rows, -1).sum(axis=1)
        count = round(sparsity * sums.size)
        if count == 0:
            return weight
        limit = np.partition(sums.ravel(), count - 1)[count - 1]
        return np.where(
            np.repeat(sums <= limit, rows, axis=0)[: weight.shape[0]], 0, weight
        ).astype(np.float32)
    count = round(sparsity * weight.size)
    if count == 0:
        return weight
    limit = np.partition(scores.ravel(), count - 1)[count - 1]
    return np.where(scores <= limit, np.float32(0), weight)


class _Net:
    """A graph under construction."""

    def __init__(self, seed: int, sparsity: float, form: Form) -> None:
        self.rng = np.random.default_rng(seed)
        self.sparsity = sparsity
        self.form = form
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.infos: list[onnx.ValueInfoProto] = []

    def constant(self, array: NDArray[np.generic], name: str | None = None) -> str:
        name = name or f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name, **attributes))
        return name

    def weight(self, matrix: Array, shape: tuple[int, ...], axis: int, pruned: bool) -> str:
        """Store a pruned or dense weight, marked with its pattern."""
        name = self.constant(matrix.reshape(shape))
        if pruned and self.sparsity > 0:
            info = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            entry = info.metadata_props.add()
            entry.key, entry.value = "sparsec.pattern", f"{PATTERNS[self.form]}@{axis}"
            self.infos.append(info)
        return name

    def conv(
        self, x: str, cin: int, cout: int, k: int, stride: int, *, group: int = 1, prune_it: bool
    ) -> str:
        fan = cin // group
        w = self.rng.normal(0, math.sqrt(2 / (fan * k * k)), (cout, fan, k, k)).astype(np.float32)
        bias = self.rng.normal(0, 0.05, cout).astype(np.float32)
        if prune_it and self.sparsity > 0:
            flat = prune(w.reshape(cout, -1), self.sparsity, self.form)
            w = (flat * np.float32(0.7 / math.sqrt(1 - self.sparsity))).reshape(w.shape)
        weight = self.weight(w, w.shape, 1, prune_it)
        pads = [k // 2] * 4
        return self.op(
            "Conv",
            x,
            weight,
            self.constant(bias),
            kernel_shape=[k, k],
            strides=[stride, stride],
            pads=pads,
            group=group,
        )

    def relu6(self, x: str) -> str:
        return self.op("Clip", x, self.scalar(0.0), self.scalar(6.0))

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def linear(self, x: str, cin: int, cout: int, *, bias: bool, name: str = "MatMul") -> str:
        w = prune(
            self.rng.normal(0, 0.02, (cout, cin)).astype(np.float32), self.sparsity, self.form
        )
        y = self.op("MatMul", x, self.weight(np.ascontiguousarray(w.T), (cin, cout), 0, True))
        if not bias:
            return y
        return self.op("Add", y, self.constant(self.rng.normal(0, 0.02, cout).astype(np.float32)))

    def classifier(self, x: str, channels: int, deviation: float) -> str:
        flat = self.op("Flatten", self.op("GlobalAveragePool", x))
        w = self.rng.normal(0, deviation, (1000, channels)).astype(np.float32)
        return self.op(
            "Gemm", flat, self.constant(w), self.constant(np.zeros(1000, np.float32)), transB=1
        )

    def model(self, name: str, x: tuple[int, ...], y: tuple[int, ...]) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
            self.weights,
            value_info=self.infos,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def mobilenet_v1(sparsity: float, form: Form = "unstructured") -> onnx.ModelProto:
    """MobileNetV1 1.0; every 1x1 convolution pruned."""
    net = _Net(1, sparsity, form)
    x, width = net.relu6(net.conv("x", 3, 32, 3, 2, prune_it=False)), 32
    blocks = [
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ]
    for out, stride in blocks:
        x = net.relu6(net.conv(x, width, width, 3, stride, group=width, prune_it=False))
        x, width = net.relu6(net.conv(x, width, out, 1, 1, prune_it=True)), out
    net.classifier(x, width, 0.03)
    return net.model("mobilenet_v1", (1, 3, 224, 224), (1, 1000))


def mobilenet_v2(sparsity: float, form: Form = "unstructured") -> onnx.ModelProto:
    """MobileNetV2 1.0; every 1x1 convolution pruned."""
    net = _Net(2, sparsity, form)
    x, width = net.relu6(net.conv("x", 3, 32, 3, 2, prune_it=False)), 32
    table = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    for expand, out, repeat, first in table:
        for i in range(repeat):
            stride, hidden, y = first if i == 0 else 1, width * expand, x
            if expand != 1:
                y = net.relu6(net.conv(y, width, hidden, 1, 1, prune_it=True))
            y = net.relu6(net.conv(y, hidden, hidden, 3, stride, group=hidden, prune_it=False))
            y = net.conv(y, hidden, out, 1, 1, prune_it=True)
            x, width = (net.op("Add", x, y) if stride == 1 and width == out else y), out
    x = net.relu6(net.conv(x, width, 1280, 1, 1, prune_it=True))
    net.classifier(x, 1280, 0.03)
    return net.model("mobilenet_v2", (1, 3, 224, 224), (1, 1000))


def resnet50(sparsity: float, form: Form = "unstructured") -> onnx.ModelProto:
    """ResNet-50 with the stride in the 3x3; every convolution but the stem pruned."""
    net = _Net(3, sparsity, form)
    x = net.op("Relu", net.conv("x", 3, 64, 7, 2, prune_it=False))
    x, width = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 64
    for c, repeat, first in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        for i in range(repeat):
            stride = first if i == 0 else 1
            y = net.op("Relu", net.conv(x, width, c, 1, 1, prune_it=True))
            y = net.op("Relu", net.conv(y, c, c, 3, stride, prune_it=True))
            y = net.conv(y, c, 4 * c, 1, 1, prune_it=True)
            if i == 0:
                x = net.conv(x, width, 4 * c, 1, stride, prune_it=True)
            x, width = net.op("Relu", net.op("Add", y, x)), 4 * c
    net.classifier(x, 2048, 0.02)
    return net.model("resnet50", (1, 3, 224, 224), (1, 1000))


def bert4(
    sparsity: float, form: Form = "unstructured", *, batch: int = 1, tokens: int = 128
) -> onnx.ModelProto:
    """Four post-LN encoder layers of 768 features, 12 heads and 3072 hidden, of primitive operators."""
    net, d, f, heads = _Net(4, sparsity, form), 768, 3072, 12
    split = np.array([batch, tokens, heads, d // heads], np.int64)
    merge = np.array([batch, tokens, d], np.int64)

    def norm(x: str) -> str:
        centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
        variance = net.op("ReduceMean", net.op("Pow", centred, net.scalar(2.0)), axes=[-1])
        root = net.op("Sqrt", net.op("Add", variance, net.scalar(1e-12)))
        scaled = net.op("Mul", net.op("Div", centred, root), net.constant(np.ones(d, np.float32)))
        return net.op("Add", scaled, net.constant(np.zeros(d, np.float32)))

    def by_head(x: str, perm: list[int]) -> str:
        return net.op("Transpose", net.op("Reshape", x, net.constant(split)), perm=perm)

    x = "x"
    for _ in range(4):
        q, k, v = (net.linear(x, d, d, bias=True) for _ in range(3))
        scores = net.op("MatMul", by_head(q, [0, 2, 1, 3]), by_head(k, [0, 2, 3, 1]))
        weights = net.op("Softmax", net.op("Div", scores, net.scalar(8.0)), axis=-1)
        mixed = net.op(
            "Transpose", net.op("MatMul", weights, by_head(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3]
        )
        flat = net.op("Reshape", mixed, net.constant(merge))
        x = norm(net.op("Add", x, net.linear(flat, d, d, bias=True)))
        h = net.linear(x, d, f, bias=True)
        gate = net.op(
            "Add", net.op("Erf", net.op("Div", h, net.scalar(1.4142135))), net.scalar(1.0)
        )
        h = net.op("Mul", net.op("Mul", h, gate), net.scalar(0.5))
        x = norm(net.op("Add", x, net.linear(h, f, d, bias=True)))
    return net.model("bert4", (batch, tokens, d), (batch, tokens, d))


def matmul(
    tokens: int, cin: int, cout: int, sparsity: float, form: Form = "unstructured"
) -> onnx.ModelProto:
    """One product ``[tokens, cin] x [cin, cout]``."""
    net = _Net(5, sparsity, form)
    net.linear("x", cin, cout, bias=False)
    return net.model(f"matmul_{tokens}x{cin}x{cout}", (tokens, cin), (tokens, cout))


NETWORKS: dict[str, Callable[[float, Form], onnx.ModelProto]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet50": resnet50,
    "bert4": bert4,
    "matmul_1x4096x4096": lambda s, form: matmul(1, 4096, 4096, s, form),
    "matmul_1x4096x11008": lambda s, form: matmul(1, 4096, 11008, s, form),
    "matmul_128x768x768": lambda s, form: matmul(128, 768, 768, s, form),
    "matmul_128x768x3072": lambda s, form: matmul(128, 768, 3072, s, form),
    "matmul_128x3072x768": lambda s, form: matmul(128, 3072, 768, s, form),
}


def benchmark_input(model: onnx.ModelProto) -> Array:
    """Return the input that fingerprints and measurements use."""
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(0).standard_normal(dims).astype(np.float32)
