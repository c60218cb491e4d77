"""Random graphs of what couples channels: convolutions, residuals, splits, shuffles, attention, ...

Sizes are tiny and all of a graph's operators are drawn by one generator, so a case is its seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from sparsec.ir.load import load_model
from tests.graphs import proto

SIZE = 4  # height and width of every picture
LENGTH = 5  # of every sequence


@dataclasses.dataclass
class Net:
    """A graph in the making."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    count: int = 0

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        self.count += 1
        names = [f"v{self.count}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, f"n{self.count}", **attributes))
        return names

    def weight(self, *shape: int, low: float | None = None) -> str:
        name = f"w{len(self.weights)}"
        fan = np.prod(shape[1:]) if len(shape) > 1 else 1
        array = self.rng.standard_normal(shape) / np.sqrt(fan)
        if low is not None:
            array = self.rng.uniform(low, low + 1, shape)
        self.weights[name] = array.astype(np.float32)
        return name

    def ints(self, *values: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.array(values, np.int64)
        return name

    def int(self, value: int) -> str:
        """Return a constant of rank 0."""
        return self.op("Constant", value_int=value)[0]

    def one_of(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def chance(self, probability: float = 0.5) -> bool:
        return bool(self.rng.random() < probability)

    # Layers. A picture is (value, channels), a sequence (value, width).

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, group: int = 1) -> str:
        operands = [x, self.weight(outputs, inputs // group, kernel, kernel)]
        if self.chance():
            operands.append(self.weight(outputs))
        pads = [kernel // 2] * 4
        return self.op("Conv", *operands, pads=pads, group=group)[0]

    def norm(self, x: str, channels: int) -> str:
        parameters = [self.weight(channels) for _ in range(3)]
        return self.op("BatchNormalization", x, *parameters, self.weight(channels, low=0.5))[0]

    def activate(self, x: str) -> str:
        return self.op(str(self.rng.choice(["Relu", "Sigmoid", "HardSwish", "Tanh", "Elu"])), x)[0]

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        y = self.op("MatMul", x, self.weight(inputs, outputs))[0]
        return self.op("Add", y, self.weight(outputs))[0] if self.chance() else y


Picture = tuple[str, int]


def plain(net: Net, x: str, c: int) -> Picture:
    width = net.one_of(4, 6, 8)
    return net.activate(net.conv(x, c, width, net.one_of(1, 3))), width


def normalised(net: Net, x: str, c: int) -> Picture:
    width = net.one_of(4, 6, 8)
    return net.op("Relu", net.norm(net.conv(x, c, width), width))[0], width


def residual(net: Net, x: str, c: int) -> Picture:
    inner = net.one_of(4, 6)
    h = net.conv(net.activate(net.conv(x, c, inner)), inner, c)
    return net.op("Add", x, h)[0], c


def dense_block(net: Net, x: str, c: int) -> Picture:
    grown = net.one_of(2, 4)
    return net.op("Concat", x, net.conv(x, c, grown), axis=1)[0], c + grown


def depthwise(net: Net, x: str, c: int) -> Picture:
    times = net.one_of(1, 2)
    return net.activate(net.conv(x, c, times * c, group=c)), times * c


def grouped(net: Net, x: str, c: int) -> Picture:
    groups = [g for g in (2, 3, 4) if c % g == 0]
    if not groups:
        return plain(net, x, c)
    group = net.one_of(*groups)
    width = group * net.one_of(2, 3)
    return net.activate(net.conv(x, c, width, group=group)), width


def transposed(net: Net, x: str, c: int) -> Picture:
    width, group = net.one_of(4, 6), 2 if c % 2 == 0 and net.chance() else 1
    weight = net.weight(c, width // group, 1, 1)
    return net.op("ConvTranspose", x, weight, net.weight(width), group=group)[0], width


def shuffle(net: Net, x: str, c: int) -> Picture:
    if c % 2:
        return plain(net, x, c)
    y = net.op("Reshape", x, net.ints(0, 2, c // 2, SIZE, SIZE))[0]
    y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])[0]
    return net.op("Reshape", y, net.ints(0, -1 if net.chance() else c, SIZE, SIZE))[0], c


def chunks(net: Net, x: str, c: int) -> Picture:
    """C2f: split, work on one part, concatenate all."""
    first = c // 2
    a, b = net.op("Split", x, net.ints(first, c - first), outputs=2, axis=1)
    h = net.op("Add", b, net.conv(b, c - first, c - first))[0] if net.chance() else b
    return net.op("Concat", a, b, h, axis=1)[0], c + c - first


def sliced(net: Net, x: str, c: int) -> Picture:
    step = net.one_of(1, 2)
    start = net.one_of(0, 1)
    y = net.op("Slice", x, net.ints(start), net.ints(c), net.ints(1), net.ints(step))[0]
    width = len(range(start, c, step))
    return net.conv(y, width, 4, 1), 4


def picked(net: Net, x: str, c: int) -> Picture:
    order = net.rng.permutation(c)[: max(2, c - 1)]
    y = net.op("Gather", x, net.ints(*map(int, order)), axis=1)[0]
    return net.conv(y, len(order), 4, 1), 4


def gate(net: Net, x: str, c: int) -> Picture:
    """Squeeze and excite."""
    pooled = net.op("GlobalAveragePool", x)[0]
    h = net.op("Relu", net.conv(pooled, c, 4, 1))[0]
    return net.op("Mul", x, net.op("HardSigmoid", net.conv(h, 4, c, 1))[0])[0], c


def padded(net: Net, x: str, c: int) -> Picture:
    """A shortcut that pads channels with zeros."""
    y = net.op("Pad", x, net.ints(0, 1, 0, 0, 0, 2, 0, 0))[0]
    return net.op("Add", y, net.conv(x, c, c + 3))[0], c + 3


def blocks_of_pixels(net: Net, x: str, c: int) -> Picture:
    mode = "DCR" if net.chance() else "CRD"
    y = net.op("SpaceToDepth", x, blocksize=2)[0]
    y = net.op("DepthToSpace", y, blocksize=2, mode=mode)[0]
    return (net.op("Add", x, y)[0] if net.chance() else y), c


def channels_last(net: Net, x: str, c: int) -> Picture:
    y = net.op("Transpose", x, perm=[0, 2, 3, 1])[0]
    y = net.activate(net.linear(y, c, 6))
    return net.op("Transpose", y, perm=[0, 3, 1, 2])[0], 6


def slopes(net: Net, x: str, c: int) -> Picture:
    y = net.op("PRelu", x, net.weight(c, 1, 1))[0]
    return net.op("Mul", y, net.weight(1, c, 1, 1))[0], c


def grouped_norm(net: Net, x: str, c: int) -> Picture:
    if c % 2:
        return plain(net, x, c)
    y = net.op("Reshape", x, net.ints(0, 2, -1))[0]
    y = net.op("InstanceNormalization", y, net.weight(2), net.weight(2))[0]
    y = net.op("Reshape", y, net.ints(0, c, SIZE, SIZE))[0]
    return net.op("Add", net.op("Mul", y, net.weight(c, 1, 1))[0], net.weight(c, 1, 1))[0], c


def chain(net: Net, x: str, c: int) -> Picture:
    """Reshapes one after the other: pixels into channels, halves apart, and back."""
    if c % 2:
        return plain(net, x, c)
    y = net.op("Reshape", x, net.ints(0, 2, c // 2, SIZE * SIZE))[0]
    y = net.op("Reshape", y, net.ints(0, 2, -1))[0]
    y = net.op("Reshape", y, net.ints(0, c, SIZE, SIZE))[0]
    if net.chance():
        y = net.op("Transpose", y, perm=[0, 2, 3, 1])[0]
        y = net.op("Reshape", y, net.ints(0, SIZE * SIZE, 2, c // 2))[0]
        y = net.op("Transpose", y, perm=[0, 2, 3, 1])[0]
        y = net.op("Reshape", y, net.ints(0, c, SIZE, SIZE))[0]
    return net.activate(y), c


def windows(net: Net, x: str, c: int) -> Picture:
    """Attention within windows of 2 x 2 pixels, as in Swin."""
    heads, inner, half = 2, 3, SIZE // 2
    y = net.op("Reshape", x, net.ints(0, c, half, 2, half, 2))[0]
    y = net.op("Transpose", y, perm=[0, 2, 4, 3, 5, 1])[0]
    y = net.op("Reshape", y, net.ints(half * half, 4, c))[0]
    qkv = net.linear(y, c, 3 * heads * inner)
    parts = net.op("Reshape", qkv, net.ints(half * half, 4, 3, heads, inner))[0]
    parts = net.op("Transpose", parts, perm=[2, 0, 3, 1, 4])[0]
    q, k, v = (net.op("Gather", parts, net.int(i), axis=0)[0] for i in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])[0])[0]
    bias = net.op("Add", scores, net.weight(1, heads, 4, 4))[0]
    mixed = net.op("MatMul", net.op("Softmax", bias, axis=-1)[0], v)[0]
    mixed = net.op("Transpose", mixed, perm=[0, 2, 1, 3])[0]
    mixed = net.op("Reshape", mixed, net.ints(half * half, 4, heads * inner))[0]
    y = net.op("Reshape", net.linear(mixed, heads * inner, c), net.ints(1, half, half, 2, 2, c))[0]
    y = net.op("Transpose", y, perm=[0, 5, 1, 3, 2, 4])[0]
    return net.op("Add", x, net.op("Reshape", y, net.ints(0, c, SIZE, SIZE))[0])[0], c


def quantised(net: Net, x: str, c: int) -> Picture:
    """A convolution of integers between a quantiser and its inverse."""
    q, scale, zero = net.op("DynamicQuantizeLinear", net.op("Relu", x)[0], outputs=3)
    name = f"w{len(net.weights)}"
    net.weights[name] = net.rng.integers(-99, 99, (6, c, 1, 1)).astype(np.int8)
    y = net.op("ConvInteger", q, name, zero)[0]
    y = net.op("Cast", y, to=onnx.TensorProto.FLOAT)[0]
    return net.op("Mul", net.op("Mul", y, scale)[0], net.weight(6, 1, 1))[0], 6


def unpooled(net: Net, x: str, c: int) -> Picture:
    y, numbers = net.op("MaxPool", x, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("MaxUnpool", net.activate(y), numbers, kernel_shape=[2, 2], strides=[2, 2])[0]
    return net.conv(y, c, 4, 1), 4


PICTURES: tuple[Callable[[Net, str, int], Picture], ...] = (
    plain, normalised, residual, dense_block, depthwise, grouped, transposed, shuffle, chunks, sliced,
    picked, gate, padded, blocks_of_pixels, channels_last, slopes, grouped_norm, chain, windows,
    quantised, unpooled,
)  # fmt: skip


def to_classes(net: Net, x: str, c: int) -> str:
    """End in a classifier, in one of the ways that exporters write."""
    if net.chance(0.4):
        y = net.op("Flatten", x, axis=1)[0]
        return net.op("Gemm", y, net.weight(3, c * SIZE * SIZE), net.weight(3), transB=1)[0]
    if net.chance():
        y = net.op("ReduceMean", x, net.ints(2, 3), keepdims=0)[0]
    else:
        y = net.op("Reshape", net.op("GlobalAveragePool", x)[0], net.ints(0, -1))[0]
    return net.linear(y, c, 3)


def attention(net: Net, x: str, width: int) -> str:
    """Multi-head attention with grouped keys and values, rotary pairs if drawn, decomposed."""
    kv, repeats, inner = net.one_of(2, 3), net.one_of(1, 2), 4
    heads = kv * repeats
    q = split_heads(net, net.linear(x, width, heads * inner), heads, inner)
    k = split_heads(net, net.linear(x, width, kv * inner), kv, inner)
    v = split_heads(net, net.linear(x, width, kv * inner), kv, inner)
    if net.chance():
        cos, sin = net.weight(1, 1, LENGTH, inner), net.weight(1, 1, LENGTH, inner)
        q, k = (rotated(net, part, inner, cos, sin) for part in (q, k))
    if repeats > 1:
        k, v = (repeated(net, part, kv, repeats, inner) for part in (k, v))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])[0])[0]
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1)[0], v)[0]
    mixed = net.op("Transpose", mixed, perm=[0, 2, 1, 3])[0]
    y = net.op("Reshape", mixed, net.ints(0, LENGTH, heads * inner))[0]
    return net.op("Add", x, net.linear(y, heads * inner, width))[0]


def split_heads(net: Net, x: str, heads: int, inner: int) -> str:
    y = net.op("Reshape", x, net.ints(0, LENGTH, heads, inner))[0]
    return net.op("Transpose", y, perm=[0, 2, 1, 3])[0]


def rotated(net: Net, x: str, inner: int, cos: str, sin: str) -> str:
    half = net.ints(inner // 2, inner // 2)
    a, b = net.op("Split", x, half, outputs=2, axis=-1)
    turned = net.op("Concat", net.op("Neg", b)[0], a, axis=-1)[0]
    return net.op("Add", net.op("Mul", x, cos)[0], net.op("Mul", turned, sin)[0])[0]


def repeated(net: Net, x: str, heads: int, times: int, inner: int) -> str:
    y = net.op("Unsqueeze", x, net.ints(2))[0]
    y = net.op("Expand", y, net.ints(1, heads, times, LENGTH, inner))[0]
    return net.op("Reshape", y, net.ints(0, heads * times, LENGTH, inner))[0]


def fused_attention(net: Net, x: str, width: int) -> str:
    kv, inner = 2, 4
    heads = kv * net.one_of(1, 2)
    q, k, v = (net.linear(x, width, n * inner) for n in (heads, kv, kv))
    y = net.op("Attention", q, k, v, q_num_heads=heads, kv_num_heads=kv)[0]
    return net.op("Add", x, net.linear(y, heads * inner, width))[0]


def einsum_attention(net: Net, x: str, width: int) -> str:
    heads, inner = 2, 3
    q, k, v = (
        net.op("Einsum", x, net.weight(width, heads, inner), equation="bld,dhe->blhe")[0]
        for _ in range(3)
    )
    scores = net.op("Einsum", q, k, equation="bihe,bjhe->bhij")[0]
    mixed = net.op("Einsum", net.op("Softmax", scores)[0], v, equation="bhij,bjhe->bihe")[0]
    y = net.op("Einsum", mixed, net.weight(heads, inner, width), equation="bihe,hed->bid")[0]
    return net.op("Add", x, y)[0]


def gated(net: Net, x: str, width: int) -> str:
    a, b = net.linear(x, width, 6), net.linear(x, width, 6)
    y = net.op("Mul", net.op("Sigmoid", a)[0], b)[0]
    return net.op("Add", x, net.linear(y, 6, width))[0]


def feed_forward(net: Net, x: str, width: int) -> str:
    norm = net.op("LayerNormalization", x, net.weight(width), net.weight(width))[0]
    y = (
        net.op("Gelu", net.linear(norm, width, 8))[0]
        if net.chance()
        else net.linear(norm, width, 8)
    )
    return net.op("Add", x, net.linear(y, 8, width))[0]


def recurrent(net: Net, x: str, width: int) -> str:
    kind = str(net.rng.choice(["LSTM", "GRU", "RNN"]))
    gates, both = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], net.one_of(1, 2)
    hidden = 4
    y = net.op("Transpose", x, perm=[1, 0, 2])[0]
    operands = [net.weight(both, gates * hidden, width), net.weight(both, gates * hidden, hidden)]
    operands.append(net.weight(both, 2 * gates * hidden))
    direction = "bidirectional" if both == 2 else "forward"
    y = net.op(kind, y, *operands, hidden_size=hidden, direction=direction)[0]
    y = net.op("Transpose", y, perm=[2, 0, 1, 3])[0]
    y = net.op("Reshape", y, net.ints(0, LENGTH, both * hidden))[0]
    return net.linear(y, both * hidden, width)


SEQUENCES: tuple[Callable[[Net, str, int], str], ...] = (
    attention, fused_attention, einsum_attention, gated, feed_forward, recurrent,
)  # fmt: skip


def random_model(seed: int) -> ir.Model:
    """Return the model of a seed: every third one reads sequences, the others pictures."""
    net = Net(np.random.default_rng(seed))
    if seed % 3 == 0:
        width = net.one_of(4, 6)
        x = net.linear("x", 3, width)
        for _ in range(net.one_of(1, 2, 3)):
            x = SEQUENCES[net.rng.integers(len(SEQUENCES))](net, x, width)
        y = net.linear(x, width, 3)
        shape = [1, LENGTH, 3]
    else:
        x, channels = plain(net, "x", 3)
        for _ in range(net.one_of(2, 3, 4, 5)):
            x, channels = PICTURES[net.rng.integers(len(PICTURES))](net, x, channels)
        y = to_classes(net, x, channels)
        shape = [1, 3, SIZE, SIZE]
    opset = 23 if any(node.op_type == "Attention" for node in net.nodes) else 20
    return load_model(proto(net.nodes, {"x": shape}, [y], net.weights, opset=opset))
