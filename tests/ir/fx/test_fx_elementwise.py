import numpy as np
import pytest

UNARY = {
    # name: (lowest opset that runs, domain of the function)
    "Abs": (6, (-3, 3)), "Acos": (7, (-1, 1)), "Acosh": (9, (1, 4)), "Asin": (7, (-1, 1)),
    "Asinh": (9, (-3, 3)), "Atan": (7, (-3, 3)), "Atanh": (9, (-0.9, 0.9)), "Ceil": (6, (-3, 3)),
    "Cos": (7, (-3, 3)), "Cosh": (9, (-3, 3)), "Erf": (9, (-3, 3)), "Exp": (6, (-3, 3)),
    "Floor": (6, (-3, 3)), "Log": (6, (0.1, 4)), "Neg": (6, (-3, 3)), "Reciprocal": (6, (0.3, 3)),
    "Round": (11, (-3, 3)), "Sign": (9, (-3, 3)), "Sin": (7, (-3, 3)), "Sinh": (9, (-3, 3)),
    "Sqrt": (6, (0, 4)), "Tan": (7, (-1, 1)), "Tanh": (6, (-3, 3)), "Sigmoid": (6, (-5, 5)),
    "Relu": (6, (-3, 3)), "Softplus": (1, (-60, 60)), "Softsign": (1, (-3, 3)),
    "HardSwish": (14, (-5, 5)), "Mish": (18, (-5, 5)), "Identity": (13, (-3, 3)),
}  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
def test_unary(op, check, rng):
    opset, (low, high) = UNARY[op]
    for version in {max(opset, 9), 17, 23}:
        if version >= opset:
            shape = tuple(rng.integers(1, 5, rng.integers(0, 5)))
            check(op, rng.uniform(low, high, shape).astype(np.float32), opset=version)


@pytest.mark.parametrize("op", ["Exp", "Tanh", "Sigmoid", "Sqrt", "Log", "Relu"])
def test_unary_float64(op, check, rng):
    check(op, rng.uniform(0.1, 3, (3, 4)), opset=17, rtol=1e-13, atol=1e-14)


def test_round_takes_halves_to_even(check):
    check("Round", np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32), opset=11)


@pytest.mark.parametrize(
    ("op", "opset", "attrs"),
    [
        ("LeakyRelu", 6, {}), ("LeakyRelu", 16, {"alpha": 0.3}), ("Elu", 6, {"alpha": 0.7}),
        ("Celu", 12, {"alpha": 1.7}), ("Selu", 6, {}), ("Selu", 6, {"alpha": 1.5, "gamma": 0.7}),
        ("Gelu", 20, {}), ("Gelu", 20, {"approximate": "tanh"}), ("HardSigmoid", 6, {}),
        ("HardSigmoid", 6, {"alpha": 0.3, "beta": 0.4}), ("HardSigmoid", 6, {"alpha": 1 / 6}),
        ("ThresholdedRelu", 10, {"alpha": 0.6}),
        ("Shrink", 9, {"lambd": 0.8, "bias": 0.3}), ("Swish", 24, {"alpha": 1.3}),
    ],
)  # fmt: skip
def test_activation(op, opset, attrs, check, rng):
    check(op, rng.uniform(-3, 3, (3, 4, 5)).astype(np.float32), opset=opset, **attrs)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize(
    ("opset", "axis"),
    [(9, a) for a in (None, 0, 1, 2)] + [(o, a) for o in (11, 13, 23) for a in (None, 0, 1, 2, -1)],
)
def test_soft_maxima(op, opset, axis, check, rng):
    attrs = {} if axis is None else {"axis": axis}
    check(op, rng.standard_normal((2, 3, 4)).astype(np.float32), opset=opset, **attrs)


def test_softmax_flattens_before_opset_13(check, rng):
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    check("Softmax", x, opset=12, axis=1)
    check("Softmax", x, opset=13, axis=1)


BROADCAST = [
    ((3, 4), (3, 4)),
    ((2, 3, 4), (4,)),
    ((3, 1), (1, 4)),
    ((), (2, 3)),
    ((2, 1, 3), (5, 1)),
]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum"])
@pytest.mark.parametrize(("a", "b"), BROADCAST)
def test_float_arithmetic(op, a, b, check, rng):
    x = rng.uniform(0.5, 2, a).astype(np.float32)
    y = rng.uniform(0.5, 2, b).astype(np.float32)
    check(op, x, y, opset=int(rng.choice([9, 13, 17])))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mod"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integer_arithmetic(op, dtype, check, rng):
    x = rng.integers(-20, 20, (3, 4)).astype(dtype)
    y = (rng.integers(1, 6, (3, 4)) * rng.choice([-1, 1], (3, 4))).astype(dtype)
    check(op, x, y, opset=13)


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 3])
def test_variadic(op, count, check, rng):
    xs = [rng.standard_normal((2, 3)).astype(np.float32) for _ in range(count)]
    check(op, *xs, opset=13)


def test_fmod(check, rng):
    x, y = (rng.uniform(-5, 5, (4, 5)).astype(np.float32) for _ in range(2))
    check("Mod", x, y, opset=13, fmod=1)


@pytest.mark.parametrize("exponent", [np.float32, np.int64, np.int32])
def test_pow(exponent, check, rng):
    x = rng.uniform(0.5, 2, (3, 4)).astype(np.float32)
    check("Pow", x, rng.integers(-2, 3, (4,)).astype(exponent), opset=13)


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_comparison(op, dtype, check, rng):
    x, y = (rng.integers(0, 3, (3, 4)).astype(dtype) for _ in range(2))
    check(op, x, y, opset=16)


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op, check, rng):
    x, y = (rng.random(s) < 0.5 for s in ((3, 4), (4,)))
    check(op, x, y, opset=9)
    check("Not", x, opset=9)


@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_bitwise(op, check, rng):
    x, y = (rng.integers(0, 255, (3, 4)).astype(np.uint8) for _ in range(2))
    check(op, x, y, opset=18)
    check("BitwiseNot", x, opset=18)


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_bit_shift(direction, check, rng):
    x = rng.integers(0, 255, (3, 4)).astype(np.uint8)
    y = rng.integers(0, 7, (3, 4)).astype(np.uint8)
    check("BitShift", x, y, opset=11, direction=direction)


def test_where(check, rng):
    c = rng.random((3, 1)) < 0.5
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((4,), (2, 1, 1)))
    check("Where", c, a, b, opset=9)


@pytest.mark.parametrize("attrs", [{}, {"detect_negative": 0}, {"detect_positive": 0}])
def test_special_values(attrs, check):
    x = np.array([1, np.inf, -np.inf, np.nan, 0], np.float32)
    check("IsInf", x, opset=10, **attrs)
    check("IsNaN", x, opset=13)


@pytest.mark.parametrize("opset", [6, 9])
def test_clip_by_attributes(opset, check, rng):
    x = rng.standard_normal((3, 4)).astype(np.float32)
    check("Clip", x, opset=opset, min=-0.5, max=0.7)
    check("Clip", x, opset=opset)


@pytest.mark.parametrize("limits", [(-0.5, 0.7), (None, 0.7), (-0.5, None), (0.7, -0.5)])
@pytest.mark.parametrize("opset", [11, 13])
def test_clip(limits, opset, check, rng):
    x = rng.standard_normal((3, 4)).astype(np.float32)
    check("Clip", x, *(None if v is None else np.float32(v) for v in limits), opset=opset)


def test_clip_integers(check, rng):
    x = rng.integers(-9, 9, (3, 4))
    check("Clip", x, np.int64(-2), np.int64(3), opset=12)


@pytest.mark.parametrize("opset", [7, 9, 16])
@pytest.mark.parametrize("slope", [(1,), (3, 1, 1), (2, 3, 4, 5)])
def test_prelu(opset, slope, check, rng):
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    check("PRelu", x, rng.standard_normal(slope).astype(np.float32), opset=opset)


CASTS = {
    1: np.float32,
    11: np.float64,
    10: np.float16,
    7: np.int64,
    6: np.int32,
    2: np.uint8,
    9: bool,
}


@pytest.mark.parametrize("to", CASTS)
@pytest.mark.parametrize("source", [np.float32, np.int64, np.int32, np.uint8, bool])
def test_cast(to, source, check, rng):
    x = (rng.uniform(0, 100, (3, 4)) * (rng.random((3, 4)) < 0.7)).astype(source)
    check("Cast", x, opset=13, to=to)


def test_cast_like(check, rng):
    x = rng.uniform(-5, 5, (3, 4)).astype(np.float32)
    check("CastLike", x, np.zeros(1, np.int32), opset=15)
