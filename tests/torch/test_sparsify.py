import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="sparsec.torch needs torch")
from torch import nn  # noqa: E402

import sparsec.torch as st  # noqa: E402
from sparsec.ir.errors import (  # noqa: E402
    CalibrationError,
    PassConfigError,
    PatternError,
    ShapeError,
    UsageError,
)
from sparsec.passes.masks.nm import nm_mask  # noqa: E402


class Conv1D(nn.Module):
    """As Hugging Face's GPT-2 has it: a linear layer whose weight is stored [in, out]."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf) / nx**0.5)
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Model(nn.Module):
    """A linear layer, a Conv1D, a layer that 2:4 does not fit, and a head that is the embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 64)
        self.up = nn.Linear(64, 96)
        self.mid = Conv1D(48, 96)
        self.odd = nn.Linear(48, 33)
        self.back = nn.Linear(33, 64, bias=False)
        self.head = nn.Linear(64, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        h = self.mid(torch.relu(self.up(self.embed(ids))))
        return self.head(self.back(self.odd(h)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().eval()


IDS = torch.arange(12).reshape(3, 4)


def magnitude_24(weight):
    """Return the weight [out, in] with the smaller half of every four zeroed, rounded to float16."""
    array = weight.detach().numpy()
    return torch.from_numpy(np.where(nm_mask(np.abs(array), 2, 4), array, 0)).half()


def test_layers_are_swapped_and_compute_what_masked_ones_do(model):
    dense = copy.deepcopy(model)
    report = st.sparsify_(model, "2:4")
    assert report.replaced == ["up", "mid", "odd"]
    with torch.no_grad():
        for name in ("up", "odd"):
            layer = getattr(dense, name)
            layer.weight.copy_(magnitude_24(layer.weight))
            assert torch.equal(getattr(model, name).weight, layer.weight.half())
        dense.mid.weight.copy_(magnitude_24(dense.mid.weight.T).T)
        y, expected = model(IDS), dense(IDS)
    assert y.dtype == expected.dtype
    assert (y - expected).abs().max() <= 4e-3 * expected.abs().max()


def test_what_stays_dense_has_a_code_and_a_reason(model):
    rows = {row.name: row for row in st.sparsify_(model, "2:4", exclude=["mid"]).layers}
    assert list(rows) == ["up", "mid", "odd", "back", "head"]
    assert (rows["mid"].code, rows["mid"].op) == ("excluded", "Conv1D")
    assert rows["back"].code == "reduction_not_multiple"
    assert "not a multiple of 4" in rows["back"].reason
    assert rows["head"].code == "shared"
    assert "Embedding" in rows["head"].reason
    assert type(model.mid) is Conv1D
    assert model.head.weight is model.embed.weight
    text = str(st.sparsify_(Model(), "2:4"))
    assert "3 of 5 linear layers are sparse" in text


def test_the_embedding_that_is_the_head_keeps_all_its_weights(model):
    before = model.embed.weight.clone()
    st.sparsify_(model, "2:4")
    assert torch.equal(model.embed.weight, before)


def test_two_layers_on_one_weight_share_the_packed_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 8)).eval()
    model[1].weight = model[0].weight
    report = st.sparsify_(model)
    assert model[0].weight_vals is model[1].weight_vals
    assert not torch.equal(model[0].bias, model[1].bias)
    assert report.stored_bytes == model[0].packed_bytes + model[2].packed_bytes


def test_a_module_in_two_places_is_replaced_in_both():
    layer = nn.Linear(32, 32)
    model = nn.ModuleDict({"a": layer, "b": layer, "c": nn.Sequential(layer)})
    st.sparsify_(model)
    assert model["a"] is model["b"] is model["c"][0]
    assert isinstance(model["a"], st.SparseLinear)


def test_a_layer_that_derives_from_linear_is_left_alone():
    attention = nn.MultiheadAttention(32, 4)  # its projection is read past its forward
    model = nn.ModuleDict({"attention": attention, "fc": nn.Linear(32, 32)})
    report = st.sparsify_(model)
    assert report.replaced == ["fc"]
    (row,) = [row for row in report.layers if row.name == "attention.out_proj"]
    assert "derives from Linear" in row.reason
    x = torch.randn(2, 3, 32)
    assert torch.isfinite(attention(x, x, x)[0]).all()


def test_the_fused_path_of_an_encoder_layer_does_not_pass_the_sparse_layers_by():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    st.sparsify_(model)
    calls = []
    for _, sparse in st.sparse_layers(model):
        sparse.register_forward_hook(lambda module, args, out: calls.append(module))
    with torch.no_grad():
        model(torch.randn(2, 5, 32))
    assert len(calls) == 4


def test_a_module_that_never_ran_is_refused_before_anything_is_replaced():
    lazy = nn.Sequential(nn.Linear(32, 32), nn.LazyLinear(8))
    with pytest.raises(UsageError, match=r"'1\.weight' has no shape yet: run the module once"):
        st.sparsify_(lazy)
    assert type(lazy[0]) is nn.Linear
    lazy(torch.randn(2, 32))
    assert st.sparsify_(lazy).replaced == ["0", "1"]


def test_layers_with_hooks_are_left_alone():
    layer = nn.Linear(32, 32)
    layer.register_forward_pre_hook(lambda module, args: None)
    report = st.sparsify_(nn.Sequential(layer, nn.Linear(32, 8)))
    assert report.replaced == ["1"]
    assert "hooks" in report.layers[0].reason


def test_weights_beyond_float16_stay_dense_unless_bfloat16_is_asked_for():
    def build():
        model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(64, 64))
        nn.init.constant_(model[0].weight, 1e6)
        return model

    assert st.sparsify_(build(), "2:4").replaced == ["1"]
    brain = build()
    assert st.sparsify_(brain, "2:4", values="bfloat16", include=["1"]).replaced == ["1"]
    assert brain[1].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_result_has_the_type_of_x(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32)).to(dtype)
    x = torch.randn(3, 64, dtype=dtype)
    masked = magnitude_24(model[0].weight.float()) if dtype == torch.float64 else None
    st.sparsify_(model)
    y = model(x)
    assert y.dtype == dtype
    assert model[0].values == {torch.float64: "float16"}.get(dtype, str(dtype)[6:])
    if masked is not None:
        exact = x @ masked.double().T + model[0].bias.double()
        assert (y - exact).abs().max() < 4e-3 * exact.abs().max()


def test_kept_zeros_are_not_pruned_again():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16))
    with torch.no_grad():
        model[0].weight.copy_(magnitude_24(model[0].weight))
        kept = model[0].weight.clone()
    report = st.sparsify_(model, "2:4", criterion=None)
    assert report.replaced == ["0"]
    assert torch.equal(model[0].weight.float(), kept)
    assert "not 2:4" in report.layers[1].reason


def test_wanda_sees_what_each_layer_reads():
    """Inputs of very different size change which weights go; only they can."""
    torch.manual_seed(0)
    scale = torch.tensor([1.0, 100.0, 1.0, 100.0]).repeat(16)
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 8)).eval()
    weight = model[0].weight.detach().clone()
    samples = [torch.randn(5, 64) * scale, torch.randn(9, 64) * scale]
    st.sparsify_(model, "2:4", criterion="wanda", calib=samples)
    norms = torch.cat(samples).square().mean(0).sqrt()
    expected = nm_mask((weight.abs() * norms).numpy(), 2, 4)
    assert np.array_equal(model[0].weight.numpy() != 0, expected)
    assert not np.array_equal(expected, nm_mask(weight.abs().numpy(), 2, 4))


def test_samples_may_be_mappings_tuples_or_go_through_a_call(model):
    for calib, call in (
        ([{"ids": IDS}], None),
        ([(IDS,)], None),
        ([{"batch": IDS}], lambda module, sample: module(sample["batch"])),
    ):
        mine = copy.deepcopy(model)
        report = st.sparsify_(mine, "2:4", criterion="wanda", calib=calib, call=call)
        assert report.replaced == ["up", "mid", "odd"]


def test_calibration_in_training_mode_is_refused(model):
    with pytest.raises(CalibrationError, match="evaluation mode"):
        st.sparsify_(model.train(), "2:4", criterion="wanda", calib=[IDS])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_passes_are_taken_as_on_the_command_line(model):
    report = st.sparsify_(model, passes=["nm24:exclude=odd"])
    assert report.replaced == ["up", "mid"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pattern": "2;4"}, PatternError, "no pattern"),
        ({"criterion": "magnitud"}, PassConfigError, "magnitude"),
        ({"criterion": "wanda"}, PassConfigError, "calib"),
        ({"values": "int3"}, UsageError, "values"),
        ({"format": "csr"}, UsageError, "format"),
    ],
)
def test_mistakes_leave_the_module_as_it_was(model, arguments, error, message):
    before = str(model)
    with pytest.raises(error, match=message):
        st.sparsify_(model, **arguments)
    assert str(model) == before


def test_a_single_linear_is_refused_with_the_way_out():
    with pytest.raises(UsageError, match=r"nn\.Sequential"):
        st.sparsify_(nn.Linear(8, 8))


def test_half_and_to_leave_the_packed_weights_and_the_bias_as_they_are(model):
    st.sparsify_(model)
    bias = model.up.bias.clone()
    model.half()
    assert model.up.weight_vals.dtype == torch.int32
    assert torch.equal(model.up.bias, bias)
    assert model(IDS).dtype == torch.float16


def test_autocast_decides_the_type_of_the_result(model):
    st.sparsify_(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.up(torch.randn(2, 64)).dtype == torch.bfloat16


def test_gradients_reach_x_and_no_further(model):
    st.sparsify_(model)
    x = torch.randn(2, 64, requires_grad=True)
    model.up(x).sum().backward()
    expected = model.up.weight.float().sum(0).expand(2, 64)
    torch.testing.assert_close(x.grad, expected, rtol=2e-3, atol=2e-3)
    assert not list(model.up.parameters())


def test_x_of_another_width_is_refused(model):
    st.sparsify_(model)
    with pytest.raises(ShapeError, match="64"):
        model.up(torch.randn(2, 63))


def test_the_report_is_json(model):
    import json

    data = json.loads(json.dumps(st.sparsify_(model).to_json()))
    assert data["stored_bytes"] < data["dense_bytes"]
    assert data["layers"][0]["kernel"] == "nm24"


@pytest.mark.parametrize(
    ("pattern", "options", "format"),
    [
        ("unstructured", {"sparsity": 0.7}, "bm32"),
        ("block:8x1", {"sparsity": 0.7}, "block8x1"),
        ("block:4x1", {"sparsity": 0.7}, "bm32"),
        ("1:4", {}, "nm1_4"),
        ("8:16", {}, "nm8_16"),
        ("2:4", {"values": "int8"}, "nm2_4"),
        ("2:4", {"values": "float8_e4m3fn"}, "nm2_4"),
        ("unstructured", {"sparsity": 0.7, "values": "float8_e4m3fn"}, "bm32"),
    ],
)
def test_every_pattern_finds_a_format(pattern, options, format):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 64)).eval()
    weight, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    report = st.sparsify_(model, pattern, **options)
    (row,) = report.layers
    assert (row.kernel, row.pattern) == (format, pattern)
    assert report.stored_bytes < report.dense_bytes / 2
    kept = model[0].weight.float() != 0
    assert abs(float((~kept).float().mean()) - row.sparsity) < 0.02  # 8 bits round some to zero
    x = torch.randn(3, 256)
    y, exact = model(x), x @ (weight * kept).T + bias
    coarse = 0.1 if "values" in options else 4e-3
    assert (y - exact).abs().max() <= coarse * exact.abs().max()


@pytest.mark.parametrize(
    ("format", "pattern", "options"),
    [("nm24_sp", "2:4", {}), ("nm14_sp", "1:4", {}), ("lps", "unstructured", {"sparsity": 0.7})],
)
def test_formats_of_the_fastest_kernels_are_named(format, pattern, options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 64)).eval()
    other = copy.deepcopy(model)
    assert st.sparsify_(model, pattern, format=format, **options).layers[0].kernel == format
    st.sparsify_(other, pattern, **options)
    assert torch.equal(model[0].weight, other[0].weight)
    x = torch.randn(2, 128)
    assert torch.equal(model(x), other(x))


def test_a_named_format_that_does_not_fit_leaves_the_layer_dense():
    model = nn.Sequential(nn.Linear(64, 64))
    (row,) = st.sparsify_(model, "2:4", format="block8x1").layers
    assert (row.kernel, row.code) == ("dense", "no_kernel")
    assert "block8x1 holds block:8x1" in row.reason
