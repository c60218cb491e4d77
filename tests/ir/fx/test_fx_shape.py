import numpy as np
import pytest

I64 = np.int64


def f32(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, I64)


@pytest.mark.parametrize("attrs", [{}, {"start": 1}, {"end": -1}, {"start": -2, "end": 3}])
def test_shape_and_size(attrs, check, rng):
    check("Shape", f32(rng, 2, 3, 4), opset=15, **attrs)
    check("Size", f32(rng, 2, 3, 4), opset=13)


@pytest.mark.parametrize(
    ("shape", "attrs"),
    [((6, 4), {}), ((0, -1), {}), ((2, 0, 4), {}), ((-1,), {}), ((1, 2, 3, 4), {"allowzero": 1})],
)
def test_reshape(shape, attrs, check, rng):
    check("Reshape", f32(rng, 2, 3, 4), ints(*shape), opset=14, **attrs)
    if not attrs:
        check("Reshape", f32(rng, 2, 3, 4), ints(*shape), opset=9)


def test_reshape_to_no_elements(check):
    check("Reshape", np.zeros((0, 3), np.float32), ints(3, 0), opset=14, allowzero=1)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_flatten(axis, check, rng):
    check("Flatten", f32(rng, 2, 3, 4), opset=13, axis=axis)


@pytest.mark.parametrize("perm", [None, (1, 0, 2), (2, 0, 1)])
def test_transpose(perm, check, rng):
    check("Transpose", f32(rng, 2, 3, 4), opset=13, **({} if perm is None else {"perm": perm}))


@pytest.mark.parametrize("axes", [None, (0,), (2, -1), (0, 2, 3)])
def test_squeeze(axes, check, rng):
    x = f32(rng, 1, 3, 1, 1)
    operands = [] if axes is None else [ints(*axes)]
    check("Squeeze", x, *operands, opset=13)
    check("Squeeze", x, opset=11, **({} if axes is None else {"axes": axes}))


@pytest.mark.parametrize("axes", [(0,), (2, 0), (-1,), (1, -1, 0)])
def test_unsqueeze(axes, check, rng):
    check("Unsqueeze", f32(rng, 2, 3), ints(*axes), opset=13)
    check("Unsqueeze", f32(rng, 2, 3), opset=11, axes=axes)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis, check, rng):
    shapes = [[2, 3, 4] for _ in range(3)]
    for shape, length in zip(shapes, (1, 5, 2), strict=True):
        shape[axis] = length
    check("Concat", *(f32(rng, *s) for s in shapes), opset=13, axis=axis)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_split(axis, check, rng):
    x = f32(rng, 6, 6, 6)
    check("Split", x, opset=11, n_outputs=3, axis=axis)
    check("Split", x, opset=11, n_outputs=2, axis=axis, split=[1, 5])
    check("Split", x, opset=13, n_outputs=3, axis=axis)
    check("Split", x, ints(4, 2), opset=13, n_outputs=2, axis=axis)
    check("Split", x, opset=18, n_outputs=3, axis=axis, num_outputs=3)


def test_split_into_uneven_pieces(check, rng):
    check("Split", f32(rng, 7, 2), opset=18, n_outputs=3, num_outputs=3)


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 1), (1,), (5, 2, 3, 4)])
def test_expand(shape, check, rng):
    check("Expand", f32(rng, 3, 1), ints(*shape), opset=13) if shape != (2, 3, 4) else None
    check("Expand", f32(rng, 2, 3, 4), ints(*shape), opset=8)


def test_expand_counts_both_ways(check, rng):
    check("Expand", f32(rng, 3, 4), ints(2, 1, 1), opset=13)


def test_tile(check, rng):
    check("Tile", f32(rng, 2, 3), ints(2, 1), opset=13)
    check("Tile", f32(rng, 2, 3), ints(3, 2), opset=9)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("pads", [(0, 1, 2, 0, 2, 1), (1, 0, 0, 0, 3, 0), (0, -1, 1, 0, 0, -1)])
def test_pad(mode, pads, check, rng):
    x = f32(rng, 2, 4, 5)
    check("Pad", x, ints(*pads), opset=11, mode=mode)
    check("Pad", x, ints(*pads), opset=18, mode=mode)
    if min(pads) >= 0:
        check("Pad", x, opset=9, mode=mode, pads=pads)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad_named_axes(mode, check, rng):
    check("Pad", f32(rng, 3, 4, 5), ints(1, 2, 0, 3), None, ints(-1, 1), opset=19, mode=mode)


def test_pad_value_and_integers(check, rng):
    check("Pad", f32(rng, 2, 3), ints(1, 0, 0, 2), np.float32(-1.5), opset=13)
    check("Pad", rng.integers(0, 9, (2, 3)), ints(1, 0, 0, 2), I64(7), opset=13)
    check("Pad", f32(rng, 2, 3), opset=9, pads=(1, 0, 0, 2), value=2.5)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode, check, rng):
    check("DepthToSpace", f32(rng, 2, 12, 3, 2), opset=13, blocksize=2, mode=mode)
    check("SpaceToDepth", f32(rng, 2, 3, 4, 6), opset=13, blocksize=2)


def test_center_crop_pad(check, rng):
    check("CenterCropPad", f32(rng, 5, 8), ints(8, 3), opset=18)
    check("CenterCropPad", f32(rng, 2, 5, 8), ints(2, 9), opset=18, axes=(1, 2))


def test_constant_of_shape(check):
    import onnx.numpy_helper as nh

    check("ConstantOfShape", ints(2, 3), opset=9)
    check("ConstantOfShape", ints(3), opset=9, value=nh.from_array(np.array([7], I64)))
    check("ConstantOfShape", ints(2, 2), opset=9, value=nh.from_array(np.array([2.5], np.float32)))
    check("ConstantOfShape", np.zeros(0, I64), opset=9)


@pytest.mark.parametrize(
    "bounds",
    [
        (I64(2), I64(9), I64(3)),
        (I64(5), I64(-2), I64(-2)),
        (np.int32(0), np.int32(4), np.int32(1)),
        (np.float32(0.5), np.float32(3), np.float32(0.5)),
    ],
)
def test_range(bounds, check):
    check("Range", *bounds, opset=11)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ((1,), (3,), None, None),
        ((0, 1), (2, -1), (2, 0), None),
        ((-3,), (2**63 - 1,), (1,), (2,)),
        ((-1,), (-(2**63),), (1,), (-1,)),
        ((4,), (0,), (1,), (-2,)),
        ((100,), (-100,), (-1,), (-1,)),
        ((3,), (3,), (1,), (1,)),
    ],
)
def test_slice(starts, ends, axes, steps, check, rng):
    x = f32(rng, 4, 6, 5)
    operands = [None if v is None else ints(*v) for v in (axes, steps)]
    check("Slice", x, ints(*starts), ints(*ends), *operands, opset=13)
    if steps is None:
        attrs = {"starts": starts, "ends": ends, **({} if axes is None else {"axes": axes})}
        check("Slice", x, opset=9, **attrs)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_gather(axis, shape, check, rng):
    check("Gather", f32(rng, 4, 5, 6), rng.integers(-4, 4, shape), opset=13, axis=axis)


def test_gather_with_int32(check, rng):
    check("Gather", f32(rng, 4, 5), rng.integers(0, 4, 3).astype(np.int32), opset=9)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements(axis, check, rng):
    check("GatherElements", f32(rng, 4, 4, 4), rng.integers(-4, 4, (2, 3, 4)), opset=13, axis=axis)


@pytest.mark.parametrize(("depth", "batch"), [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1)])
def test_gather_nd(depth, batch, check, rng):
    indices = rng.integers(-3, 3, ((3,) if batch else ()) + (2, depth))
    check("GatherND", f32(rng, 3, 3, 3), indices, opset=13, batch_dims=batch)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_elements(reduction, check, rng):
    x, updates = f32(rng, 4, 5), f32(rng, 2, 5)
    indices = np.stack([rng.permutation(4)[:2] for _ in range(5)], 1) - 4 * (
        rng.random((2, 5)) < 0.5
    )
    attrs = {} if reduction == "none" else {"reduction": reduction}
    check("ScatterElements", x, indices.astype(I64), updates, opset=18, axis=0, **attrs)
    if reduction == "none":
        check("Scatter", x, indices.astype(I64) % 4, updates, opset=9, axis=0)
        check("ScatterElements", x, indices.astype(I64), updates, opset=11, axis=0)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("depth", [1, 2])
def test_scatter_nd(reduction, depth, check, rng):
    x = f32(rng, 4, 5, 2)
    indices = np.array([[0, 1], [3, -1], [2, 2]], I64)[:, :depth]
    attrs = {} if reduction == "none" else {"reduction": reduction}
    check("ScatterND", x, indices, f32(rng, 3, *x.shape[depth:]), opset=18, **attrs)


def test_searching(check, rng):
    x = rng.integers(0, 3, (3, 4)).astype(np.float32)
    check("NonZero", x, opset=13)
    check("Compress", x, rng.random(4) < 0.5, opset=11, axis=1)
    check("Compress", x, np.array([0, 1, 1, 0, 1], bool), opset=11)


@pytest.mark.parametrize("sorted_", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_unique(sorted_, axis, check, rng):
    x = rng.integers(0, 2, (5, 3)).astype(np.float32)
    attrs = {} if axis is None else {"axis": axis}
    check("Unique", x, opset=11, n_outputs=4, sorted=sorted_, **attrs)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis, check, rng):
    indices = rng.integers(-4, 4, (2, 3))
    check("OneHot", indices, I64(4), np.array([0.5, 2], np.float32), opset=11, axis=axis)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -1, 2])
def test_trilu(upper, k, check, rng):
    operands = [] if k is None else [I64(k)]
    check("Trilu", f32(rng, 2, 4, 5), *operands, opset=14, upper=upper)


def test_eye_like(check, rng):
    check("EyeLike", f32(rng, 3, 4), opset=9, k=1)
    check("EyeLike", f32(rng, 3, 4), opset=9, k=-1, dtype=7)


@pytest.mark.parametrize(("batch", "time"), [(0, 1), (1, 0)])
def test_reverse_sequence(batch, time, check, rng):
    x = f32(rng, 4, 4, 2)
    check("ReverseSequence", x, ints(1, 2, 3, 4), opset=10, batch_axis=batch, time_axis=time)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
def test_top_k(largest, axis, check, rng):
    x = rng.integers(0, 6, (5, 6)).astype(np.float32)  # with ties
    check("TopK", x, ints(3), opset=11, n_outputs=2, axis=axis, largest=largest)
    if largest:
        check("TopK", x, ints(2), opset=10, n_outputs=2, axis=axis)
        check("TopK", x, opset=9, n_outputs=2, axis=axis, k=2)


REDUCTIONS = [
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
]  # fmt: skip


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axes", [None, (1,), (0, -1)])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduction(op, axes, keepdims, check, rng):
    x = rng.uniform(0.5, 2, (2, 3, 4)).astype(np.float32)
    by_attribute = {} if axes is None else {"axes": axes}
    check(op, x, opset=11, keepdims=keepdims, **by_attribute)
    operands = [] if axes is None else [ints(*axes)]
    check(op, x, *operands, opset=18, keepdims=keepdims)
    if op == "ReduceSum":
        check(op, x, *operands, opset=13, keepdims=keepdims)


def test_reduction_of_nothing(check, rng):
    x = f32(rng, 2, 3)
    check("ReduceSum", x, np.zeros(0, I64), opset=18, noop_with_empty_axes=1)
    check("ReduceSum", x, np.zeros(0, I64), opset=18, noop_with_empty_axes=0)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean"])
def test_reduction_of_integers(op, check, rng):
    check(op, rng.integers(1, 5, (3, 4)).astype(np.int32), opset=11, axes=[1])


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("axis", "keepdims"), [(0, 1), (-1, 0)])
def test_arg_extremum(op, last, axis, keepdims, check, rng):
    x = rng.integers(0, 3, (4, 5)).astype(np.float32)
    check(op, x, opset=13, axis=axis, keepdims=keepdims, select_last_index=last)
    if not last:
        check(op, x, opset=11, axis=axis, keepdims=keepdims)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumsum(exclusive, reverse, check, rng):
    x = f32(rng, 3, 4)
    check("CumSum", x, np.int64(1), opset=14, exclusive=exclusive, reverse=reverse)
    check("CumSum", x, np.int32(-2), opset=11, exclusive=exclusive, reverse=reverse)
