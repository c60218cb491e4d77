import json

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
import torch

from sparsec.ir.errors import ModelImportError, ShapeError
from sparsec.ir.fx import FxExecutor, load_torch_state_dict, state_dict_to_torch, to_fx

PROVENANCE = {
    "w1": {"name": "body.0.weight", "transform": [["transpose", [1, 0]]]},
    "b1": {"name": "body.0.bias", "transform": []},
    "w2": {
        "name": "body.2.weight",
        "transform": ["reshape:3,6", "transpose:1,0"],
        "shape": [3, 6, 1],
    },
    "table": {"name": "positions", "transform": [], "kind": "buffer"},
}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Conv1d(6, 3, 1, bias=False)
        )
        self.register_buffer("positions", torch.arange(6.0))

    def forward(self, x):
        h = self.body[1](self.body[0](x) + self.positions)
        return self.body[2](h[..., None])[..., 0]


@pytest.fixture
def net():
    torch.manual_seed(7)
    return Net().eval()


@pytest.fixture
def model(net):
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 4] x) => (float[N, 3] y)
        <float[4, 6] w1, float[6] b1, float[6, 3] w2, float[6] table> {
            a = MatMul (x, w1)
            b = Add (a, b1)
            c = Add (b, table)
            h = Tanh (c)
            y = MatMul (h, w2)
        }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    arrays = {
        "w1": net.body[0].weight.T,
        "b1": net.body[0].bias,
        "w2": net.body[2].weight[:, :, 0].T,
        "table": net.positions,
    }
    for name, array in arrays.items():
        value = next(v for v in model.graph.all_nodes() for v in v.inputs if v.name == name)
        value.const_value = ir.tensor(array.detach().numpy().copy(), name=name)
        model.graph.initializers[name] = value
        value.metadata_props["sparsec.param"] = json.dumps(PROVENANCE[name])
    return model


def test_parameters_go_by_their_torch_names(model, net):
    gm = to_fx(model)
    assert dict(gm.named_parameters()).keys() == dict(net.named_parameters()).keys()
    assert dict(gm.named_buffers()).keys() == {"positions"}
    assert set(FxExecutor(gm).parameters()) == {"w1", "b1", "w2"}
    x = torch.randn(5, 4)
    torch.testing.assert_close(gm(x), net(x))


def test_a_state_dict_moves_both_ways(model, net):
    gm = to_fx(model)
    state = state_dict_to_torch(gm)
    assert state.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
    torch.manual_seed(8)
    other = Net().eval()
    assert load_torch_state_dict(gm, other.state_dict()) == []
    x = torch.randn(5, 4)
    torch.testing.assert_close(gm(x), other(x))
    net.load_state_dict(state_dict_to_torch(gm))
    torch.testing.assert_close(net(x), other(x))


def test_training_the_graph_trains_the_module(model, net):
    gm = to_fx(model)
    optimiser = torch.optim.SGD(gm.parameters(), lr=0.1)
    x = torch.randn(16, 4)
    loss = gm(x).square().mean()
    loss.backward()
    optimiser.step()
    net.load_state_dict(state_dict_to_torch(gm))
    torch.testing.assert_close(net(x), gm(x))
    assert net(x).square().mean() < loss


def test_a_state_dict_of_another_shape_loads_nothing(model, net):
    gm = to_fx(model)
    before = {n: p.clone() for n, p in gm.state_dict().items()}
    state = {
        **net.state_dict(),
        "body.0.bias": torch.zeros(6),
        "body.2.weight": torch.zeros(3, 5, 1),
    }
    with pytest.raises(ShapeError, match=r"body\.2\.weight.*\(6, 3\).*\(3, 5, 1\)"):
        load_torch_state_dict(gm, state)
    for name, tensor in gm.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_missing_names_are_returned(model, net):
    state = net.state_dict()
    del state["body.0.bias"]
    assert load_torch_state_dict(to_fx(model), state) == ["body.0.bias"]


def test_a_reshape_without_the_torch_shape_cannot_be_undone(model):
    fields = {k: v for k, v in PROVENANCE["w2"].items() if k != "shape"}
    model.graph.initializers["w2"].metadata_props["sparsec.param"] = json.dumps(fields)
    with pytest.raises(ShapeError, match="lack the torch shape"):
        state_dict_to_torch(to_fx(model))


@pytest.mark.parametrize(
    "text", ["{", '{"transform": []}', "[1]", '{"name": "w", "transform": ["a:1"]}']
)
def test_damaged_metadata_are_named(model, text):
    model.graph.initializers["w1"].metadata_props["sparsec.param"] = text
    with pytest.raises(ModelImportError, match=r"sparsec\.param"):
        to_fx(model)


def test_a_weight_edited_in_the_graph_is_the_one_that_runs(model):
    value = model.graph.initializers["w1"]
    value.const_value = ir.tensor(np.zeros((4, 6), np.float32), name="w1")
    assert not state_dict_to_torch(to_fx(model))["body.0.weight"].any()
