import numpy as np
import pytest


def f32(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


CONVS = [
    # x, w, attributes
    ((2, 4, 9), (6, 4, 3), {}),
    ((2, 4, 9), (6, 4, 3), {"pads": (2, 1), "strides": (2,), "dilations": (2,)}),
    ((1, 4, 8, 7), (6, 4, 3, 2), {"pads": (1, 0, 1, 0)}),
    ((1, 4, 8, 7), (6, 2, 3, 3), {"group": 2, "pads": (0, 1, 2, 1), "strides": (2, 1)}),
    ((1, 4, 8, 7), (8, 1, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ((1, 4, 8, 7), (6, 4, 2, 3), {"auto_pad": "SAME_LOWER", "strides": (1, 2)}),
    ((1, 4, 8, 7), (6, 4, 3, 3), {"auto_pad": "VALID", "dilations": (2, 1)}),
    ((1, 2, 5, 6, 4), (3, 2, 2, 3, 2), {"pads": (1, 0, 0, 0, 1, 1), "strides": (1, 2, 1)}),
]


@pytest.mark.parametrize(("x", "w", "attrs"), CONVS)
@pytest.mark.parametrize("bias", [False, True])
def test_conv(x, w, attrs, bias, check, rng):
    operands = [f32(rng, *x), f32(rng, *w)] + [f32(rng, w[0])] * bias
    check("Conv", *operands, opset=int(rng.choice([9, 11, 22])), atol=1e-5, **attrs)


TRANSPOSED = [
    ((2, 4, 5), (4, 3, 3), {}),
    ((1, 4, 5, 6), (4, 3, 3, 2), {"strides": (2, 3), "pads": (1, 0, 1, 0)}),
    ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": (2, 2), "pads": (0, 1, 1, 0), "dilations": (1, 2)}),
    ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": (2, 2), "output_padding": (1, 1), "group": 2}),
    ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": (2, 2), "output_shape": (10, 13)}),
    ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": (2, 2), "auto_pad": "SAME_UPPER"}),
    ((1, 4, 5, 6), (4, 3, 4, 4), {"strides": (2, 2), "auto_pad": "SAME_LOWER"}),
    ((1, 2, 3, 4, 3), (2, 3, 2, 2, 3), {"strides": (2, 1, 2)}),
]


@pytest.mark.parametrize(("x", "w", "attrs"), TRANSPOSED)
@pytest.mark.parametrize("bias", [False, True])
def test_conv_transpose(x, w, attrs, bias, check, rng):
    operands = [f32(rng, *x), f32(rng, *w)]
    operands += [f32(rng, w[1] * attrs.get("group", 1))] * bias
    check("ConvTranspose", *operands, opset=int(rng.choice([9, 11, 22])), atol=1e-5, **attrs)


POOLS = [
    ((2, 3, 9), {"kernel_shape": (3,)}),
    ((2, 3, 9), {"kernel_shape": (3,), "strides": (2,), "pads": (1, 0), "ceil_mode": 1}),
    ((1, 2, 8, 7), {"kernel_shape": (3, 2), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 2, 8, 7), {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1}),
    ((1, 2, 8, 7), {"kernel_shape": (3, 3), "strides": (3, 2), "pads": (0, 1, 2, 0)}),
    ((1, 2, 8, 7), {"kernel_shape": (3, 3), "auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ((1, 2, 8, 7), {"kernel_shape": (2, 3), "auto_pad": "SAME_LOWER", "strides": (1, 2)}),
    ((1, 2, 8, 7), {"kernel_shape": (2, 2), "auto_pad": "VALID", "strides": (2, 2)}),
    ((1, 2, 5, 6, 7), {"kernel_shape": (2, 3, 2), "strides": (2, 1, 2)}),
]


@pytest.mark.parametrize(("shape", "attrs"), POOLS)
def test_pooling(shape, attrs, check, rng):
    x = f32(rng, *shape)
    check("MaxPool", x, opset=12, **attrs)
    if not attrs.get("ceil_mode"):
        check("MaxPool", x, opset=9, **attrs)
        check("LpPool", x, opset=18, p=2, **attrs)
        check("LpPool", x, opset=11, p=1, **attrs)
    for include in (0, 1):
        check("AveragePool", x, opset=19, count_include_pad=include, **attrs)
        if not attrs.get("ceil_mode"):
            check("AveragePool", x, opset=9, count_include_pad=include, **attrs)


def test_pooling_with_dilations(check, rng):
    x = f32(rng, 1, 2, 9, 9)
    attrs = {"kernel_shape": (3, 2), "dilations": (2, 3), "strides": (2, 1), "pads": (1, 0, 2, 1)}
    check("MaxPool", x, opset=12, **attrs)
    check("AveragePool", x, opset=19, count_include_pad=0, **attrs)


@pytest.mark.parametrize("storage_order", [0, 1])
def test_max_pool_indices(storage_order, check, rng):
    check(
        "MaxPool", f32(rng, 2, 3, 6, 7), opset=12, n_outputs=2, kernel_shape=(3, 2),
        strides=(2, 2), pads=(1, 0, 0, 1), storage_order=storage_order,
    )  # fmt: skip


def test_max_unpool(check, rng):
    x = f32(rng, 1, 2, 2, 2)
    indices = np.array([[[[0, 3], [9, 14]], [[16, 18], [24, 31]]]], np.int64)
    check("MaxUnpool", x, indices, opset=11, kernel_shape=(2, 2), strides=(2, 2))


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 4, 2)])
def test_global_pooling(shape, check, rng):
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        check(op, f32(rng, *shape), opset=9)


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5)])
def test_batch_norm(opset, shape, check, rng):
    scale, bias, mean = (f32(rng, 3) for _ in range(3))
    var = rng.uniform(0.5, 2, 3).astype(np.float32)
    check("BatchNormalization", f32(rng, *shape), scale, bias, mean, var, opset=opset, epsilon=1e-3)


def test_batch_norm_by_batch(check, rng):
    scale, bias, mean = (f32(rng, 3) for _ in range(3))
    var = rng.uniform(0.5, 2, 3).astype(np.float32)
    x = f32(rng, 4, 3, 5)
    check(
        "BatchNormalization", x, scale, bias, mean, var, opset=15, n_outputs=3,
        training_mode=1, momentum=0.7,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (2, 3, 1, 1)])
def test_instance_norm(shape, check, rng):
    check("InstanceNormalization", f32(rng, *shape), f32(rng, 3), f32(rng, 3), opset=9, atol=1e-5)


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm(axis, bias, check, rng):
    x = f32(rng, 2, 3, 4)
    operands = [f32(rng, *x.shape[axis:])] * (1 + bias)
    check("LayerNormalization", x, *operands, opset=17, axis=axis)
    check("LayerNormalization", x, *operands, opset=17, axis=axis, n_outputs=3, epsilon=1e-3)


def test_group_norm(check, rng):
    x = f32(rng, 2, 6, 4, 3)
    check("GroupNormalization", x, f32(rng, 6), f32(rng, 6), opset=21, num_groups=3, atol=1e-5)
    check("GroupNormalization", x, f32(rng, 3), f32(rng, 3), opset=18, num_groups=3, atol=1e-5)


@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_norm(axis, check, rng):
    x = f32(rng, 2, 3, 4)
    check("RMSNormalization", x, f32(rng, *x.shape[axis:]), opset=23, axis=axis, epsilon=1e-4)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(p, check, rng):
    x = f32(rng, 3, 4)
    x[1] = 0
    check("LpNormalization", x, opset=9, p=p, axis=1)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_norm(size, check, rng):
    check("LRN", f32(rng, 2, 6, 3, 4), opset=13, size=size, alpha=0.1, beta=0.6, bias=1.5)


def test_mean_variance_normalization(check, rng):
    check("MeanVarianceNormalization", f32(rng, 2, 3, 4, 5), opset=13, atol=1e-5)
    check("MeanVarianceNormalization", f32(rng, 2, 3, 4), opset=13, axes=[0, 2], atol=1e-5)


@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 1, 3, 4), (5, 4, 2))],
)
def test_matmul(a, b, check, rng):
    check("MatMul", f32(rng, *a), f32(rng, *b), opset=int(rng.choice([9, 13])))


@pytest.mark.parametrize("c", [None, (), (5,), (3, 1), (3, 5)])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm(c, trans_a, trans_b, check, rng):
    a = f32(rng, *((4, 3) if trans_a else (3, 4)))
    b = f32(rng, *((5, 4) if trans_b else (4, 5)))
    operands = [a, b] if c is None else [a, b, f32(rng, *c)]
    check("Gemm", *operands, opset=11, transA=trans_a, transB=trans_b)
    check("Gemm", *operands, opset=13, transA=trans_a, transB=trans_b, alpha=0.5, beta=2.0)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("b h i d, b h j d -> b h i j", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("...ij->...ji", [(2, 3, 4)]),
        ("i,i", [(3,), (3,)]),
    ],
)
def test_einsum(equation, shapes, check, rng):
    check("Einsum", *(f32(rng, *s) for s in shapes), opset=12, equation=equation, atol=1e-5)


def test_det(check, rng):
    check("Det", f32(rng, 2, 3, 3), opset=11, atol=1e-5)


@pytest.mark.parametrize("opset", [9, 12, 13])
def test_dropout_does_nothing(opset, check, rng):
    check("Dropout", f32(rng, 3, 4), opset=opset)
    check("Dropout", f32(rng, 3, 4), opset=opset, n_outputs=2) if opset > 9 else None


@pytest.mark.parametrize(
    ("op", "shapes", "attrs"),
    [
        ("MatMul", [(2, 3, 4), (4, 5)], {}),
        ("Gemm", [(3, 4), (4, 5), (5,)], {"alpha": 0.5}),
        ("Softmax", [(3, 4)], {}),
        ("LayerNormalization", [(3, 4), (4,), (4,)], {}),
        ("BatchNormalization", [(2, 3, 4), (3,), (3,), (3,), (3,)], {}),
        ("ReduceMean", [(3, 4)], {"axes": [1]}),
        ("Einsum", [(2, 3), (3, 4)], {"equation": "ij,jk->ik"}),
        ("Pad", [(2, 3)], None),
        ("Where", [(2, 3), (2, 3)], None),
    ],
)
def test_float64_against_float64(op, shapes, attrs, check, rng):
    operands = [rng.uniform(0.5, 2, s) for s in shapes]
    if op == "Pad":
        operands.append(np.array([1, 0, 0, 2]))
    if op == "Where":
        operands.insert(0, operands[0] < 1)
    check(op, *operands, opset=17, rtol=1e-10, atol=1e-10, **(attrs or {}))
