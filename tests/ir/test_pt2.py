"""Archives of exported programs that are damaged, hostile or something else."""

from __future__ import annotations

import pickle

import pytest

torch = pytest.importorskip("torch")

from sparsec.ir.errors import ModelImportError  # noqa: E402
from sparsec.ir.load import load_model  # noqa: E402
from tests.corpus.programs import (  # noqa: E402
    EDITS,
    MARK,
    Payload,
    hostile_torch_save,
    read,
    write,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x):
        return self.fc(x) + self.shift


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return a sound archive with a dynamic dimension."""
    path = tmp_path_factory.mktemp("pt2") / "sound.pt2"
    inputs = (torch.zeros(2, 4),)
    shapes = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(Small().eval(), inputs, dynamic_shapes=shapes), path)
    return path


def test_a_rewritten_sound_archive_loads(sound, tmp_path):
    write(tmp_path / "again.pt2", read(sound))
    model = load_model(tmp_path / "again.pt2")
    assert [str(dim) for dim in model.graph.inputs[0].shape] == ["x_0", "4"]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_a_hostile_or_damaged_archive_is_refused_and_runs_nothing(edit, sound, tmp_path, capfd):
    records = read(sound)
    mark = tmp_path / MARK
    edit.apply(records, mark)
    path = tmp_path / "bad.pt2"
    write(path, records)
    with pytest.raises(ModelImportError) as caught:
        load_model(path)
    assert not mark.exists()
    assert caught.value.message.startswith(str(path))
    for word in edit.words:
        assert word in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_the_payloads_would_run_if_they_were_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / MARK)))
    assert (tmp_path / MARK).exists()


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"", "archive"), (b"PK\x03\x04", "archive"), (b"nonsense" * 99, "archive")],
)
def test_garbage(data, word, tmp_path):
    (tmp_path / "m.pt2").write_bytes(data)
    with pytest.raises(ModelImportError, match=word):
        load_model(tmp_path / "m.pt2")


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelImportError, match="no such file"):
        load_model(tmp_path / "m.pt2")


def test_truncated_anywhere(sound, tmp_path):
    data = sound.read_bytes()
    for length in range(0, len(data), 997):
        (tmp_path / "m.pt2").write_bytes(data[:length])
        with pytest.raises(ModelImportError):
            load_model(tmp_path / "m.pt2")


def test_a_pickle_that_calls_itself_pt2(tmp_path):
    (tmp_path / "m.pt2").write_bytes(hostile_torch_save(tmp_path / MARK))
    with pytest.raises(ModelImportError, match=r"torch\.save"):
        load_model(tmp_path / "m.pt2")
    assert not (tmp_path / MARK).exists()


def test_a_torchscript_archive(tmp_path):
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(Small()), tmp_path / "m.pt2")
    with pytest.raises(ModelImportError, match="TorchScript"):
        load_model(tmp_path / "m.pt2")
