import json
import struct

import pytest

torch = pytest.importorskip("torch", reason="sparsec.torch needs torch")
pytest.importorskip("safetensors", reason="save and load need safetensors")
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

import sparsec.torch as st  # noqa: E402
from sparsec.ir.errors import ArtifactError, UsageError  # noqa: E402


class Net(nn.Module):
    def __init__(self, width=64, tied=True):
        super().__init__()
        self.embed = nn.Embedding(40, 64)
        self.body = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 64))
        self.norm = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, 40, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.norm(self.body(self.embed(ids))))


IDS = torch.arange(12)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = Net().eval()
    st.sparsify_(model, "2:4", dispatch=st.Dispatch(100, source="measured"))
    path = tmp_path / "net.safetensors"
    st.save(model, path)
    return path, model(IDS)


def rewritten(path, change=None, tensors=None):
    """Write the file again with its description or its tensors changed."""
    with safe_open(path, framework="pt") as content:
        about = json.loads(content.metadata()["sparsec"])
    held = load_file(path)
    if change:
        change(about)
    if tensors:
        tensors(held)
    save_file(held, path, metadata={"sparsec": json.dumps(about)})


def test_a_module_comes_back_to_the_bit(saved):
    path, y = saved
    other = Net().eval()
    assert st.load(path, other) is other
    assert torch.equal(other(IDS), y)
    layers = dict(st.sparse_layers(other))
    assert list(layers) == ["body.0", "body.2"]
    assert layers["body.0"].dispatch == st.Dispatch(100, source="measured")


def test_a_module_on_the_meta_device_is_enough(saved):
    path, y = saved
    with torch.device("meta"):
        skeleton = Net()
    assert torch.equal(st.load(path, skeleton.eval())(IDS), y)


def test_a_shared_weight_is_stored_once_and_shared_again(saved):
    path, _ = saved
    assert "head.weight" not in load_file(path)
    model = st.load(path, Net().eval())
    assert model.head.weight.data_ptr() == model.embed.weight.data_ptr()


def test_sparse_layers_that_share_come_back_sharing(tmp_path):
    torch.manual_seed(0)

    def build():
        model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)).eval()
        model[1].weight = model[0].weight
        return model

    model = build()
    st.sparsify_(model)
    st.save(model, tmp_path / "x.safetensors")
    other = st.load(tmp_path / "x.safetensors", build())
    assert other[0].weight_vals.data_ptr() == other[1].weight_vals.data_ptr()
    x = torch.randn(2, 32)
    assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("values", ["bfloat16", "float16"])
def test_value_types_come_back(tmp_path, values):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16)).eval()
    st.sparsify_(model, values=values)
    st.save(model, tmp_path / "x.safetensors")
    other = st.load(tmp_path / "x.safetensors", nn.Sequential(nn.Linear(32, 16)).eval())
    assert other[0].values == values
    assert torch.equal(other[0].weight, model[0].weight)


def test_a_dense_module_is_not_saved_here(tmp_path):
    with pytest.raises(UsageError, match="sparsify_"):
        st.save(nn.Sequential(nn.Linear(8, 8)), tmp_path / "x.safetensors")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    model = nn.Sequential(nn.Linear(32, 16))
    st.sparsify_(model)
    with pytest.raises(ArtifactError, match="cannot be written"):
        st.save(model, tmp_path / "absent" / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_another_architecture_is_refused_and_left_alone(saved):
    path, _ = saved
    for other, message in (
        (Net(width=96), r"\[64, 64\].*\[96, 64\]"),
        (nn.Sequential(nn.Linear(64, 64)), "no linear layer of that name"),
    ):
        before = str(other)
        with pytest.raises(ArtifactError, match=message):
            st.load(path, other)
        assert str(other) == before


def poison(about):
    about["layers"]["body.0"]["format"] = "../nm24"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poison, "not of the known form"),
        (lambda a: a["layers"]["body.0"].pop("shape"), "incomplete"),
        (lambda a: a["layers"]["body.0"].update(shape=[64]), "incomplete"),
        (lambda a: a["layers"]["body.0"].update(values="float64"), "not of the known form"),
        (lambda a: a["layers"]["body.0"]["dispatch"].update(dense_from=-1), "incomplete"),
        (lambda a: a["layers"]["body.0"]["dispatch"].update(code="x"), "incomplete"),
        (lambda a: a["layers"].update(absent=a["layers"]["body.0"]), "no linear layer"),
        (lambda a: a["layers"].pop("body.0"), "not of this module"),
        (lambda a: a.update(version=99), "newer"),
        (lambda a: a.update(version="1"), "no version"),
        (lambda a: a.update(shared={"head.weight": "nothing"}), "not there"),
        (lambda a: a.update(layers=[]), "no layers"),
    ],
)
def test_an_altered_description_is_an_error_that_says_so(saved, change, message):
    path, _ = saved
    rewritten(path, change)
    model = Net()
    before = str(model)
    with pytest.raises(ArtifactError, match=message):
        st.load(path, model)
    assert str(model) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["body.0.weight_meta"].fill_(-1), "two bits"),
        (
            lambda t: t.update({"body.0.weight_meta": t["body.0.weight_meta"][:, :1].contiguous()}),
            "meta",
        ),
        (
            lambda t: t.update({"body.0.weight_vals": t["body.0.weight_vals"].to(torch.int64)}),
            "vals",
        ),
        (lambda t: t.pop("body.0.weight_vals"), "missing"),
        (lambda t: t.update({"body.0.bias": t["body.0.bias"].half()}), "bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "not expected"),
        (lambda t: t.pop("norm.weight"), "missing"),
        (lambda t: t.update({"norm.weight": torch.zeros(3)}), "norm.weight"),
    ],
)
def test_altered_tensors_are_an_error_that_names_them(saved, change, message):
    path, _ = saved
    rewritten(path, tensors=change)
    model = Net()
    before = str(model)
    with pytest.raises(ArtifactError, match=message):
        st.load(path, model)
    assert str(model) == before


def test_truncated_and_foreign_files_are_errors(saved, tmp_path):
    path, _ = saved
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match="not readable"):
        st.load(path, Net())
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ArtifactError, match="not readable"):
        st.load(path, Net())
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ArtifactError, match="no sparse layers"):
        st.load(path, Net())
    with pytest.raises(ArtifactError, match="no such file"):
        st.load(tmp_path / "absent.safetensors", Net())
