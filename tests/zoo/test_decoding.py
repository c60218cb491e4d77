"""Decoding with a past gives the tokens that the whole sequence gives, and lowers to a region a layer."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")

import torch

from examples.zoo import real
from examples.zoo.cache import UnavailableError
from examples.zoo.decoding import greedy, past_names
from examples.zoo.export import TorchModel, export
from examples.zoo.llama import Llama, LlamaConfig
from examples.zoo.llama_cache import LlamaDecoder
from examples.zoo.smollm2 import load_tokenizer
from sparsec.backends.cpu.assemble import build_plan
from sparsec.backends.cpu.candidate import Candidate
from sparsec.backends.cpu.choose import is_sparse
from sparsec.backends.cpu.densify import densify_model
from sparsec.backends.cpu.insert import apply
from sparsec.backends.cpu.items import Scene
from sparsec.backends.cpu.library import library_path
from sparsec.backends.cpu.observe import observe_shapes
from sparsec.backends.cpu.plan import OpCode
from sparsec.backends.cpu.recognise import recognise
from sparsec.backends.cpu.regions import grow_regions
from sparsec.ir.load import load_model
from sparsec.ir.run import OrtRunner
from sparsec.ir.sites import weight_sites
from sparsec.passes.base import PassContext
from sparsec.passes.pipeline import Pipeline

SMALL = LlamaConfig(layers=2, width=48, heads=6, kv_heads=2, hidden=96, vocabulary=64)
PAST = past_names(SMALL.layers)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A small decoder with random weights as ONNX, and the same weights without a past in torch."""
    from torch.export import Dim

    torch.manual_seed(0)
    whole, step = Llama(SMALL).eval(), LlamaDecoder(SMALL).eval()
    with torch.no_grad():
        for weight in whole.layers.parameters():  # else the tied head repeats the last token
            weight.mul_(4 if weight.ndim == 2 else 1)
    step.load_state_dict(whole.state_dict())
    batch, past = Dim("batch", max=64), torch.zeros(2, SMALL.kv_heads, 5, SMALL.head_size)
    axes = {0: batch, 2: Dim("past", min=0, max=512)}
    source = TorchModel(
        step,
        {"input_ids": torch.ones(2, 1, dtype=torch.int64), **dict.fromkeys(PAST, past)},
        ("logits", *(name.replace("past", "present") for name in PAST)),
        {"input_ids": {0: batch}, **dict.fromkeys(PAST, axes)},
    )
    path = tmp_path_factory.mktemp("decoder") / "decoder.onnx"
    export(source, path)
    return path, whole


def feeds(batch: int, past: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(past)
    shape = (batch, SMALL.kv_heads, past, SMALL.head_size)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name in PAST}
    return {"input_ids": rng.integers(0, SMALL.vocabulary, (batch, 1)), **arrays}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_greedy_tokens_are_those_of_the_whole_sequence(decoder):
    path, whole = decoder
    tokens = [3, 1, 4, 1, 5]
    sizes = {"layers": 2, "kv_heads": 2, "head_size": 8}
    got = list(itertools.islice(greedy(OrtRunner(path).run, tokens, **sizes), 20))
    for _ in range(20):
        with torch.no_grad():
            tokens.append(int(whole(torch.tensor([tokens]))[0, -1].argmax()))
    assert got == tokens[5:]
    assert len(set(got)) > 2, "a model that repeats itself proves little"


@pytest.mark.skipif(library_path() is None, reason="no CPU library")
@pytest.mark.parametrize("spec", ["unstructured:sparsity=0.7", "block:rows=8,cols=1,sparsity=0.6"])
def test_a_layer_is_one_region(decoder, spec):
    """All but the attention between the products goes into a node, on one column and on many."""
    model = load_model(decoder[0])
    Pipeline.parse([spec]).run(model, PassContext())
    masked = OrtRunner(model.clone())
    scene = Scene(model, observe_shapes(model, [feeds(1, 7), feeds(2, 9)]))
    regions = grow_regions(scene, recognise(scene, weight_sites(model)), is_sparse)
    codes = [[item.code for item in region.items] for region in regions]
    assert [c.count(OpCode.LINEAR) for c in codes] == [3, 7, 4]
    assert [c.count(OpCode.RMS_NORM) for c in codes] == [1, 2, 2]
    assert [c.count(OpCode.MULTIPLY) for c in codes] == [0, 1, 1]
    assert len(regions[1].outputs) == 4, "x, q, k and v"
    apply(model, [Candidate(r, build_plan(scene, r).to_bytes(), {}, 0.0, 0.0) for r in regions])
    lowered = OrtRunner(model, libraries=[library_path()])
    stock = OrtRunner(densify_model(ir.from_proto(ir.to_proto(model))))
    for each in (feeds(1, 0), feeds(1, 7), feeds(3, 2), feeds(16, 20)):
        want = masked.run(each)
        for got in (lowered.run(each), stock.run(each)):
            for name, array in want.items():
                assert np.abs(got[name] - array).max() <= 2e-5 * np.abs(array).max()


@pytest.mark.zoo
@pytest.mark.slow
def test_smollm2_says_the_same_with_a_past():
    try:
        step, whole = (OrtRunner(real.path(name)) for name in ("smollm2_decode", "smollm2"))
        tokens = load_tokenizer(real.REAL["smollm2"].source).encode("The capital of France is").ids
    except UnavailableError as error:
        pytest.skip(str(error))
    config = LlamaConfig()
    sizes = {"layers": config.layers, "kv_heads": config.kv_heads, "head_size": config.head_size}
    got = list(itertools.islice(greedy(step.run, tokens, **sizes), 24))
    start = len(tokens)
    for _ in range(24):
        logits = whole.run({"input_ids": np.array([tokens])})["logits"]
        tokens.append(int(logits[0, -1].argmax()))
    assert got == tokens[start:]
