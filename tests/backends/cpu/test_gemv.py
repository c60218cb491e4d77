"""Products of one to three columns: every microkernel of the table against float64.

A row of the table is found by its name: type of the values, height of the blocks, instruction set.
"""

import dataclasses
import re

import numpy as np
import pytest

from sparsec.backends.cpu.library import LoadedPlan, microkernels
from sparsec.backends.cpu.narrow import narrow
from sparsec.backends.cpu.pack import best_block_rows, pack_blocks, unpack
from sparsec.backends.cpu.plan import Activation, Blocks, Dense, Kind, Op, OpCode, Plan, Value
from sparsec.ir.errors import ArtifactError, ShapeError
from sparsec.passes.rounding import to_float16, to_int8
from tests.backends.cpu.layers import NEEDS_LIBRARY, assert_close, sparse_matrix

pytestmark = NEEDS_LIBRARY

NAME = re.compile(r"(f32|f16|i8)_gemv_(?:unstructured|block(\d)x1)__(\w+)")
ROUND = {"f32": lambda matrix: matrix, "f16": to_float16, "i8": to_int8}
TYPES = {"f32": np.float32, "f16": np.float16, "i8": np.int8}


def gemv_kernels(isa: str) -> list[tuple[str, int]]:
    """Type of the values and height of the blocks of each GEMV kernel."""
    found = [match for name in microkernels(isa) if (match := NAME.fullmatch(name))]
    assert all(match[3] == isa for match in found)
    return [(match[1], int(match[2] or 1)) for match in found]


def product(weight: Blocks | Dense) -> Plan:
    rows, width = weight.values.shape if isinstance(weight, Dense) else (weight.rows, weight.width)
    values = (Value(Kind.ROWS, width, 2), Value(Kind.ROWS, rows, 2))
    return Plan((0,), (1,), values, (Op(OpCode.LINEAR, (0,), 1, weight=0),), (weight,))


def weight_of(matrix: np.ndarray, kind: str, rows: int) -> Blocks:
    weight = narrow(pack_blocks(matrix, rows))
    assert weight.values.dtype == TYPES[kind]
    np.testing.assert_array_equal(unpack(weight), matrix)
    return weight


def test_the_table_has_its_rows(isa: str) -> None:
    kernels = gemv_kernels(isa)
    assert {("f32", 8), ("f16", 8), ("i8", 8)} <= set(kernels)
    assert isa == "avx512" or {("f32", rows) for rows in (1, 2, 4)} <= set(kernels)


def test_every_microkernel(isa: str) -> None:
    """Groups of 0 to 35 blocks, so that each main loop ends in each of its remainders."""
    rng = np.random.default_rng(0)
    for kind, rows in gemv_kernels(isa):
        for out, reduction in ((36 * rows, 43), (36 * rows - 1, 41), (1, 1)):
            matrix = np.zeros((out, reduction), np.float32)
            for row in range(out):
                kept = np.random.default_rng(row // rows).permutation(reduction)[: row // rows]
                # 127 steps and more than one binade: what int8 and float16 round differently.
                matrix[row, kept] = rng.standard_normal(len(kept)) * 10.0 ** rng.integers(-3, 3)
            matrix[0, 0] = 1.1
            matrix = ROUND[kind](matrix)
            plan = product(weight_of(matrix, kind, rows)).to_bytes()
            for columns in (1, 2, 3, 4, 20):  # the last two work on tiles
                x = rng.standard_normal((columns, reduction)).astype(np.float32)
                (y,) = LoadedPlan(plan, isa=isa).run(x)
                wide = matrix.T.astype(np.float64)
                assert_close(y, x.astype(np.float64) @ wide, np.abs(x) @ np.abs(wide))


@pytest.mark.parametrize("columns", [1, 3, 4])
def test_dense_weights(isa: str, columns: int) -> None:
    """Every remainder of the rows that are read side by side and of the vectors of a row."""
    assert f"f32_gemv_dense__{isa}" in microkernels(isa)
    rng = np.random.default_rng(4)
    for out, reduction in ((1, 1), (3, 7), (4, 16), (5, 33), (7, 24), (66, 130), (9, 70000)):
        matrix = rng.standard_normal((out, reduction)).astype(np.float32)
        x = rng.standard_normal((columns, reduction)).astype(np.float32)
        plan = product(Dense(matrix)).to_bytes()
        (y,) = LoadedPlan(plan, isa=isa).run(x)
        wide = matrix.T.astype(np.float64)
        assert_close(y, x.astype(np.float64) @ wide, np.abs(x) @ np.abs(wide))
        for threads in (2, 5):
            np.testing.assert_array_equal(LoadedPlan(plan, isa=isa, threads=threads).run(x)[0], y)


def test_a_pixel_of_an_image_is_a_column(isa: str) -> None:
    """What a classifier does behind the pooling: tiles before it, weights as they are stored in it."""
    rng = np.random.default_rng(5)
    sparse = sparse_matrix(rng, 40, 37, 0.7, 1)
    for weight, matrix in (
        (Dense(sparse), sparse),
        (pack_blocks(sparse, 1), sparse),
        (pack_blocks(wide := sparse_matrix(rng, 40, 37, 0.7, 4), 4), wide),
    ):
        bias = rng.standard_normal((1, 40)).astype(np.float32)
        values = (
            *(Value(Kind.IMAGE, 37, 4),) * 2,
            Value(Kind.IMAGE, 40, 4),
            Value(Kind.IMAGE, 40, 2),
        )
        ops = (
            Op(OpCode.GLOBAL_AVERAGE_POOL, (0,), 1),
            Op(OpCode.LINEAR, (1,), 2, weight=0, bias=1, activation=Activation.SILU),
            Op(OpCode.LINEAR, (1, 2), 3, weight=0, activation=Activation.CLIP, low=-0.5, high=0.5),
        )
        plan = Plan((0,), (2, 3), values, ops, (weight, Dense(bias))).to_bytes()
        x = rng.standard_normal((3, 37, 5, 5)).astype(np.float32)
        pooled = x.astype(np.float64).mean(axis=(2, 3))
        first = pooled @ matrix.T + bias
        first = first / (1 + np.exp(-first))
        second = np.clip(pooled @ matrix.T + first, -0.5, 0.5)
        for threads in (1, 3):
            y, z = LoadedPlan(plan, isa=isa, threads=threads).run(x)
            assert (y.shape, z.shape) == ((3, 40, 1, 1), (3, 40))
            np.testing.assert_allclose(y[..., 0, 0], first, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(z, second, rtol=1e-4, atol=1e-5)


def test_rows_of_images_of_more_pixels_are_refused() -> None:
    weight = Dense(np.ones((4, 3), np.float32))
    ops = (Op(OpCode.LINEAR, (0,), 1, weight=0),)
    flat = Plan((0,), (1,), (Value(Kind.IMAGE, 3, 4), Value(Kind.IMAGE, 4, 2)), ops, (weight,))
    loaded = LoadedPlan(flat.to_bytes())
    (y,) = loaded.run(np.ones((2, 3, 1, 1), np.float32))
    np.testing.assert_array_equal(y, np.full((2, 4), 3.0))
    with pytest.raises(ShapeError, match="2 pixels, needed one"):
        loaded.run(np.ones((1, 3, 2, 1), np.float32))
    rows = Plan((0,), (1,), (Value(Kind.IMAGE, 3, 2), Value(Kind.IMAGE, 4, 4)), ops, (weight,))
    with pytest.raises(ArtifactError, match="input 0: an image of rank 2"):
        LoadedPlan(rows.to_bytes())


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95, 1.0])
def test_dense_and_empty_weights(isa: str, sparsity: float) -> None:
    rng = np.random.default_rng(1)
    for kind, rows in gemv_kernels(isa):
        matrix = ROUND[kind](sparse_matrix(rng, 130, 257, sparsity, rows))
        weight = narrow(pack_blocks(matrix, rows))
        x = rng.standard_normal((1, 257)).astype(np.float32)
        (y,) = LoadedPlan(product(weight).to_bytes(), isa=isa).run(x)
        wide = matrix.T.astype(np.float64)
        assert_close(y, x.astype(np.float64) @ wide, np.abs(x) @ np.abs(wide))


def test_not_a_number_stays_in_its_rows(isa: str) -> None:
    """A kept weight carries NaN and infinity on, whatever stands beside it; no other row sees them."""
    for kind, rows in gemv_kernels(isa):
        for blocks in range(1, 10):  # the bad column is the last of a group, in every remainder
            matrix = np.zeros((3 * rows, 20), np.float32)
            matrix[rows : 2 * rows, :blocks] = 1.0
            matrix[2 * rows :, 10:] = 1.0
            for bad in (np.nan, np.inf):
                x = np.ones((1, 20), np.float32)
                x[0, blocks - 1] = bad
                plan = product(_as(matrix, kind, rows))
                (y,) = LoadedPlan(plan.to_bytes(), isa=isa).run(x)
                np.testing.assert_array_equal(y[0, rows : 2 * rows], np.full(rows, bad))
                np.testing.assert_array_equal(y[0, :rows], np.zeros(rows))
                np.testing.assert_array_equal(y[0, 2 * rows :], np.full(rows, 10.0))


def _as(matrix: np.ndarray, kind: str, rows: int) -> Blocks:
    """Blocks stored as a type that a packer would not choose for them."""
    blocks = pack_blocks(matrix, rows)
    scales = np.ones(len(matrix), np.float32) if kind == "i8" else None
    return dataclasses.replace(blocks, values=blocks.values.astype(TYPES[kind]), scales=scales)


def test_every_float16_is_read_exactly(isa: str) -> None:
    """Subnormal numbers and infinities too."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = bits[np.isfinite(bits.view(np.float16).astype(np.float32)) | (bits & 0x3FF == 0)]
    values = halves[: len(halves) // 8 * 8].view(np.float16).reshape(-1, 8)
    count = len(values)
    starts = np.arange(count + 1, dtype=np.uint32)
    weight = Blocks(8 * count, 1, starts, np.zeros(count, np.uint16), values)
    for columns in (1, 4):
        x = np.ones((columns, 1), np.float32)
        (y,) = LoadedPlan(product(weight).to_bytes(), isa=isa).run(x)
        np.testing.assert_array_equal(y[0], values.astype(np.float32).ravel())


def test_rounding_is_what_it_says() -> None:
    rng = np.random.default_rng(2)
    matrix = sparse_matrix(rng, 200, 300, 0.8, 8) * rng.lognormal(0, 2, (200, 1)).astype(np.float32)
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    assert (np.abs(to_int8(matrix) - matrix) <= 0.501 / 127 * largest).all()
    assert (
        np.abs(to_float16(matrix) - matrix) <= np.maximum(2.0**-11 * np.abs(matrix), 2.0**-25)
    ).all()
    for kind, stored in (("i8", 1), ("f16", 2), ("f32", 4)):
        rounded = ROUND[kind](matrix)
        assert best_block_rows(rounded) == 8
        weight = narrow(pack_blocks(rounded, 8))
        assert weight.values.itemsize == stored
        np.testing.assert_array_equal(unpack(weight), rounded)
        if kind != "f32":
            np.testing.assert_array_equal(ROUND[kind](rounded), rounded)


def test_what_is_no_small_number_stays_float32() -> None:
    matrix = np.full((8, 3), 1.0, np.float32)
    assert narrow(pack_blocks(matrix / 3, 8)).values.dtype == np.float32
    matrix[0, 0] = 1e30
    assert narrow(pack_blocks(matrix, 8)).values.dtype == np.float32
    assert narrow(pack_blocks(np.ones((4, 3), np.float32), 4)).values.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_narrow_values_of_other_blocks_are_refused(dtype: type) -> None:
    blocks = pack_blocks(np.ones((4, 3), np.float32), 4)
    scales = np.ones(4, np.float32) if dtype is np.int8 else None
    bad = Blocks(4, 3, blocks.starts, blocks.columns, blocks.values.astype(dtype), scales)
    with pytest.raises(ArtifactError, match="blocks of 4 rows"):
        LoadedPlan(product(bad).to_bytes())
    with pytest.raises(ArtifactError, match="unknown kind"):
        Plan.from_bytes(product(bad).to_bytes())
