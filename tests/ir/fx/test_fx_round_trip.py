"""Module -> graph -> FX -> graph: the same numbers, the same names, and a fixed point."""

from collections import Counter

import pytest
import torch
from torch.export import Dim

from examples.zoo import nets
from sparsec.ir.fx import FxExecutor, load_torch_state_dict, state_dict_to_torch, to_fx
from sparsec.ir.fx.params import Provenance
from sparsec.ir.load import load_model


class Small(torch.nn.Module):
    """A little of everything that exports quickly."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.table = torch.nn.Embedding(5, 8)
        self.head = torch.nn.Linear(8, 8)

    def forward(self, x, ids):
        h = torch.nn.functional.silu(self.norm(self.stem(x)))
        h = torch.nn.functional.max_pool2d(h, 3, 2, ceil_mode=True)
        h = torch.nn.functional.interpolate(h, scale_factor=2.0, mode="bilinear")
        keys = self.table(ids)
        rows = h.flatten(2).mT
        mixed = torch.softmax(rows @ keys.mT, -1) @ keys
        return self.head(mixed).mean(1), torch.topk(mixed, 2)[0]


def small():
    torch.manual_seed(3)
    module = Small().eval()
    args = (torch.randn(2, 3, 16, 16), torch.tensor([[0, 4, 2], [1, 1, 3]]))
    return module, args, ({0: Dim("batch", max=64)}, {0: Dim("batch", max=64)})


def from_zoo(name):
    built = nets.build(name, seed=1)
    return built.module, tuple(built.args.values()), tuple(built.dynamic_shapes.values())


CASES = {"small": small}
CASES |= {name: lambda name=name: from_zoo(name) for name in nets.NETS}
#: The gates of torch's LSTM are put in ONNX's order and back by slices of the weights, each time.
GROWS = {"lstm"}


def outputs(module, args):
    with torch.no_grad():
        result = module(*args)
    return result if isinstance(result, tuple) else (result,)


def assert_same(got, want):
    for g, w in zip(got, want, strict=True):
        assert float((g - w).abs().max()) <= 1e-5 * max(1.0, float(w.abs().max()))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "small" else pytest.mark.slow) for n in CASES]
)
def test_round_trip(name):
    module, args, dynamic = CASES[name]()
    first = load_model(module, example_inputs=args, dynamic_shapes=dynamic)
    once = to_fx(first)
    assert_same(outputs(once, args), outputs(module, args))

    state = state_dict_to_torch(once)
    assert state.keys() == {k for k in module.state_dict() if "num_batches_tracked" not in k}
    assert dict(module.named_parameters()).keys() <= dict(once.named_parameters()).keys()
    for key, tensor in state.items():
        torch.testing.assert_close(tensor, module.state_dict()[key], rtol=0, atol=0)
    shifted = {k: v * 1.01 for k, v in state.items()}
    assert load_torch_state_dict(once, shifted) == []
    module.load_state_dict(shifted, strict=False)
    larger = tuple(torch.cat([a, a[:1]]) for a in args)
    assert_same(outputs(once, larger), outputs(module, larger))

    second = load_model(once, example_inputs=args, dynamic_shapes=dynamic)
    twice = to_fx(second)
    assert_same(outputs(twice, larger), outputs(module, larger))
    third = load_model(twice, example_inputs=args, dynamic_shapes=dynamic)
    assert_same(outputs(to_fx(third), larger), outputs(module, larger))
    assert dict(module.named_parameters()).keys() <= dict(twice.named_parameters()).keys()
    if name not in GROWS:
        assert operators(second) == operators(third)


def operators(model):
    return Counter(node.op_type for node in model.graph)


@pytest.mark.slow
@pytest.mark.parametrize("name", nets.NETS)
def test_gradients_of_standard_networks(name, rng):
    module, args, dynamic = from_zoo(name)
    model = load_model(module, example_inputs=args, dynamic_shapes=dynamic)
    executor = FxExecutor(model, dtype=torch.float64)
    feeds = dict(zip(executor.inputs, (a.numpy() for a in args), strict=True))
    target = executor.outputs[0]

    def loss(values):
        return values[target].square().mean()

    got = executor.gradients(feeds, loss)
    named = executor.parameters()

    # along one random direction in all parameters together
    step = 1e-7
    direction = {n: rng.standard_normal(tuple(p.shape)) for n, p in named.items()}
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            for n, p in named.items():
                p.add_(torch.from_numpy(direction[n]), alpha=sign * step)
            losses.append((executor.run(feeds, values=[target])[target] ** 2).mean())
            for n, p in named.items():
                p.sub_(torch.from_numpy(direction[n]), alpha=sign * step)
    slope = sum(float((got.parameters[n] * d).sum()) for n, d in direction.items())
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(slope, rel=1e-4)

    # and each parameter against the module that the graph came from
    module = module.double()
    wide = tuple(a.double() if a.is_floating_point() else a for a in args)
    result = module(*wide)
    (result[0] if isinstance(result, tuple) else result).square().mean().backward()
    for n, p in module.named_parameters():
        want = p.grad.numpy()
        gradient = provenance(model, n).to_torch(torch.from_numpy(got.parameters[n])).numpy()
        assert abs(gradient - want).max() <= 1e-4 * max(abs(want).max(), 1e-6), n


def provenance(model, name):
    return Provenance.of(model.graph.initializers[name])
