"""Convolutions, depthwise convolutions and pooling against float64, for every instruction set."""

import re

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from sparsec.backends.cpu.library import LANES, LoadedPlan, microkernels
from sparsec.backends.cpu.pack import pack_blocks
from sparsec.backends.cpu.plan import Activation, Dense, Kind, Op, OpCode, Plan, Value
from tests.backends.cpu.layers import NEEDS_LIBRARY, assert_close, sparse_matrix

pytestmark = NEEDS_LIBRARY

DEPTHWISE = re.compile(r"f32_depthwise_(\w+?)_(?:any|k(\d)s(\d))__\w+")

# kernel, stride, pads (top, left, bottom, right), dilation
WINDOWS = [
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((3, 3), (2, 2), (0, 0, 1, 1), (1, 1)),
    ((5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
    ((5, 5), (2, 2), (1, 1, 2, 2), (1, 1)),
    ((1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((7, 7), (2, 2), (3, 3, 3, 3), (1, 1)),
    ((3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    ((1, 3), (1, 3), (0, 1, 0, 1), (1, 1)),
    ((3, 2), (1, 2), (1, 0, 1, 1), (2, 1)),
]


def windows(x, kernel, stride, pads, dilation, fill=0.0):
    """float64 [B, C, H, W] -> [B, C, H', W', kh, kw]."""
    top, left, bottom, right = pads
    padded = np.pad(
        x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill
    )
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = sliding_window_view(padded, reach, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def one_op(code, channels, out, window, tensors=(), **fields):
    kernel, stride, pads, dilation = window
    op = Op(code, (0,), 1, kernel=kernel, stride=stride, pads=pads, dilation=dilation, **fields)
    values = (Value(Kind.IMAGE, channels, 4), Value(Kind.IMAGE, out, 4))
    return Plan((0,), (1,), values, (op,), tensors).to_bytes()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("block", [None, 1, 4])
def test_convolution(isa: str, window, block: int | None) -> None:
    rng = np.random.default_rng(0)
    kernel = window[0]
    for size, depth in (((7, 7), 0), ((14, 15), 16), ((28, 28), 0)):
        matrix = sparse_matrix(rng, 13, 6 * kernel[0] * kernel[1], 0.7, block or 1)
        weight = Dense(matrix) if block is None else pack_blocks(matrix, block)
        bias = rng.standard_normal((1, 13)).astype(np.float32)
        plan = one_op(
            OpCode.CONV, 6, 13, window, (weight, Dense(bias)), weight=0, bias=1,
            activation=Activation.CLIP, low=0.0, high=6.0, depth_hint=depth,
        )  # fmt: skip
        x = rng.standard_normal((2, 6, *size)).astype(np.float32)
        (y,) = LoadedPlan(plan, isa=isa).run(x)
        patches = windows(x, *window)
        w = matrix.reshape(13, 6, *kernel).astype(np.float64)
        want = np.einsum("bchwij,ocij->bohw", patches, w) + bias.reshape(1, -1, 1, 1)
        size_of = np.einsum("bchwij,ocij->bohw", np.abs(patches), np.abs(w))
        assert_close(y, np.clip(want, 0, 6), size_of)


def depthwise_sizes(form: str, lanes: int) -> list[tuple[int, int]]:
    """Heights and widths that a form of depthwise kernel is there for: below, at and beyond a vector."""
    if form == "packed":
        return [(h, w) for h in (1, 2, 5, 7) for w in (1, 3, lanes // 2)]
    widths = (lanes - 1, lanes, lanes + 1, 2 * lanes, 3 * lanes - 2)
    return [(h, 2 * w if form == "direct" else w) for h in (1, 2, 3, 9) for w in widths]


def test_every_depthwise_microkernel(isa: str) -> None:
    """Each row of the table, on images that it is taken for, with and without borders."""
    rows = [match for name in microkernels(isa) if (match := DEPTHWISE.fullmatch(name))]
    assert rows[-1][0].startswith("f32_depthwise_padded_any")
    for match in rows:
        size, stride = (int(n) if n else 3 for n in match.groups()[1:])
        dilation = 1 if match[2] else 2
        for pads in ((size // 2,) * 4, (0, 0, size // 2, size // 2), (0, size // 2, 1, 0)):
            window = ((size,) * 2, (stride,) * 2, pads, (dilation,) * 2)
            for height, width in depthwise_sizes(match[1], LANES[isa]):
                if min(height + pads[0] + pads[2], width + pads[1] + pads[3]) > dilation * size:
                    check_depthwise(isa, window, (height, width))


@pytest.mark.parametrize("window", WINDOWS)
def test_depthwise(isa: str, window) -> None:
    for size in ((7, 7), (14, 17), (33, 12), (56, 56)):
        check_depthwise(isa, window, size)


def check_depthwise(isa: str, window, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    kernel = window[0]
    weight = rng.standard_normal((5, kernel[0] * kernel[1])).astype(np.float32)
    bias = rng.standard_normal((1, 5)).astype(np.float32)
    plan = one_op(OpCode.DEPTHWISE, 5, 5, window, (Dense(weight), Dense(bias)), weight=0, bias=1)
    x = rng.standard_normal((2, 5, *size)).astype(np.float32)
    (y,) = LoadedPlan(plan, isa=isa).run(x)
    patches = windows(x, *window)
    w = weight.reshape(5, *kernel).astype(np.float64)
    want = np.einsum("bchwij,cij->bchw", patches, w) + bias.reshape(1, -1, 1, 1)
    assert_close(y, want, np.einsum("bchwij,cij->bchw", np.abs(patches), np.abs(w)))


@pytest.mark.parametrize("window", WINDOWS)
def test_max_pool(isa: str, window) -> None:
    x = np.random.default_rng(2).standard_normal((2, 3, 13, 16)).astype(np.float32)
    (y,) = LoadedPlan(one_op(OpCode.MAX_POOL, 3, 3, window), isa=isa).run(x)
    want = windows(x, *window, fill=-np.inf).max(axis=(4, 5))
    np.testing.assert_array_equal(y, want.astype(np.float32))


def test_average_and_channel_chain(isa: str) -> None:
    """A window, a product with a residual, an addition and the pool: the layouts in between agree."""
    rng = np.random.default_rng(3)
    first, second = sparse_matrix(rng, 8, 8 * 9, 0.5), sparse_matrix(rng, 8, 8, 0.5)
    window = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
    ops = (
        Op(OpCode.CONV, (0,), 1, Activation.CLIP, weight=0, low=0.0, **window),
        Op(OpCode.LINEAR, (1, 0), 2, weight=1),
        Op(OpCode.ADD, (2, 1), 3, Activation.CLIP, low=0.0),
        Op(OpCode.DEPTHWISE, (3,), 4, weight=2, **window),
        Op(OpCode.GLOBAL_AVERAGE_POOL, (4,), 5),
    )
    depthwise = rng.standard_normal((8, 9)).astype(np.float32)
    tensors = (pack_blocks(first, 1), pack_blocks(second, 1), Dense(depthwise))
    plan = Plan((0,), (3, 5), (Value(Kind.IMAGE, 8, 4),) * 6, ops, tensors).to_bytes()
    same = ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    for size in ((7, 7), (20, 28), (112, 112)):
        x = rng.standard_normal((1, 8, *size)).astype(np.float32)
        a = np.einsum(
            "bchwij,ocij->bohw", windows(x, *same), first.reshape(8, 8, 3, 3).astype(np.float64)
        )
        a = np.maximum(a, 0)
        b = np.einsum("bchw,oc->bohw", a, second.astype(np.float64)) + x
        c = np.maximum(a + b, 0)
        d = np.einsum(
            "bchwij,cij->bchw", windows(c, *same), depthwise.reshape(8, 3, 3).astype(np.float64)
        )
        for threads in (1, 3):
            got_c, got_d = LoadedPlan(plan, isa=isa, threads=threads).run(x)
            assert_close(got_c, c, 100.0)
            assert_close(got_d, d.mean(axis=(2, 3), keepdims=True), 100.0)
