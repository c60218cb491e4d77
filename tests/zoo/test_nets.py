"""The small torch networks: seeded, exportable with a dynamic batch, and they learn."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from examples.zoo import nets, training  # noqa: E402
from examples.zoo.cache import UnavailableError  # noqa: E402
from examples.zoo.export import TorchModel, export  # noqa: E402

LANGUAGE = ("gpt", "llama", "moe")
# Whose export takes long and is much like that of another, llama.
SLOW_TO_EXPORT = ("gpt",)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a function from the name of a network to its ONNX file, exported once."""

    @functools.cache
    def path_of(name):
        path = tmp_path_factory.mktemp("net") / f"{name}.onnx"
        export(nets.build(name), path)
        return path

    return path_of


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW_TO_EXPORT else ())
        for name in nets.NETS
    ],
)
def test_the_exported_graph_computes_what_the_module_does(name, exported):
    model = nets.build(name)
    path = exported(name)
    ((key, example),) = model.args.items()
    other = torch.cat((example, example, example[:1]))  # a batch that was not traced
    with torch.no_grad():
        wanted = model.module(other).numpy()
    (got,) = ort.InferenceSession(path).run(None, {key: other.numpy()})
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", nets.NETS)
def test_the_seed_decides_the_weights(name):
    first, same, other = (nets.build(name, seed).module.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    nets.build("lstm")
    assert torch.equal(torch.rand(3), wanted)


def test_one_tensor_for_two_inputs_stays_two_inputs(tmp_path):
    class Difference(torch.nn.Module):
        def forward(self, a, b):
            return a - b

    shared = torch.ones(2, 3)
    path = tmp_path / "net.onnx"
    export(TorchModel(Difference(), {"a": shared, "b": shared}, ("y",)), path)
    feed = {"a": np.full((2, 3), 5, np.float32), "b": np.full((2, 3), 2, np.float32)}
    (y,) = ort.InferenceSession(path).run(None, feed)
    np.testing.assert_array_equal(y, np.full((2, 3), 3))


def test_the_embedding_and_the_head_stay_one_tensor(exported):
    tables = [
        t.name for t in onnx.load(exported("llama")).graph.initializer if list(t.dims) == [128, 96]
    ]
    assert tables == ["embed_tokens.weight"]


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_does_not_see_the_future(name):
    model = nets.build(name)
    (ids,) = model.args.values()
    changed = ids.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 128
    with torch.no_grad():
        before, after = model.module(ids), model.module(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def skip_without_data(function, *arguments):
    try:
        return function(*arguments)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"), [("resnet", 0.78), ("mobilenet", 0.78), ("vit", 0.74), ("lstm", 0.7)]
)
def test_a_classifier_learns(name, least):
    skip_without_data(training.data.fashion_mnist, "test")
    module = nets.build(name).module
    training.train(module, training.pictures(0), torch.nn.functional.cross_entropy, steps=300)
    assert training.accuracy(module) > least


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("gpt", 32), ("llama", 32), ("moe", 4)])
def test_a_language_model_learns(name, size):
    skip_without_data(training.data.lee_background)
    module = nets.build(name).module
    training.train(module, training.texts(0, size), training.next_byte_loss, steps=150)
    assert training.nats_per_byte(module, 16) < 2.8  # a unigram model of bytes has 2.99


@pytest.mark.slow
def test_the_detector_learns():
    skip_without_data(training.data.fashion_mnist, "test")
    module = nets.build("yolo").module
    training.train(module, training.canvases(0), training.detection_loss, steps=500)
    assert training.detections(module) > 0.35


def test_a_large_model_keeps_its_weights_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("examples.zoo.export.MAX_INLINE_BYTES", 1000)
    small = TorchModel(torch.nn.Linear(32, 16), {"x": torch.ones(2, 32)}, ("y",))
    export(small, tmp_path / "net.onnx")
    assert sorted(Path(p).name for p in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
