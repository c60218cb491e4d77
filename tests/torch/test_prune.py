"""A torch module, pruned: names, shapes, training, and export again."""

from __future__ import annotations

import copy
import functools

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.export import Dim

from sparsec.ir.errors import PassConfigError
from sparsec.ir.fx import state_dict_to_torch
from sparsec.ir.groups import find_groups, prepare
from sparsec.ir.load import load_model
from sparsec.ir.run import OrtRunner
from sparsec.torch import prune
from sparsec.torch.batch_norm import BatchNorm


class Small(nn.Module):
    """Convolutions with a residual, a depthwise one, a shuffle, attention and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.wide = nn.Conv2d(16, 32, 1)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.back = nn.Conv2d(32, 16, 1)
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        h = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(self.deep(self.wide(h)))
        y = y.view(y.shape[0], 2, 16, 8, 8).transpose(1, 2).reshape(y.shape[0], 32, 8, 8)
        h = h + self.back(y)
        rows = h.flatten(2).mT
        q, k, v = self.qkv(rows).view(-1, 64, 3, 4, 4).permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(q @ k.mT / 2, -1) @ v
        return self.head(self.proj(mixed.transpose(1, 2).flatten(2)).mean(1))


BATCH = ({0: Dim("batch", max=64)},)
PASSES = ["heads:sparsity=0.5", "channel:sparsity=0.5,round=4"]


def small() -> tuple[nn.Module, tuple[torch.Tensor]]:
    torch.manual_seed(0)
    module = Small().eval()
    with torch.no_grad():
        module.norm.running_mean.normal_()
        module.norm.running_var.uniform_(0.5, 2)
    return module, (torch.randn(2, 3, 16, 16),)


@functools.cache
def pruned_once() -> torch.fx.GraphModule:
    module, args = small()
    return prune(module, args, PASSES, dynamic_shapes=BATCH)


def pruned() -> torch.fx.GraphModule:
    return copy.deepcopy(pruned_once())


def test_it_is_the_pruned_graph_under_the_names_of_the_module():
    module, _ = small()
    smaller = pruned()
    dense, shapes = dict(module.named_parameters()), dict(smaller.named_parameters())
    assert shapes.keys() == dense.keys()
    assert shapes["wide.weight"].shape == (16, 8, 1, 1)
    assert shapes["deep.weight"].shape == (16, 1, 3, 3)
    assert shapes["head.weight"].shape == (5, 8) or shapes["head.weight"].shape == (5, 16)
    assert [step["notes"]["groups"] for step in smaller.meta["sparsec.steps"]] == [1, 3]
    # Torch's layout comes back from the graph's, though that holds it transposed.
    state = state_dict_to_torch(smaller)
    assert state["qkv.weight"].shape == (24, shapes["wide.weight"].shape[1])
    assert smaller(torch.randn(5, 3, 16, 16)).shape == (5, 5)


def test_what_stays_are_rows_of_the_source():
    module, args = small()
    smaller = prune(module, args, ["channel:sparsity=0.5"], dynamic_shapes=BATCH)
    kept = smaller.get_parameter("norm.weight").shape[0]
    stem = smaller.get_parameter("stem.weight").detach()
    source = module.stem.weight.detach()
    rows = [next(i for i, row in enumerate(source) if torch.equal(row, one)) for one in stem]
    assert len(set(rows)) == kept
    assert torch.equal(smaller.get_buffer("norm.running_mean"), module.norm.running_mean[rows])


def test_batch_norm_learns_and_can_be_folded():
    smaller = pruned()
    layer = smaller.get_submodule("norm")
    assert isinstance(layer, BatchNorm)
    mean = layer.running_mean.clone()
    smaller(torch.randn(4, 3, 16, 16))
    assert torch.equal(layer.running_mean, mean)
    smaller.train()
    smaller(torch.randn(4, 3, 16, 16))
    assert not torch.equal(layer.running_mean, mean)
    state = state_dict_to_torch(smaller)
    assert torch.equal(state["norm.running_mean"], layer.running_mean)


def test_it_trains():
    smaller = pruned()
    smaller.train()
    optimiser = torch.optim.Adam(smaller.parameters(), 1e-2)
    x, y = torch.randn(32, 3, 16, 16), torch.arange(32) % 5
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(smaller(x), y)
        loss.backward()
        assert all(p.grad is not None for p in smaller.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def shapes_of(model: ir.Model) -> dict[str, tuple[int, ...]]:
    return {
        k: tuple(v.shape.numpy()) for k, v in model.graph.initializers.items() if len(v.shape) > 1
    }


def test_exported_again_it_is_the_same_graph_and_shrinks_on():
    _, args = small()
    smaller = pruned()
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    again = load_model(smaller, example_inputs=args, dynamic_shapes=BATCH)
    own = {name: tuple(value.shape) for name, value in smaller.named_parameters()}
    assert {k: v for k, v in shapes_of(again).items() if k in own} == {
        k: v for k, v in own.items() if len(v) > 1
    }
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        wanted = smaller(x).numpy()
    (got,) = OrtRunner(again).run({again.graph.inputs[0].name: x.numpy()}).values()
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()
    prepare(again)
    sizes = sorted(group.size for group in find_groups(again))
    assert sizes
    twice = prune(smaller, args, ["channel:sparsity=0.5,round=1"], dynamic_shapes=BATCH)
    assert twice.get_parameter("deep.weight").shape == (8, 1, 3, 3)
    assert twice(x).shape == (3, 5)


@pytest.mark.slow
def test_calibration_data_reach_the_criteria():
    module, args = small()
    feeds = [{"x": args[0].numpy()}]
    spec = ["channel:sparsity=0.5,criterion=saliency"]
    with_data = prune(module, args, spec, dynamic_shapes=BATCH, calib=feeds)
    assert with_data(args[0]).shape == (2, 5)
    with pytest.raises(PassConfigError, match="calibration"):
        prune(module, args, spec, dynamic_shapes=BATCH)


@pytest.mark.slow
def test_batch_norm_can_be_folded():
    module, args = small()
    folded = prune(module, args, PASSES, dynamic_shapes=BATCH, keep_batch_norm=False)
    assert not any(isinstance(part, BatchNorm) for part in folded.modules())
