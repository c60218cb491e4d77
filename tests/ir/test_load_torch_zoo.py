"""Real torch models come out as small as the exporter's own optimiser leaves them."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("torch")

from examples.zoo.real import UnavailableError, load_torch
from sparsec.ir.cleanup import fold_batch_norm
from sparsec.ir.load import load_model

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def test_efficientnet_lite0():
    try:
        source = load_torch("effnet_lite0")
    except UnavailableError as error:
        pytest.skip(str(error))
    model = load_model(source.module, example_inputs=tuple(source.args.values()))
    ops = Counter(node.op_type for node in model.graph)
    assert ops["BatchNormalization"] == ops["Conv"] == 49
    fold_batch_norm(model)
    assert len(model.graph) <= 95
    assert Counter(node.op_type for node in model.graph) == {
        "Conv": 49, "Clip": 33, "Add": 9, "ReduceMean": 1, "Reshape": 1, "Gemm": 1,
    }  # fmt: skip
