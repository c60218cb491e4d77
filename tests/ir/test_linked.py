"""Models in download caches: links into one store, and none to anywhere else."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from sparsec.artifact.digest import source_digest
from sparsec.ir.errors import ModelImportError
from sparsec.ir.load import load_model
from sparsec.ir.run import OrtRunner
from tests.corpus.models import model, node, tensor

REVISION = "snapshots/0123abc/onnx"
STORE = Path("../../../blobs")


def plain(folder: Path) -> Path:
    """A model of two layers whose data lies in a file beside it."""
    folder.mkdir()
    path = folder / "model.onnx"
    nodes = [node("MatMul", ["x", "w"], ["a"], "product"), node("Add", ["a", "b"], ["y"], "sum")]
    onnx.save(
        model(nodes, [tensor("w", 4, 4), tensor("b", 4)]),
        path,
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    return path


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """The same model as a cache of Hugging Face keeps it."""
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / REVISION
    snapshot.mkdir(parents=True)
    source = plain(tmp_path / "source")
    for name, key in (("model.onnx", "0f0f"), ("model.onnx_data", "a1a1")):
        (tmp_path / "blobs" / key).write_bytes((source.parent / name).read_bytes())
        (snapshot / name).symlink_to(STORE / key)
    return snapshot / "model.onnx"


def test_a_cached_model_is_the_one_that_was_put_there(cached: Path, tmp_path: Path) -> None:
    source = tmp_path / "source" / "model.onnx"
    found, expected = load_model(cached), load_model(source)
    assert source_digest(cached, found) == source_digest(source, expected)
    assert list(source_digest(cached, found)["data"]) == ["model.onnx_data"]
    x = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)
    np.testing.assert_array_equal(*(OrtRunner(m).run({"x": x})["y"] for m in (found, expected)))


def relink(link: Path, target: Path) -> None:
    link.unlink()
    link.symlink_to(target)


def data_elsewhere(cached: Path) -> None:
    """As an archive may come: its data is a file of the one who unpacks it."""
    secret = cached.parents[3] / "secret"
    secret.write_bytes(bytes(4096))
    relink(cached.with_name("model.onnx_data"), secret)


def data_below_the_store(cached: Path) -> None:
    folder = cached.parents[3] / "blobs" / "below"
    folder.mkdir()
    (folder / "data").write_bytes(bytes(4096))
    relink(cached.with_name("model.onnx_data"), folder / "data")


def model_is_no_link(cached: Path) -> None:
    """Whoever wrote this file had no say in what lies in the store."""
    content = cached.read_bytes()
    cached.unlink()
    cached.write_bytes(content)


def data_through_a_hard_link(cached: Path) -> None:
    blobs = cached.parents[3] / "blobs"
    (blobs / "second").hardlink_to(blobs / "a1a1")


@pytest.mark.parametrize(
    "change", [data_elsewhere, data_below_the_store, model_is_no_link, data_through_a_hard_link]
)
def test_other_links_are_refused_with_the_way_out(cached: Path, change) -> None:
    change(cached)
    with pytest.raises(ModelImportError, match=r"outside the model's folder; put a copy .* cp -L"):
        load_model(cached)


def test_a_download_that_was_cut_off_is_a_missing_file(cached: Path) -> None:
    (cached.parents[3] / "blobs" / "a1a1").unlink()
    with pytest.raises(ModelImportError, match=r"needs the data file 'model.onnx_data', which is"):
        load_model(cached)


def test_a_data_file_that_is_short_is_refused_in_a_cache_too(cached: Path) -> None:
    blob = cached.parents[3] / "blobs" / "a1a1"
    blob.write_bytes(blob.read_bytes()[:10])
    with pytest.raises(ModelImportError, match="truncated or not the model's"):
        load_model(cached)


def test_links_in_a_circle_are_a_missing_file(cached: Path) -> None:
    data = cached.with_name("model.onnx_data")
    relink(data, data)
    with pytest.raises(ModelImportError, match="which is missing"):
        load_model(cached)
