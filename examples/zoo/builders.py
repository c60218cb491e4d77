"""Build the models that do not come as ONNX: published weights in, one ONNX file out.

Each function takes the file of weights and the path to write.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export import Dim

from examples.zoo.bert import load_minilm
from examples.zoo.export import export


def minilm(weights: Path, path: Path) -> None:
    """all-MiniLM-L6-v2 with dynamic batch and length."""
    ids = torch.ones(2, 16, dtype=torch.int64)
    axes = {0: Dim("batch", max=1024), 1: Dim("length", max=512)}
    names = ("input_ids", "attention_mask", "token_type_ids")
    export(
        load_minilm(weights),
        dict(zip(names, (ids, ids, torch.zeros_like(ids)), strict=True)),
        ["last_hidden_state"],
        path,
        dict.fromkeys(names, axes),
    )
