"""Operators with many attributes, over drawn shapes and attributes, against ONNX Runtime."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

DRAWN = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

OPSETS = st.sampled_from([11, 13, 17, 21, 23])


def values(shape):
    """Return the same numbers for the same shape, spread over [-2, 2]."""
    return np.random.default_rng(math.prod(shape)).uniform(-2, 2, shape).astype(np.float32)


def numbers(draw, low, high, count):
    return [draw(st.integers(low, high)) for _ in range(count)]


@st.composite
def windows(draw, dilated=True):
    """Spatial sizes with a kernel, strides, dilations and pads that leave at least one window."""
    rank = draw(st.integers(1, 3))
    sizes, kernel = numbers(draw, 3, 8, rank), numbers(draw, 1, 3, rank)
    strides = numbers(draw, 1, 3, rank)
    dilations = numbers(draw, 1, 2, rank) if dilated else [1] * rank
    attrs = {"kernel_shape": kernel, "strides": strides}
    if any(d > 1 for d in dilations):
        attrs["dilations"] = dilations
    mode = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if mode == "NOTSET":
        pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
        attrs["pads"] = pads
        room = [s + b + e for s, b, e in zip(sizes, pads[:rank], pads[rank:], strict=True)]
    else:
        attrs["auto_pad"] = mode
        room = sizes if mode == "VALID" else reach
        if mode != "VALID":  # ONNX Runtime takes no dilation here, and no negative pads
            assume("dilations" not in attrs)
            assume(all(r >= t for r, t in zip(reach, strides, strict=True)))
    assume(all(r <= w for r, w in zip(reach, room, strict=True)))
    return sizes, attrs


@DRAWN
@given(window=windows(), group=st.integers(1, 3), opset=OPSETS, bias=st.booleans())
def test_conv(check, window, group, opset, bias):
    sizes, attrs = window
    w = values((2 * group, 2, *attrs["kernel_shape"]))
    operands = [values((2, 2 * group, *sizes)), w] + [values((2 * group,))] * bias
    check("Conv", *operands, opset=opset, group=group, atol=1e-4, **attrs)


@DRAWN
@given(window=windows(), group=st.integers(1, 2), opset=OPSETS)
def test_conv_transpose(check, window, group, opset):
    sizes, attrs = window
    w = values((2 * group, 3, *attrs["kernel_shape"]))
    check(
        "ConvTranspose",
        values((1, 2 * group, *sizes)),
        w,
        opset=opset,
        group=group,
        atol=1e-4,
        **attrs,
    )


@DRAWN
@given(window=windows(dilated=False), ceil=st.booleans(), include=st.booleans(), opset=OPSETS)
def test_average_pool(check, window, ceil, include, opset):
    sizes, attrs = window
    # ONNX Runtime 1.31 mistakes the overhang of ceil_mode for padding before opset 19.
    ceil = ceil and opset >= 19 and "pads" in attrs
    attrs |= {"ceil_mode": int(ceil), "count_include_pad": int(include)}
    check("AveragePool", values((2, 2, *sizes)), opset=opset, atol=1e-5, **attrs)


@DRAWN
@given(window=windows(), ceil=st.booleans(), opset=OPSETS)
def test_max_pool(check, window, ceil, opset):
    sizes, attrs = window
    if "pads" in attrs:
        attrs["ceil_mode"] = int(ceil)
    check("MaxPool", values((2, 2, *sizes)), opset=opset, **attrs)


@DRAWN
@given(data=st.data(), opset=OPSETS)
def test_slice(check, data, opset):
    shape = numbers(data.draw, 1, 5, 3)
    axes = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
    bounds = st.integers(-7, 7) | st.sampled_from([2**63 - 1, -(2**63)])
    starts, ends = ([data.draw(bounds) for _ in axes] for _ in range(2))
    steps = [data.draw(st.sampled_from([1, 2, -1, -2, 3])) for _ in axes]
    # To ONNX Runtime the largest integer is the far end in either direction, which ONNX does not say.
    assume(not any(e == 2**63 - 1 and s < 0 for e, s in zip(ends, steps, strict=True)))
    axes = [a - 3 if data.draw(st.booleans()) else a for a in axes]
    check("Slice", values(shape), *map(np.array, (starts, ends, axes, steps)), opset=opset)


@DRAWN
@given(data=st.data(), mode=st.sampled_from(["constant", "reflect", "edge"]), opset=OPSETS)
def test_pad(check, data, mode, opset):
    shape = numbers(data.draw, 2, 5, 3)
    pads = [data.draw(st.integers(-1 if mode == "constant" else 0, n - 1)) for n in shape * 2]
    check("Pad", values(shape), np.array(pads), np.float32(1.5), opset=opset, mode=mode)


@DRAWN
@given(data=st.data(), op=st.sampled_from(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2"]))
def test_reduction(check, data, op):
    shape = numbers(data.draw, 1, 4, data.draw(st.integers(1, 4)))
    rank = len(shape)
    axes = data.draw(st.lists(st.integers(0, rank - 1), max_size=rank, unique=True))
    axes = [a - rank if data.draw(st.booleans()) else a for a in axes]
    keep = int(data.draw(st.booleans()))
    check(op, values(shape), np.array(axes, np.int64), opset=18, keepdims=keep, atol=1e-5)


@st.composite
def broadcastable(draw):
    shape = numbers(draw, 1, 4, draw(st.integers(0, 4)))
    other = [1 if draw(st.booleans()) else n for n in shape][draw(st.integers(0, len(shape))) :]
    return (shape, other) if draw(st.booleans()) else (other, shape)


@DRAWN
@given(
    shapes=broadcastable(), op=st.sampled_from(["Add", "Sub", "Mul", "Max", "PRelu"]), opset=OPSETS
)
def test_broadcasting(check, shapes, op, opset):
    a, b = shapes
    if op == "PRelu":  # the slope broadcasts one way
        assume(
            len(b) <= len(a) and all(n in (1, m) for n, m in zip(b[::-1], a[::-1], strict=False))
        )
        assume(len(a) > 0)
    check(op, values(a), values(b), opset=opset)


@DRAWN
@given(data=st.data(), opset=OPSETS)
def test_matmul(check, data, opset):
    batch_a, batch_b = data.draw(broadcastable())
    m, k, n = numbers(data.draw, 1, 4, 3)
    a = values((k,) if data.draw(st.booleans()) and not batch_a else (*batch_a, m, k))
    b = values((k,) if data.draw(st.booleans()) and not batch_b else (*batch_b, k, n))
    check("MatMul", a, b, opset=opset, atol=1e-5)


@DRAWN
@given(
    data=st.data(),
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    transform=st.sampled_from(["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]),
    opset=OPSETS,
)
def test_resize_to_sizes(check, data, mode, transform, opset):
    shape = [1, 2, *numbers(data.draw, 2, 7, 2)]
    sizes = np.array([1, 2, *numbers(data.draw, 1, 12, 2)])
    operands = [values(shape), None, None, sizes]
    if opset == 11:
        operands[1:3] = [np.zeros(0, np.float32)] * 2
    attrs = {"coordinate_transformation_mode": transform, "nearest_mode": "round_prefer_ceil"}
    if mode == "nearest" and transform != "asymmetric":
        # A place halfway between two elements is rounded either way by the last bit of a division.
        assume(all(n % s == 0 or s % n == 0 for n, s in zip(sizes.tolist(), shape, strict=True)))
    check("Resize", *operands, opset=opset, mode=mode, atol=1e-4, rtol=1e-4, **attrs)


@DRAWN
@given(data=st.data(), axis=st.integers(-3, 2), opset=OPSETS)
def test_gather(check, data, axis, opset):
    shape = numbers(data.draw, 1, 4, 3)
    rank = data.draw(st.integers(0, 2))
    length = shape[axis]
    indices = np.array(numbers(data.draw, -length, length - 1, 2**rank)).reshape((2,) * rank)
    check("Gather", values(shape), indices, opset=opset, axis=axis)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@DRAWN
@given(data=st.data(), opset=OPSETS)
def test_softmax(check, op, data, opset):
    shape = numbers(data.draw, 1, 4, data.draw(st.integers(1, 4)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    check(op, values(shape), opset=opset, axis=axis)


@DRAWN
@given(data=st.data(), op=st.sampled_from(["LSTM", "GRU"]), backwards=st.booleans())
def test_recurrent(check, data, op, backwards):
    length, batch, width, hidden = numbers(data.draw, 1, 4, 4)
    gates = {"LSTM": 4, "GRU": 3}[op]
    before = {"linear_before_reset": data.draw(st.integers(0, 1))} if op == "GRU" else {}
    operands = [values((length, batch, width)), values((1, gates * hidden, width))]
    operands += [values((1, gates * hidden, hidden)), values((1, 2 * gates * hidden))]
    check(
        op, *operands, opset=14, n_outputs=2, hidden_size=hidden, atol=1e-5,
        direction="reverse" if backwards else "forward", **before,
    )  # fmt: skip
