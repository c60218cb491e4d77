"""What users of torch modules do with layers: masks, ties, hooks, frozen weights, losses of any scale."""

import copy

import pytest
import torch
from torch import nn

import sparsec.torch as st
from sparsec.ir.errors import ArtifactError, UsageError

BATCH = {0: torch.export.Dim("batch")}


def encoder() -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return nn.TransformerEncoder(layer, 2).eval()


@pytest.mark.parametrize("include", [(), ("layers.1",)])
def test_an_encoder_takes_a_padding_mask_in_inference(include: tuple[str, ...]) -> None:
    """Torch hands a fused encoder nested tensors, which no sparse layer takes."""
    module = encoder()
    masked = copy.deepcopy(module)
    st.sparsify_(module, include=include)
    for name, layer in module.named_modules():
        if isinstance(layer, st.SparseLinear):
            masked.get_submodule(name).weight.data = layer.weight.float()
    x = torch.randn(2, 8, 64)
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[1, 5:] = True
    with torch.no_grad():
        got = module(x, src_key_padding_mask=mask)
    want = masked(x, src_key_padding_mask=mask).detach()
    torch.testing.assert_close(got[~mask], want[~mask], rtol=5e-3, atol=5e-3)


def test_calibration_with_a_padding_mask() -> None:
    x, mask = torch.randn(2, 8, 64), torch.zeros(2, 8, dtype=torch.bool)
    mask[1, 5:] = True
    module = encoder()
    assert module.use_nested_tensor
    sample = {"src": x, "src_key_padding_mask": mask}
    report = st.sparsify_(module, criterion="wanda", calib=[sample], include=["linear1"])
    assert len(report.replaced) == 2


class Conv1D(nn.Module):
    """As GPT-2 of Hugging Face has it: a Linear whose weight is stored [in, out]."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def test_a_weight_that_two_layers_read_in_two_ways_stays_dense() -> None:
    module = nn.ModuleList([nn.Linear(64, 64, bias=False), Conv1D(64, 64), nn.Linear(64, 64)])
    module[1].weight = module[0].weight
    report = st.sparsify_(module)
    assert report.replaced == ["2"]
    assert all("transposed" in row.reason for row in report.layers[:2])
    x = torch.randn(3, 64)
    torch.testing.assert_close(module[1](x), x @ module[0].weight)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.fc = nn.Linear(64, 64)
        self.head = nn.Linear(64, 100, bias=False)
        self.head.weight = self.embed.weight


def test_loading_keeps_weights_tied(tmp_path) -> None:
    module = Tied()
    st.sparsify_(module)
    st.save(module, tmp_path / "t.safetensors")
    loaded = st.load(tmp_path / "t.safetensors", Tied())
    assert loaded.head.weight is loaded.embed.weight
    torch.testing.assert_close(loaded.embed.weight, module.embed.weight)
    assert sum(p.numel() for p in loaded.parameters()) == 6400


@pytest.mark.parametrize("bias", [True, False])
def test_a_bias_that_only_one_side_has_is_refused(tmp_path, bias: bool) -> None:
    module = nn.Sequential(nn.Linear(64, 64, bias=bias))
    st.sparsify_(module)
    st.save(module, tmp_path / "b.safetensors")
    other = nn.Sequential(nn.Linear(64, 64, bias=not bias))
    with pytest.raises(ArtifactError, match="bias"):
        st.load(tmp_path / "b.safetensors", other)
    assert type(other[0]) is nn.Linear


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_a_loss_of_any_scale(scale: float, dtype: torch.dtype) -> None:
    """They are not rounded to the type that x is multiplied in."""
    module = nn.Sequential(nn.Linear(64, 64))
    st.sparsify_(module)
    x = torch.randn(4, 64, dtype=dtype, requires_grad=True)
    (module(x) * scale).sum().backward()
    want = scale * module[0].weight.float().sum(0).expand(4, 64)
    assert x.grad is not None
    torch.testing.assert_close(x.grad.float(), want, rtol=1e-4, atol=1e-6 * scale)


def test_options_that_are_one_text_are_not_taken_for_letters() -> None:
    module = nn.Sequential(nn.Linear(64, 64))
    for options in ({"exclude": "0"}, {"include": "0"}, {"passes": "nm24"}):
        with pytest.raises(UsageError, match="needed a list"):
            st.sparsify_(module, **options)
    with pytest.raises(UsageError, match="needed a list"):
        st.prune(module, (torch.randn(2, 64),), "channel:sparsity=0.5")


def test_calibration_data_that_are_none() -> None:
    module = nn.Sequential(nn.Linear(64, 64)).eval()
    for calib in ([], {"x": torch.ones(2, 64)}, torch.ones(2, 64)):
        with pytest.raises(UsageError, match="calib: needed"):
            st.sparsify_(module, criterion="wanda", calib=calib)
    samples = (torch.randn(8, 64) for _ in range(2))
    assert st.sparsify_(module, criterion="wanda", calib=samples).replaced == ["0"]


def test_zeros_that_are_there_are_kept_where_asked_for() -> None:
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    for layer in module:
        layer.weight.data.reshape(-1, 4)[:, 2:] = 0
    report = st.sparsify_(module, "2:4", criterion=None, exclude=["1"])
    assert report.replaced == ["0"]
    assert "exclude pattern" in report.layers[1].reason


def test_layers_that_something_hangs_on_stay() -> None:
    module = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))
    plain = module[0].forward
    module[0].forward = lambda x: plain(x) * 0 + 7
    module[1].register_full_backward_hook(lambda *_: None)
    assert st.sparsify_(module).replaced == ["2"]
    assert (module[0](torch.ones(1, 64)) == 7).all()


def test_the_input_by_its_name_and_of_no_float_type() -> None:
    module = nn.Sequential(nn.Linear(64, 64))
    x = torch.randn(2, 64)
    st.sparsify_(module)
    torch.testing.assert_close(module[0](input=x), module[0](x))
    with pytest.raises(UsageError, match="float type"):
        module(torch.ones(2, 64, dtype=torch.long))


def test_what_trains_after_pruning_is_what_trained_before() -> None:
    """No constant of forward, no buffer, and nothing that was frozen."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 4)
            self.first.weight.requires_grad_(False)
            self.register_buffer("shift", torch.full((64,), 0.1), persistent=False)
            self.norm = nn.GroupNorm(4, 64, affine=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.first(x)) + self.shift
            return self.last(self.norm(y) * torch.tensor([0.3]))

    net = Net().eval()
    small = st.prune(net, (torch.randn(2, 64),), ["channel:sparsity=0.5"], dynamic_shapes=(BATCH,))
    trained = {name: p.requires_grad for name, p in small.named_parameters()}
    assert trained == {name: p.requires_grad for name, p in net.named_parameters()}


def test_a_batch_norm_that_takes_the_mean_of_all_batches_learns_on() -> None:
    layers = [
        nn.Conv2d(3, 32, 3),
        nn.BatchNorm2d(32, momentum=None),
        nn.ReLU(),
        nn.Conv2d(32, 4, 1),
    ]
    module, x = nn.Sequential(*layers), torch.randn(8, 3, 8, 8)
    module.train()(x)
    module.eval()
    small = st.prune(module, (x,), ["channel:sparsity=0.5"], dynamic_shapes=(BATCH,))
    before = small.get_buffer("1.running_mean").clone()
    small.train()(x + 1)
    assert not torch.equal(before, small.get_buffer("1.running_mean"))
