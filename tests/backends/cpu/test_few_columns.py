"""Regions on few columns, as in decoding: products, norms and gates against float64."""

import numpy as np
import pytest

from sparsec.backends.cpu.library import LoadedPlan, _fill
from sparsec.backends.cpu.pack import pack_blocks
from sparsec.backends.cpu.plan import Activation, Dense, Kind, Op, OpCode, Plan, Value
from sparsec.ir.errors import ArtifactError
from tests.backends.cpu.layers import (
    CLIP,
    NEEDS_LIBRARY,
    Guarded,
    assert_close,
    linear_plan,
    sparse_matrix,
)

pytestmark = NEEDS_LIBRARY


def rows(channels: int) -> Value:
    return Value(Kind.ROWS, channels, 3)


@pytest.mark.parametrize("block", [1, 2, 4, 8])
def test_every_number_of_nonzeros(isa: str, block: int) -> None:
    """Groups of 0 to 17 blocks, so that each main loop ends in each of its remainders."""
    rng = np.random.default_rng(0)
    for rows_, reduction in ((18 * block, 43), (18 * block - 1, 17), (1, 1)):
        matrix = np.zeros((rows_, reduction), np.float32)
        for row in range(rows_):
            kept = np.random.default_rng(row // block).permutation(reduction)[: row // block]
            matrix[row, kept] = rng.standard_normal(len(kept))
        bias = rng.standard_normal(rows_).astype(np.float32)
        for columns in (1, 2, 3):
            x = rng.standard_normal((columns, reduction)).astype(np.float32)
            residual = rng.standard_normal((columns, rows_)).astype(np.float32)
            plan = linear_plan(matrix, block, bias=bias, residual=True, low=-1, high=2, **CLIP)
            (y,) = LoadedPlan(plan.to_bytes(), isa=isa).run(x, residual)
            want = np.clip(x.astype(np.float64) @ matrix.T + bias + residual, -1, 2)
            assert_close(y, want, np.abs(x).astype(np.float64) @ np.abs(matrix.T))


def feed_forward(block: int, seed: int = 1) -> tuple[Plan, dict[str, np.ndarray]]:
    """Residual, RMSNorm, gate, up, product, down with residual: the outputs are used inside too."""
    rng = np.random.default_rng(seed)
    width, hidden = 37, 83
    w = {
        name: sparse_matrix(rng, *shape, 0.7, block)
        for name, shape in {
            "gate": (hidden, width), "up": (hidden, width), "down": (width, hidden),
        }.items()
    }  # fmt: skip
    w["gain"] = rng.standard_normal((1, width)).astype(np.float32)
    values = (*map(rows, (width, width, width, width, hidden, hidden, hidden, width)),)
    ops = (
        Op(OpCode.ADD, (0, 1), 2),
        Op(OpCode.RMS_NORM, (2,), 3, gain=3, alpha=1e-5),
        Op(OpCode.LINEAR, (3,), 4, weight=0, activation=Activation.SILU),
        Op(OpCode.LINEAR, (3,), 5, weight=1),
        Op(OpCode.MULTIPLY, (4, 5), 6),
        Op(OpCode.LINEAR, (6, 2), 7, weight=2),
    )
    packed = [pack_blocks(w[name], block) for name in ("gate", "up", "down")]
    return Plan((0, 1), (7, 2, 5), values, ops, (*packed, Dense(w["gain"]))), w


def expected(w: dict[str, np.ndarray], a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    x = a.astype(np.float64) + b
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w["gain"]
    gate, up = normed @ w["gate"].T.astype(np.float64), normed @ w["up"].T.astype(np.float64)
    return [gate / (1 + np.exp(-gate)) * up @ w["down"].T.astype(np.float64) + x, x, up]


@pytest.mark.parametrize("block", [1, 2, 4, 8])
def test_a_feed_forward_block(isa: str, block: int) -> None:
    """Three columns are done as rows, four as tiles: nobody sees the difference."""
    plan, w = feed_forward(block)
    loaded = LoadedPlan(plan.to_bytes(), isa=isa)
    rng = np.random.default_rng(2)
    for batch, length in ((1, 1), (3, 1), (1, 2), (4, 1), (2, 9), (1, 130), (1, 0)):
        a, b = (rng.standard_normal((batch, length, 37)).astype(np.float32) for _ in range(2))
        for got, want in zip(loaded.run(a, b), expected(w, a, b), strict=True):
            assert_close(got, want, 30.0)


def test_threads_give_identical_bits() -> None:
    rng = np.random.default_rng(3)
    matrix = sparse_matrix(rng, 900, 600, 0.8)
    matrix[:300] = 0  # parts of equal work are not parts of equal height
    data = linear_plan(matrix, 1).to_bytes()
    alone, together = LoadedPlan(data), LoadedPlan(data, threads=4)
    for columns in (1, 2, 3):
        x = rng.standard_normal((columns, 600)).astype(np.float32)
        for _ in range(20):
            np.testing.assert_array_equal(alone.run(x)[0], together.run(x)[0])


def test_nothing_is_read_or_written_beyond_the_tensors(isa: str) -> None:
    plan, _ = feed_forward(8)
    given = [Guarded((3, 1, 37)) for _ in range(2)]
    taken = [Guarded((3, 1, size)) for size in (37, 37, 83)]
    for each in given:
        each.array[:] = 1.0
    run = LoadedPlan(plan.to_bytes(), isa=isa).prepare(*(each.array for each in given))
    for tensor, guarded in zip(run._out, taken, strict=True):
        _fill(tensor, guarded.array)
    run()
    assert all(np.isfinite(each.array).all() for each in taken)


def test_a_value_that_leaves_twice(isa: str) -> None:
    matrix = sparse_matrix(np.random.default_rng(4), 24, 16, 0.5)
    plan = linear_plan(matrix, 1)
    twice = Plan(plan.inputs, (1, 1), plan.values, plan.ops, plan.tensors)
    x = np.random.default_rng(5).standard_normal((1, 16)).astype(np.float32)
    first, second = LoadedPlan(twice.to_bytes(), isa=isa).run(x)
    assert_close(first, x.astype(np.float64) @ matrix.T, np.abs(x) @ np.abs(matrix.T))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Op(OpCode.RMS_NORM, (0,), 1, alpha=1e-5), "tensor"),
        (Op(OpCode.RMS_NORM, (0,), 1, gain=0, alpha=-1.0), "epsilon"),
        (Op(OpCode.RMS_NORM, (0, 0), 1, gain=0), "second operand"),
        (Op(OpCode.RMS_NORM, (0,), 1, gain=0, bias=0), "a bias"),
        (Op(OpCode.MULTIPLY, (0, 0), 1, gain=0), "a gain"),
        (Op(OpCode.MULTIPLY, (0,), 1), "value"),
    ],
)
def test_malformed_operators_are_refused(op: Op, message: str) -> None:
    plan = Plan((0,), (1,), (rows(8), rows(8)), (op,), (Dense(np.ones((1, 8), np.float32)),))
    with pytest.raises(ArtifactError, match=message):
        LoadedPlan(plan.to_bytes())


@pytest.mark.parametrize("threads", [1, 2])
def test_a_profile_has_the_time_of_every_operator(threads: int) -> None:
    plan, _ = feed_forward(1)
    x = np.ones((1, 1, 37), np.float32)
    seconds = LoadedPlan(plan.to_bytes(), threads=threads).profile(x, x)
    assert (seconds[:-2] > 0).all()
