import pytest

from sparsec.backends.cuda.cost import estimate
from sparsec.backends.targets import targets

GPUS = ("a100", "h100", "h200", "b200", "rtx4090", "mi300")


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("rows", [1, 16, 64])
def test_decoding_a_large_layer_pays_nearly_as_its_bytes(gpu, rows):
    modelled = estimate("nm24", (11008, 4096), 0.5, rows, targets.get(gpu).limits)
    ratio = modelled.dense_seconds / modelled.packed_seconds
    assert 1.59 < ratio < 2 / 1.125 or modelled.packed_seconds == 4e-6


@pytest.mark.parametrize("gpu", GPUS)
def test_small_layers_are_a_tie_and_many_rows_a_loss(gpu):
    limits = targets.get(gpu).limits
    small = estimate("nm24", (384, 384), 0.5, 1, limits)
    assert small.dense_seconds == small.packed_seconds
    assert not small.packed_loses
    assert estimate("nm24", (11008, 4096), 0.5, 65, limits).packed_loses


def test_the_dense_floor_is_bytes_over_bandwidth():
    limits = {"bandwidth": 1e12, "flops": 1e15, "issue": 1e14}
    modelled = estimate("nm24", (4096, 4096), 0.5, 16, limits)
    assert modelled.dense_seconds == pytest.approx(2 * (4096**2 + 16 * 8192) / 1e12)
    assert modelled.packed_seconds == pytest.approx((1.125 * 4096**2 + 2 * 16 * 8192) / 1e12)


def test_a_kernel_that_decodes_too_slowly_for_its_memory_loses():
    h200, rtx4090 = (targets.get(name).limits for name in ("h200", "rtx4090"))
    slow = estimate("bm32", (28672, 8192), 0.5, 16, h200)
    assert slow.packed_loses
    assert slow.packed_seconds == pytest.approx(28672 * 8192 * 14.0 / h200["issue"])
    assert not estimate("bm32", (28672, 8192), 0.5, 16, rtx4090).packed_loses


def test_blocks_cost_what_they_store():
    limits = targets.get("h200").limits
    half, tenth = (estimate("block16x1", (28672, 8192), s, 16, limits) for s in (0.5, 0.9))
    assert 1.5 < half.dense_seconds / half.packed_seconds < 2 / 1.0625
    assert tenth.dense_seconds / tenth.packed_seconds > 6
