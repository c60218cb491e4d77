"""Sparse products of every microkernel against float64, at the borders of their shapes."""

import re

import numpy as np
import pytest

from sparsec.backends.cpu.library import LANES, LoadedPlan, _fill, microkernels
from sparsec.backends.cpu.plan import Activation, Kind, Tile
from tests.backends.cpu.layers import (
    CLIP,
    NEEDS_LIBRARY,
    Guarded,
    assert_close,
    linear_plan,
    sparse_matrix,
)

pytestmark = NEEDS_LIBRARY


def run_and_check(plan_bytes, isa, x, matrix, bias=None, **kw):
    (y,) = LoadedPlan(plan_bytes, isa=isa).run(x)
    want = x.astype(np.float64) @ matrix.T.astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(matrix.T).astype(np.float64)
    if bias is not None:
        want = want + bias
    if "low" in kw:
        want = np.clip(want, kw["low"], kw["high"])
    assert_close(y, want, size)
    return y


def test_every_microkernel(isa: str) -> None:
    """Each table row is reached by its own tile width, whole and cut tiles, and K blocks."""
    rng = np.random.default_rng(1)
    names = microkernels(isa)
    assert len(names) >= 8
    for name in names:
        if "_spmm_" not in name:
            continue
        vectors, per = int(re.search(r"_v(\d+)", name)[1]), LANES[isa]
        block = int(m[1]) if (m := re.search(r"block(\d)x1", name)) else 1
        for rows, columns, depth in ((8, 40, 0), (26, 129, 32), (3, 5, 2)):
            matrix = sparse_matrix(rng, rows, columns, 0.6, block)
            bias = rng.standard_normal(rows).astype(np.float32)
            held = vectors * per
            tiles = (Tile(held + 3, 1, per, held),)
            plan = linear_plan(matrix, block, bias=bias, tiles=tiles, depth_hint=depth)
            x = rng.standard_normal((held + 3, columns)).astype(np.float32)
            run_and_check(plan.to_bytes(), isa, x, matrix, bias)


@pytest.mark.parametrize("block", [None, 1, 2, 4, 8])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95, 1.0])
def test_shapes(isa: str, block: int | None, sparsity: float) -> None:
    rng = np.random.default_rng(2)
    for columns_of_x in (1, 2, 7, 8, 49, 127, 196):
        for rows, reduction in ((1, 1), (2, 3), (5, 27), (127, 129), (128, 256), (4, 1024)):
            matrix = sparse_matrix(rng, rows, reduction, sparsity, block or 1)
            bias = rng.standard_normal(rows).astype(np.float32)
            x = rng.standard_normal((columns_of_x, reduction)).astype(np.float32)
            plan = linear_plan(matrix, block, bias=bias, low=-0.5, high=1.0, **CLIP)
            run_and_check(plan.to_bytes(), isa, x, matrix, bias, low=-0.5, high=1.0)


def test_long_sums_err_no_more_than_dense_products_do(isa: str) -> None:
    """Sums of parts: one chain of 1536 additions errs by 7e-7, a dense product of ONNX Runtime by 2e-7."""
    rng = np.random.default_rng(8)
    matrix = sparse_matrix(rng, 64, 3072, 0.5)
    x = rng.standard_normal((64, 3072)).astype(np.float32)
    (y,) = LoadedPlan(linear_plan(matrix, 1).to_bytes(), isa=isa).run(x)
    want = x.astype(np.float64) @ matrix.T.astype(np.float64)
    assert np.sqrt(((y - want) ** 2).mean() / (want**2).mean()) < 3e-7


def test_empty_rows_and_heavy_rows(isa: str) -> None:
    rng = np.random.default_rng(3)
    matrix = sparse_matrix(rng, 64, 300, 0.9)
    matrix[::3] = 0
    matrix[5] = rng.standard_normal(300)
    matrix[:, :128] = 0  # the first K block is empty
    x = rng.standard_normal((70, 300)).astype(np.float32)
    run_and_check(linear_plan(matrix, 1, depth_hint=128).to_bytes(), isa, x, matrix)


def test_residual_and_activation_come_after_the_last_block(isa: str) -> None:
    rng = np.random.default_rng(4)
    matrix = sparse_matrix(rng, 30, 200, 0.8)
    x = rng.standard_normal((50, 200)).astype(np.float32)
    residual = rng.standard_normal((50, 30)).astype(np.float32)
    plan = linear_plan(matrix, 1, residual=True, depth_hint=64, low=0.0, high=6.0, **CLIP)
    (y,) = LoadedPlan(plan.to_bytes(), isa=isa).run(x, residual)
    want = np.clip(x.astype(np.float64) @ matrix.T + residual, 0, 6)
    assert_close(y, want, np.abs(x) @ np.abs(matrix.T))


def test_images_are_channels_first(isa: str) -> None:
    rng = np.random.default_rng(5)
    matrix = sparse_matrix(rng, 24, 40, 0.7)
    bias = rng.standard_normal(24).astype(np.float32)
    for height, width in ((1, 1), (7, 7), (14, 15)):
        x = rng.standard_normal((3, 40, height, width)).astype(np.float32)
        (y,) = LoadedPlan(
            linear_plan(matrix, 1, bias=bias, kind=Kind.IMAGE).to_bytes(), isa=isa
        ).run(x)
        want = np.einsum("mk,bkhw->bmhw", matrix.astype(np.float64), x) + bias[:, None, None]
        assert_close(y, want, np.einsum("mk,bkhw->bmhw", np.abs(matrix), np.abs(x)))


@pytest.mark.parametrize("activation", [a for a in Activation if a > 1])
def test_activations(isa: str, activation: Activation) -> None:
    x = np.linspace(-12, 12, 999, dtype=np.float32).reshape(-1, 1)
    plan = linear_plan(np.ones((1, 1), np.float32), None, activation=activation)
    (y,) = LoadedPlan(plan.to_bytes(), isa=isa).run(x)
    z = x.astype(np.float64)
    tanh = np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
    want = {
        Activation.GELU: 0.5 * z * (1 + np.vectorize(__import__("math").erf)(z / np.sqrt(2))),
        Activation.GELU_TANH: 0.5 * z * (1 + tanh),
        Activation.SILU: z / (1 + np.exp(-z)),
        Activation.HARD_SWISH: z * np.clip(z / 6 + 0.5, 0, 1),
    }[activation]
    assert np.abs(y - want).max() < 3e-6


def test_not_a_number_stays_in_its_row_and_column(isa: str) -> None:
    """A kept weight carries NaN and Inf on; a zero weight skips them, as documented."""
    matrix = np.zeros((6, 20), np.float32)
    matrix[1, 3], matrix[2, 4] = 2.0, 1.0
    x = np.ones((40, 20), np.float32)
    x[5, 3], x[6, 4] = np.nan, np.inf
    for low, high in ((-np.inf, np.inf), (-8.0, 8.0)):
        plan = linear_plan(matrix, 1, low=low, high=high, **CLIP)
        (y,) = LoadedPlan(plan.to_bytes(), isa=isa).run(x)
        assert np.isnan(y[5, 1])
        assert y[6, 2] == high
        assert np.isfinite(np.delete(y.ravel(), [5 * 6 + 1, 6 * 6 + 2])).all()


@pytest.mark.parametrize("kind", [Kind.ROWS, Kind.IMAGE])
def test_nothing_is_read_or_written_beyond_the_tensors(isa: str, kind: Kind) -> None:
    rng = np.random.default_rng(6)
    for columns in (1, 3, 5, 37, 130):
        matrix = sparse_matrix(rng, 13, 21, 0.5)
        shape = (columns, 21) if kind is Kind.ROWS else (1, 21, columns, 1)
        given, taken = (
            Guarded(shape),
            Guarded((columns, 13) if kind is Kind.ROWS else (1, 13, columns, 1)),
        )
        given.array[:] = rng.standard_normal(shape)
        run = LoadedPlan(linear_plan(matrix, 1, kind=kind).to_bytes(), isa=isa).prepare(given.array)
        _fill(run._out[0], taken.array)
        run()
        assert np.isfinite(taken.array).all()


def test_threads_give_identical_bits() -> None:
    rng = np.random.default_rng(7)
    matrix = sparse_matrix(rng, 200, 500, 0.8)
    for columns in (1, 64, 500):
        x = rng.standard_normal((columns, 500)).astype(np.float32)
        data = linear_plan(matrix, 1).to_bytes()
        alone, together = LoadedPlan(data), LoadedPlan(data, threads=4)
        for _ in range(20):
            np.testing.assert_array_equal(alone.run(x)[0], together.run(x)[0])
