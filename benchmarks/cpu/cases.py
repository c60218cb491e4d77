"""What is measured: networks, sparsities, and the ratio that each must reach."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from examples.zoo import real
from examples.zoo.benchnets import BUILDERS, Form, benchmark_input
from sparsec.ir.cleanup import clean_up, fold_batch_norm
from sparsec.ir.load import load_model
from sparsec.passes.base import PassContext
from sparsec.passes.pipeline import Pipeline

Feeds = dict[str, NDArray[np.generic]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One network at one sparsity; ``must`` and ``aim`` are ratios to dense ONNX Runtime."""

    network: str
    sparsity: float
    form: Form
    must: float | None = None
    aim: float | None = None

    def build(self) -> tuple[ir.Model, Feeds]:
        """Return the pruned model and its input."""
        builder, _, shape = self.network.partition(" ")
        if builder not in BUILDERS:
            return _real(self)
        sizes = [int(size) for size in shape.split("x")] if shape else []
        proto = BUILDERS[builder](*sizes, self.sparsity, self.form)
        model = ir.from_proto(proto)
        clean_up(model)
        return model, dict(benchmark_input(proto))


def _real(case: Case) -> tuple[ir.Model, Feeds]:
    """A trained network, pruned by magnitude with our own pass."""
    name = case.network
    model = load_model(real.path(name))
    clean_up(model)
    spec = "block:rows=4,cols=1" if case.form == "block4" else "unstructured"
    joint = "," if ":" in spec else ":"
    Pipeline.parse([f"{spec}{joint}sparsity={case.sparsity}"]).run(model, PassContext())
    fold_batch_norm(model)
    rng = np.random.default_rng(0)
    if name == "minilm":
        ids = rng.integers(1000, 20000, (1, 128))
        ones = np.ones_like(ids)
        return model, {"input_ids": ids, "attention_mask": ones, "token_type_ids": 0 * ones}
    return model, {"x": rng.standard_normal((1, 3, 224, 224)).astype(np.float32)}


def _row(network: str, form: Form, **bars: tuple[float, float] | None) -> list[Case]:
    return [
        Case(network, int(key[1:]) / 100, form, *(bar or (None, None))) for key, bar in bars.items()
    ]


CASES: list[Case] = [
    *_row("mobilenet_v1", "unstructured", s80=(2.0, 2.6), s90=(3.1, 4.0), s95=(4.0, 5.2)),
    *_row("mobilenet_v1", "block4", s80=(2.8, 3.3), s90=(4.0, 5.0)),
    *_row("mobilenet_v2", "unstructured", s80=(1.5, 2.0), s90=(2.0, 2.6), s95=(2.6, 3.4)),
    *_row("effnet_lite0", "unstructured", s80=(1.5, 2.0), s90=(2.0, 2.6), s95=(2.6, 3.4)),
    *_row("resnet50", "unstructured", s80=(2.2, 2.8), s90=(3.6, 4.5), s95=(5.0, 6.5)),
    *_row("bert4", "unstructured", s80=(2.5, 3.2), s90=(3.9, 5.0), s95=(5.8, 7.0)),
    *_row("bert4", "2:4", s50=(1.2, 1.2)),
    *_row("minilm", "unstructured", s80=(2.0, 2.8), s90=(3.0, 4.2)),
    *_row("matmul 1x4096x4096", "unstructured", s80=(1.4, 1.6), s90=(3.0, 3.6), s95=(5.3, 6.0)),
    *_row("matmul 1x4096x4096", "block8", s80=(3.2, 3.5), s90=(6.5, 8.0), s95=(14.0, 16.0)),
    *_row("matmul 128x768x3072", "unstructured", s80=(2.7, 3.7), s90=(5.0, 6.6)),
    *_row("matmul 128x3072x768", "unstructured", s80=(2.7, 3.7), s90=(5.0, 6.6)),
    *_row("mobilenet_v1", "unstructured", s00=(0.97, 0.97), s50=(0.97, 0.97)),
]
