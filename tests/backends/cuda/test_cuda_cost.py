import pytest

from sparsec.backends.cuda.cost import estimate
from sparsec.backends.targets import targets

GPUS = ("a100", "h100", "h200", "b200", "rtx4090")


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("rows", [1, 16, 64])
def test_decoding_a_large_layer_pays_nearly_as_its_bytes(gpu, rows):
    modelled = estimate((11008, 4096), rows, targets.get(gpu).limits)
    ratio = modelled.dense_seconds / modelled.packed_seconds
    assert 1.6 < ratio < 2 / 1.125 or modelled.packed_seconds == 4e-6


@pytest.mark.parametrize("gpu", GPUS)
def test_small_layers_are_a_tie_and_many_rows_a_loss(gpu):
    limits = targets.get(gpu).limits
    small = estimate((384, 384), 1, limits)
    assert small.dense_seconds == small.packed_seconds
    assert not small.packed_loses
    assert estimate((11008, 4096), 65, limits).packed_loses


def test_the_dense_floor_is_bytes_over_bandwidth():
    modelled = estimate((4096, 4096), 16, {"bandwidth": 1e12, "flops": 1e15})
    assert modelled.dense_seconds == pytest.approx(2 * (4096**2 + 16 * 8192) / 1e12)
    assert modelled.packed_seconds == pytest.approx((1.125 * 4096**2 + 2 * 16 * 8192) / 1e12)
