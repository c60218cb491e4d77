import numpy as np
import pytest


def f32(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def u8(rng, *shape):
    return rng.integers(0, 256, shape).astype(np.uint8)


def i8(rng, *shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def i7(rng, *shape):
    """Weights of 7 bits: without VNNI the runtime adds two products in 16 bits, which saturates beyond."""
    return rng.integers(-64, 64, shape).astype(np.int8)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("opset", [10, 13, 21, 23])
def test_quantize_per_tensor(dtype, opset, check, rng):
    x = f32(rng, 3, 4) * 10
    check("QuantizeLinear", x, np.float32(0.07), dtype(5), opset=opset)
    q = rng.integers(0, 100, (3, 4)).astype(dtype)
    check("DequantizeLinear", q, np.float32(0.07), dtype(5), opset=opset)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_quantize_per_channel(axis, check, rng):
    x = f32(rng, 4, 4, 4) * 10
    scale = rng.uniform(0.05, 0.2, 4).astype(np.float32)
    check("QuantizeLinear", x, scale, i8(rng, 4), opset=13, axis=axis)
    check("DequantizeLinear", i8(rng, 4, 4, 4), scale, i8(rng, 4), opset=13, axis=axis)


def test_quantize_in_blocks(check, rng):
    scale = rng.uniform(0.05, 0.2, (3, 2)).astype(np.float32)
    check("DequantizeLinear", i8(rng, 3, 8), scale, opset=21, axis=1, block_size=4)
    check("QuantizeLinear", f32(rng, 3, 8), scale, i8(rng, 3, 2), opset=21, axis=1, block_size=4)


def test_quantize_to_named_type(check, rng):
    check("QuantizeLinear", f32(rng, 3, 4), np.float32(0.02), opset=21, output_dtype=3)


def test_dequantize_int32(check, rng):
    check(
        "DequantizeLinear",
        rng.integers(-999, 999, (3, 4)).astype(np.int32),
        np.float32(0.1),
        opset=13,
    )


@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_dynamic_quantize(shift, check, rng):
    check("DynamicQuantizeLinear", f32(rng, 4, 5) + np.float32(shift), opset=11, n_outputs=3)


@pytest.mark.parametrize("zeros", ["none", "scalar", "column"])
def test_matmul_integer(zeros, check, rng):
    operands = [u8(rng, 2, 3, 4), i7(rng, 4, 5)]
    if zeros == "scalar":
        operands += [np.uint8(7), np.int8(-3)]
    if zeros == "column":
        operands += [np.uint8(7), i8(rng, 5)]
    check("MatMulInteger", *operands, opset=10)


@pytest.mark.parametrize("zero", [None, 9])
def test_conv_integer(zero, check, rng):
    operands = [u8(rng, 1, 4, 6, 6), u8(rng, 6, 2, 3, 3)]
    operands += [] if zero is None else [np.uint8(zero), np.uint8(4)]
    check("ConvInteger", *operands, opset=10, group=2, pads=(1, 0, 1, 2), strides=(1, 2))


def test_qlinear_matmul(check, rng):
    check(
        "QLinearMatMul", u8(rng, 3, 4), np.float32(0.02), np.uint8(120), i7(rng, 4, 5),
        np.float32(0.03), np.int8(3), np.float32(0.5), np.uint8(128), opset=10,
    )  # fmt: skip


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_qlinear_conv(bias, per_channel, check, rng):
    w_scale = rng.uniform(0.01, 0.03, 6 if per_channel else ()).astype(np.float32)
    w_zero = np.zeros(6 if per_channel else (), np.int8)
    operands = [
        u8(rng, 1, 4, 6, 6), np.float32(0.02), np.uint8(120), i7(rng, 6, 4, 3, 3), w_scale, w_zero,
        np.float32(0.2), np.uint8(128),
    ]  # fmt: skip
    if bias:
        operands.append(rng.integers(-999, 999, 6).astype(np.int32))
    check("QLinearConv", *operands, opset=10, pads=(1, 1, 1, 1))
