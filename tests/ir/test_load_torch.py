"""torch modules and exported programs as models."""

from __future__ import annotations

import json
import resource
import sys

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from sparsec.ir.errors import ModelImportError  # noqa: E402
from sparsec.ir.load import load_model  # noqa: E402
from sparsec.ir.sites import weight_sites  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Tied(nn.Module):
    """A language model of three layers whose head is its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.inner = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids, mask):
        hidden = self.norm(torch.relu(self.inner(self.embed(input_ids)))) * mask[..., None]
        return {"logits": self.head(hidden), "hidden": hidden}


class Pictures(nn.Module):
    """Convolution, normalisation, padding, a limit and a flattening: what the exporter decorates."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8)
        )
        self.act = nn.ReLU6()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)

    def forward(self, picture):
        x = self.act(self.stem(picture)).mean((2, 3), keepdim=True)
        return self.fc(self.drop(torch.flatten(x, 1)))


def ops(model):
    return [node.op_type for node in model.graph]


def run(model, feeds):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, {name: np.asarray(array) for name, array in feeds.items()})


@pytest.fixture(scope="module")
def tied():
    torch.manual_seed(0)
    return Tied()


@pytest.fixture(scope="module")
def loaded(tied):
    batch, length = torch.export.Dim("b"), torch.export.Dim("t", max=64)
    inputs = torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5)
    shapes = {0: batch, 1: length}
    return load_model(tied, example_inputs=inputs, dynamic_shapes=(shapes, shapes))


def test_inputs_outputs_and_dimensions_have_stable_names(loaded):
    described = {v.name: [str(dim) for dim in v.shape] for v in loaded.graph.inputs}
    both = ["input_ids_0", "input_ids_1"]
    assert described == {"input_ids": both, "mask": both}
    described = {v.name: [str(dim) for dim in v.shape] for v in loaded.graph.outputs}
    assert described == {"logits": [*both, "20"], "hidden": [*both, "8"]}


def test_nodes_are_called_after_their_modules(loaded):
    names = [node.name for node in loaded.graph]
    assert "inner/MatMul" in names
    assert "norm/LayerNormalization" in names
    assert len(set(names)) == len(names)


def test_nothing_of_the_builders_machine_is_kept(loaded):
    text = ir.to_proto(loaded).SerializeToString()
    assert b".py" not in text
    assert b"stack_trace" not in text


def test_parameters_keep_their_names(tied, loaded):
    stored = {
        name: json.loads(value.metadata_props["sparsec.param"])
        for name, value in loaded.graph.initializers.items()
        if "sparsec.param" in value.metadata_props
    }
    assert set(stored) == {name for name, _ in tied.named_parameters()}
    for name, parameter in tied.named_parameters():
        assert stored[name]["name"] == name
        array = parameter.detach().numpy()
        for kind, argument in stored[name]["transform"]:
            array = array.transpose(argument) if kind == "transpose" else array.reshape(argument)
        np.testing.assert_array_equal(loaded.graph.initializers[name].const_value.numpy(), array)


def test_tied_parameters_are_one_tensor(loaded):
    embed = loaded.graph.initializers["embed.weight"]
    assert {node.op_type for node in embed.consumers()} == {"Gather", "Transpose"}
    assert "head.weight" not in loaded.graph.initializers


def test_other_sizes_than_the_example_run(tied, loaded):
    ids, mask = torch.randint(0, 20, (3, 7)), torch.rand(3, 7)
    got = run(loaded, {"input_ids": ids, "mask": mask})
    with torch.no_grad():
        wanted = tied.eval()(ids, mask)
    np.testing.assert_allclose(got[0], wanted["logits"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[1], wanted["hidden"], rtol=1e-5, atol=1e-5)


def test_the_module_is_left_as_it_was(capfd):
    module = Pictures()
    module.stem.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    model = load_model(module, example_inputs=(torch.zeros(1, 3, 9, 9),))
    assert module.training
    assert not module.stem.training
    assert module.fc.weight.requires_grad
    model.graph.initializers["fc.bias"].const_value = ir.tensor(np.ones(5, np.float32))
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert capfd.readouterr() == ("", "")


def test_the_exporters_decorations_are_gone_and_batch_norm_is_kept():
    model = load_model(Pictures(), example_inputs=(torch.zeros(1, 3, 9, 9),))
    assert ops(model) == ["Conv", "BatchNormalization", "Clip", "ReduceMean", "Reshape", "Gemm"]
    assert [site.name for site in weight_sites(model)] == ["stem.1/Conv", "fc/Gemm"]


def test_a_dynamic_batch_costs_no_nodes():
    batch = torch.export.Dim("n")
    model = load_model(
        Pictures(), example_inputs=(torch.zeros(2, 3, 9, 9),), dynamic_shapes=({0: batch},)
    )
    assert ops(model) == ["Conv", "BatchNormalization", "Clip", "ReduceMean", "Reshape", "Gemm"]
    assert run(model, {"picture": np.zeros((5, 3, 9, 9), np.float32)})[0].shape == (5, 5)


def test_outputs_that_are_inputs_parameters_or_the_same_twice():
    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x, output):
            doubled = x * 2
            return x, self.scale, doubled, (doubled, output + 1)

    model = load_model(Echo(), example_inputs=(torch.zeros(3), torch.zeros(3)))
    names = [value.name for value in model.graph.outputs]
    assert names == ["output_", "output_1", "output_2", "output_3", "output_4"]
    got = run(model, {"x": np.float32([1, 2, 3]), "output": np.float32([0, 0, 0])})
    np.testing.assert_array_equal(got, [[1, 2, 3], [1, 1, 1], [2, 4, 6], [2, 4, 6], [1, 1, 1]])


def test_split_and_chunk_need_no_sequences():
    class Gate(nn.Module):
        def forward(self, x):
            a, b = x.chunk(2, dim=-1)
            return torch.sigmoid(a) * b

    model = load_model(Gate(), example_inputs=(torch.zeros(2, 6),))
    assert ops(model) == ["Split", "Sigmoid", "Mul"]
    assert [value.name for value in model.graph.outputs] == ["output"]


def test_control_flow_on_data_is_one_clear_error(capfd):
    class Branch(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(ModelImportError, match=r"^Branch: torch\.export failed: .*torch\.cond"):
        load_model(Branch(), example_inputs=(torch.zeros(3),))
    assert capfd.readouterr() == ("", "")


def test_an_operator_without_translation_is_one_clear_error(capfd):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x).real

    with pytest.raises(ModelImportError, match=r"^Odd: .*eig.*\.onnx"):
        load_model(Odd(), example_inputs=(torch.eye(3),))
    assert capfd.readouterr() == ("", "")


def test_an_error_of_forward_itself_is_said():
    with pytest.raises(ModelImportError, match=r"Pictures: torch\.export failed"):
        load_model(Pictures(), example_inputs=(torch.zeros(1, 4, 9, 9),))


@pytest.mark.parametrize(
    ("batch", "minimum", "words"),
    [(4, 1, "height = Dim('height', min=3)"), (1, 3, "batch = 1. A size that is a number")],
    ids=["too small", "an example of 1"],
)
def test_sizes_that_a_module_does_not_take_are_said(batch: int, minimum: int, words: str) -> None:
    sizes = {
        0: torch.export.Dim("batch"),
        2: torch.export.Dim("height", min=minimum),
    }
    with pytest.raises(ModelImportError) as caught:
        load_model(
            torch.nn.Conv2d(3, 4, 3),
            example_inputs=(torch.zeros(batch, 3, 8, 8),),
            dynamic_shapes=(sizes,),
        )
    assert words in str(caught.value)
    assert "make forward exportable" not in str(caught.value)


def test_example_inputs_that_are_no_tuple():
    with pytest.raises(ModelImportError, match=r"got Tensor; write \(x,\)"):
        load_model(Pictures(), example_inputs=torch.zeros(1, 3, 9, 9))


def test_a_module_without_example_inputs():
    with pytest.raises(ModelImportError, match="example_inputs=") as caught:
        load_model(Pictures())
    assert caught.value.where == "Pictures"


def test_without_torch_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelImportError, match=r"pip install 'sparsec\[torch\]'"):
        load_model(tmp_path / "m.pt2")


def test_loading_twice_gives_the_same_bytes(tied):
    inputs = torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5)
    first, second = (ir.to_proto(load_model(tied, example_inputs=inputs)) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_a_saved_program_is_the_same_model(tied, tmp_path):
    inputs = torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5)
    torch.export.save(torch.export.export(tied.eval(), inputs), tmp_path / "m.pt2")
    from_file = ir.to_proto(load_model(tmp_path / "m.pt2"))
    from_module = ir.to_proto(load_model(tied, example_inputs=inputs))
    assert from_file.graph == from_module.graph


@pytest.mark.slow
def test_weights_of_3_gb_meet_no_limit_and_are_not_copied():
    class Big(nn.Module):
        def __init__(self):
            super().__init__()
            # One stored number each: the size is that of the description, not of this machine's memory.
            self.w = nn.ParameterList(
                nn.Parameter(torch.zeros(1).expand(20000, 20000)) for _ in range(2)
            )

        def forward(self, x):
            for w in self.w:
                x = torch.relu(nn.functional.linear(x, w))
            return x

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = load_model(Big(), example_inputs=(torch.zeros(1, 20000),))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
    assert sum(v.const_value.nbytes for v in model.graph.initializers.values()) > 3e9
