import numpy as np
import pytest


def f32(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


TRANSFORMS = [
    "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric",
]  # fmt: skip


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("target", [(2.0, 3.0), (0.6, 0.7), (1.3, 2.6), "sizes", "one"])
def test_resize(transform, mode, target, check, rng):
    x = f32(rng, 1, 2, 5, 6)
    opset = 19 if transform == "half_pixel_symmetric" else int(rng.choice([11, 13, 18]))
    attrs = {"mode": mode, "coordinate_transformation_mode": transform}
    sizes = {"sizes": (1, 2, 7, 4), "one": (1, 2, 1, 9)}.get(target)
    if sizes is not None:
        operands = [None, None, np.array(sizes, np.int64)]
    else:
        operands = [None, np.array([1, 1, *target], np.float32)]
    if opset == 11:  # roi and scales were not optional yet
        operands = [np.zeros(0, np.float32) if o is None else o for o in operands]
    check("Resize", x, *operands, opset=opset, atol=2e-5, **attrs)


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("transform", ["half_pixel", "asymmetric", "align_corners"])
def test_resize_nearest_modes(nearest, transform, check, rng):
    for scales in ([1, 1, 2, 2], [1, 1, 0.5, 1.5]):
        check(
            "Resize", f32(rng, 1, 2, 6, 4), None, np.array(scales, np.float32), opset=13,
            nearest_mode=nearest, coordinate_transformation_mode=transform,
        )  # fmt: skip


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_antialias(mode, check, rng):
    check(
        "Resize", f32(rng, 1, 2, 9, 8), None, np.array([1, 1, 0.5, 0.4], np.float32), opset=18,
        mode=mode, antialias=1, atol=2e-5,
    )  # fmt: skip


def test_resize_cubic_options(check, rng):
    check(
        "Resize", f32(rng, 1, 2, 5, 5), None, np.array([1, 1, 1.6, 0.8], np.float32), opset=13,
        mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1, atol=2e-5,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_crop(mode, check, rng):
    roi = np.array([0, 0, 0.2, 0.1, 1, 1, 0.8, 1.3], np.float32)
    check(
        "Resize", f32(rng, 1, 1, 6, 6), roi, None,
        np.array([1, 1, 5, 4], np.int64), opset=13, mode=mode, extrapolation_value=7.0,
        coordinate_transformation_mode="tf_crop_and_resize",
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_resize_axes_and_policy(policy, check, rng):
    check(
        "Resize", f32(rng, 1, 2, 5, 6), None, None, np.array([8, 13], np.int64), opset=18,
        axes=[2, 3], keep_aspect_ratio_policy=policy, mode="linear",
    )  # fmt: skip


@pytest.mark.parametrize("rank", [1, 3])
def test_resize_linear_ranks(rank, check, rng):
    x = f32(rng, 1, 2, *(4, 5, 3)[:rank])
    scales = np.array([1, 1, *(1.5, 2, 2)[:rank]], np.float32)
    check("Resize", x, None, scales, opset=13, mode="linear", atol=1e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 3), (1, 1, 1.5, 1.2)])
def test_upsample(mode, scales, check, rng):
    x, factors = f32(rng, 1, 2, 4, 5), np.array(scales, np.float32)
    check("Upsample", x, factors, opset=9, mode=mode)
    check("Upsample", x, opset=7, mode=mode, scales=[float(v) for v in scales])
    check("Resize", x, factors, opset=10, mode=mode)


def test_resize_smaller_before_opset_11(check, rng):
    check("Resize", f32(rng, 1, 2, 6, 8), np.array([1, 1, 0.5, 0.5], np.float32), opset=10)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample(padding, corners, mode, check, rng):
    x = f32(rng, 2, 3, 5, 6)
    grid = rng.uniform(-1.3, 1.3, (2, 4, 3, 2)).astype(np.float32)
    options = {"padding_mode": padding, "align_corners": corners, "atol": 2e-5}
    check("GridSample", x, grid, opset=20, mode=mode, **options)
    old = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    check("GridSample", x, grid, opset=16, mode=old, **options)


@pytest.mark.parametrize("corners", [0, 1])
def test_affine_grid(corners, check, rng):
    size = np.array([2, 3, 4, 5], np.int64)
    check("AffineGrid", f32(rng, 2, 2, 3), size, opset=20, align_corners=corners)


def boxes(rng, count):
    low = rng.uniform(0, 8, (count, 2))
    return np.concatenate([low, low + rng.uniform(1, 6, (count, 2))], 1).astype(np.float32)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(mode, ratio, check, rng):
    args = [f32(rng, 2, 3, 10, 12), boxes(rng, 4), rng.integers(0, 2, 4)]
    options = {"output_height": 3, "output_width": 2, "sampling_ratio": ratio, "mode": mode}
    check("RoiAlign", *args, opset=16, spatial_scale=0.8, atol=1e-5, **options)
    check(
        "RoiAlign", *args, opset=16, coordinate_transformation_mode="output_half_pixel", atol=1e-5,
        **options,
    )  # fmt: skip
    check("RoiAlign", *args, opset=10, spatial_scale=0.8, atol=1e-5, **options)


@pytest.mark.parametrize("center", [0, 1])
def test_non_max_suppression(center, check, rng):
    found = np.stack([boxes(rng, 12) for _ in range(2)])
    scores = rng.random((2, 3, 12)).astype(np.float32)
    check(
        "NonMaxSuppression", found, scores, np.array([4], np.int64), np.array([0.3], np.float32),
        np.array([0.2], np.float32), opset=11, center_point_box=center,
    )  # fmt: skip


def test_col2im(check, rng):
    x = f32(rng, 1, 2 * 2 * 3, 12)
    sizes = np.array([5, 5], np.int64), np.array([2, 3], np.int64)
    check("Col2Im", x, *sizes, opset=18, atol=1e-5)


@pytest.mark.parametrize("onesided", [0, 1])
def test_dft(onesided, check, rng):
    x = f32(rng, 2, 8, 1)
    check("DFT", x, opset=17, axis=1, onesided=onesided, atol=1e-5)
    check("DFT", x, np.int64(6), np.int64(1), opset=20, onesided=onesided, atol=1e-5)
    if not onesided:
        check("DFT", f32(rng, 2, 8, 2), None, np.int64(1), opset=20, inverse=1, atol=1e-5)


@pytest.mark.parametrize("onesided", [0, 1])
def test_stft(onesided, check, rng):
    window = rng.random(8).astype(np.float32)
    check("STFT", f32(rng, 2, 40, 1), np.int64(5), window, opset=17, onesided=onesided, atol=1e-5)
    check(
        "STFT", f32(rng, 1, 40, 1), np.int64(4), None, np.int64(16), opset=17, onesided=onesided,
        atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows(op, periodic, check):
    check(op, np.int64(10), opset=17, periodic=periodic)


def test_mel_weight_matrix(check):
    args = [np.int64(8), np.int64(32), np.int64(8192), np.float32(0), np.float32(4096)]
    check("MelWeightMatrix", *args, opset=17)
