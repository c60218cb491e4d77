"""LayerNorm and attention against float64, for every instruction set."""

import numpy as np
import pytest

from sparsec.backends.cpu.library import LoadedPlan
from sparsec.backends.cpu.plan import NONE, Dense, Kind, Op, OpCode, Plan, Value
from sparsec.ir.errors import ShapeError
from tests.backends.cpu.layers import NEEDS_LIBRARY

pytestmark = NEEDS_LIBRARY


def rows(channels: int, rank: int = 3) -> Value:
    return Value(Kind.ROWS, channels, rank)


@pytest.mark.parametrize("channels", [1, 2, 3, 64, 385])
def test_layer_norm(isa: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    gain, shift = (rng.standard_normal((1, channels)).astype(np.float32) for _ in range(2))
    op = Op(OpCode.LAYER_NORM, (0, 1), 2, gain=0, bias=1, alpha=1e-5)
    plan = Plan((0, 1), (2,), (rows(channels),) * 3, (op,), (Dense(gain), Dense(shift))).to_bytes()
    for length in (1, 5, 130):
        a, b = (
            rng.standard_normal((2, length, channels)).astype(np.float32) + 30 for _ in range(2)
        )
        (y,) = LoadedPlan(plan, isa=isa).run(a, b)
        s = a.astype(np.float64) + b
        centred = s - s.mean(-1, keepdims=True)
        want = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain + shift
        assert np.abs(y - want).max() < 2e-4  # the inputs are rounded at 60


def reference(q, k, v, heads, alpha, mask):
    def split(x):
        return x.astype(np.float64).reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    scores = alpha * split(q) @ split(k).transpose(0, 1, 3, 2)
    if mask is not None:
        scores = scores + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ split(v)).transpose(0, 2, 1, 3).reshape(q.shape)


@pytest.mark.parametrize(
    "mask_shape", [None, (1, 1, 1, 1), (1, 0, 0, 1), (0, 1, 1, 1), (1, 1, 0, 1)]
)
def test_attention(isa: str, mask_shape) -> None:
    """Masks are whole or 1 (here 0) along batch, heads and queries."""
    rng = np.random.default_rng(1)
    heads, channels = 3, 3 * 20
    masked = mask_shape is not None
    op = Op(OpCode.ATTENTION, (0, 1, 2, 4 if masked else NONE), 3, heads=heads, alpha=0.3)
    values = (rows(channels),) * 4 + ((Value(Kind.RAW, 0, 4),) if masked else ())
    plan = Plan((0, 1, 2, 4) if masked else (0, 1, 2), (3,), values, (op,), ()).to_bytes()
    for batch, length in ((1, 1), (2, 7), (3, 33), (1, 130)):
        q, k, v = (
            rng.standard_normal((batch, length, channels)).astype(np.float32) for _ in range(3)
        )
        mask = None
        if masked:
            full = (batch, heads, length, length)
            shape = [n if whole else 1 for n, whole in zip(full, mask_shape, strict=True)]
            mask = np.where(rng.random(shape) < 0.3, np.float32(-3e38), np.float32(0.5)).astype(
                np.float32
            )
            mask[..., 0] = 0
        (y,) = LoadedPlan(plan, isa=isa).run(*([q, k, v] if mask is None else [q, k, v, mask]))
        assert np.abs(y - reference(q, k, v, heads, 0.3, mask)).max() < 1e-5


def test_a_mask_of_another_shape_is_refused(isa: str) -> None:
    op = Op(OpCode.ATTENTION, (0, 0, 0, 1), 2, heads=2, alpha=1.0)
    plan = Plan((0, 1), (2,), (rows(8), Value(Kind.RAW, 0, 4), rows(8)), (op,), ()).to_bytes()
    x = np.zeros((1, 5, 8), np.float32)
    with pytest.raises(ShapeError, match="mask"):
        LoadedPlan(plan, isa=isa).run(x, np.zeros((1, 1, 1, 4), np.float32))


@pytest.mark.parametrize("whole", [False, True])
def test_masks_below_every_number(isa: str, whole: bool) -> None:
    """-inf weighs nothing, also beside the least number that there is; a row of nothing else gives NaN."""
    rng = np.random.default_rng(2)
    length, channels = 8, 16
    op = Op(OpCode.ATTENTION, (0, 1, 2, 4), 3, heads=2, alpha=0.3)
    values = (*(rows(channels),) * 4, Value(Kind.RAW, 0, 4))
    plan = LoadedPlan(Plan((0, 1, 2, 4), (3,), values, (op,), ()).to_bytes(), isa=isa)
    q, k, v = (rng.standard_normal((1, length, channels)).astype(np.float32) for _ in range(3))
    mask = np.full((1, 1, length if whole else 1, length), -np.inf, np.float32)
    mask[..., :4] = np.finfo(np.float32).min
    (y,) = plan.run(q, k, v, mask)
    kept = np.where(np.isfinite(mask), 0.0, -np.inf)  # scores vanish beside such numbers
    want = reference(0 * q, k, v, 2, 0.3, kept)
    np.testing.assert_allclose(y, want, atol=1e-5)
    (y,) = plan.run(q, k, v, np.full_like(mask, -np.inf))
    assert np.isnan(y).all()


def test_no_token_under_a_mask(isa: str) -> None:
    op = Op(OpCode.ATTENTION, (0, 1, 2, 4), 3, heads=2, alpha=0.3)
    values = (*(rows(16),) * 4, Value(Kind.RAW, 0, 4))
    plan = LoadedPlan(Plan((0, 1, 2, 4), (3,), values, (op,), ()).to_bytes(), isa=isa)
    x, mask = np.ones((2, 0, 16), np.float32), np.ones((2, 1, 1, 0), np.float32)
    assert plan.run(x, x, x, mask)[0].shape == (2, 0, 16)
