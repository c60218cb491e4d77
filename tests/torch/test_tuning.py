import pytest

torch = pytest.importorskip("torch", reason="sparsec.torch needs torch")
from torch import nn  # noqa: E402

import sparsec.torch as st  # noqa: E402
from sparsec.backends.cuda.operators import NEVER  # noqa: E402
from sparsec.ir.errors import UnsupportedTargetError, UsageError  # noqa: E402

ROWS = (64, 128, 256, 512)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 8))
    st.sparsify_(model)
    return model


def times(decompress, cusparselt=None):
    """Return a made-up measurement: packed takes as long as it has rows, the others are constant."""
    asked = []

    def measure(layer, way, rows):
        asked.append((layer.out_features, layer.in_features, way, rows))
        return {"packed": float(rows), "decompress": decompress, "cusparselt": cusparselt}[way]

    measure.asked = asked
    return measure


@pytest.mark.parametrize(
    ("decompress", "expected"), [(200.0, 256), (64.0, 128), (1.0, 64), (1e9, NEVER), (512.0, NEVER)]
)
def test_the_first_count_from_which_the_dense_way_always_wins(model, decompress, expected):
    records = st.tune(model, ROWS, measure=times(decompress))
    assert set(records.values()) == {st.Dispatch(expected, "decompress", "measured")}
    assert model[0].dispatch.dense_from == expected


def test_a_single_win_below_a_loss_does_not_count(model):
    wins = {64: True, 128: False, 256: True, 512: True}

    def measure(layer, way, rows):
        return 1.0 if (way == "packed") != wins[rows] else 2.0

    assert st.tune(model, ROWS, measure=measure)["0"].dense_from == 256


def test_a_second_copy_is_kept_only_if_allowed_and_faster_earlier(model):
    assert st.tune(model, ROWS, measure=times(300.0, 100.0))["0"].prefill == "decompress"
    both = st.tune(model, ROWS, second_copy=True, measure=times(300.0, 100.0))["0"]
    assert (both.prefill, both.dense_from) == ("cusparselt", 128)
    assert st.tune(model, ROWS, second_copy=True, measure=times(64.0, None))["0"].dense_from == 128


def test_layers_of_one_kind_are_measured_once(model):
    measure = times(200.0)
    st.tune(model, ROWS, measure=measure)
    packed = [shape for *shape, way, rows in measure.asked if way == "packed" and rows == 64]
    assert packed == [[32, 64], [64, 32], [8, 32]]


def test_the_record_is_saved(model, tmp_path):
    pytest.importorskip("safetensors", reason="save and load need safetensors")
    st.tune(model, ROWS, measure=times(200.0))
    st.save(model, tmp_path / "x.safetensors")
    other = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 8))
    st.load(tmp_path / "x.safetensors", other)
    assert other[0].dispatch == st.Dispatch(256, "decompress", "measured")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_says_so(model):
    with pytest.raises(UnsupportedTargetError, match="CUDA device"):
        st.tune(model)


@pytest.mark.parametrize("arguments", [(0,), (1, "magic")])
def test_records_that_mean_nothing_are_refused(arguments):
    with pytest.raises(UsageError):
        st.Dispatch(*arguments)


def test_modelled_records_ask_for_more_rows_where_more_is_saved():
    from sparsec.torch.linear import modelled_dispatch

    size = 4096 * 4096
    half, fewer = (modelled_dispatch("nm24", (4096, 4096), b * size // 8) for b in (9, 4))
    assert 64 < half.dense_from < fewer.dense_from
    assert modelled_dispatch("nm24", (4096, 4096), size).source == "modelled"
