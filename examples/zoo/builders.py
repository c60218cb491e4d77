"""The pretrained models that come as weights only, as torch modules ready for export.

Each function takes the file of weights and is named after its model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from examples.zoo.bert import load_minilm
from examples.zoo.decoding import past_names, present_names
from examples.zoo.export import TorchModel
from examples.zoo.llama import LlamaConfig
from examples.zoo.llama_cache import LlamaDecoder
from examples.zoo.mtcnn import ONet, PNet, RNet
from examples.zoo.packages import PACKAGES
from examples.zoo.smollm2 import load_smollm2


def minilm(weights: Path) -> TorchModel:
    """all-MiniLM-L6-v2 with dynamic batch and length."""
    ids = torch.ones(2, 16, dtype=torch.int64)
    names = ("input_ids", "attention_mask", "token_type_ids")
    axes = {0: Dim("batch", max=1024), 1: Dim("length", max=512)}
    return TorchModel(
        load_minilm(weights),
        dict(zip(names, (ids, ids, torch.zeros_like(ids)), strict=True)),
        ("last_hidden_state",),
        dict.fromkeys(names, axes),
    )


def smollm2(weights: Path) -> TorchModel:
    """SmolLM2-135M-Instruct with dynamic batch and length."""
    axes = {0: Dim("batch", max=1024), 1: Dim("length", max=8192)}
    ids = torch.ones(2, 16, dtype=torch.int64)
    return TorchModel(load_smollm2(weights), {"input_ids": ids}, ("logits",), {"input_ids": axes})


def smollm2_decode(weights: Path) -> TorchModel:
    """SmolLM2-135M-Instruct, one token at a time: the past comes in and goes out longer by one."""
    config = LlamaConfig()
    batch = Dim("batch", max=1024)
    axes = {0: batch, 2: Dim("past", min=0, max=8191)}
    past = torch.zeros(2, config.kv_heads, 16, config.head_size)
    names = past_names(config.layers)
    return TorchModel(
        load_smollm2(weights, LlamaDecoder),
        {"input_ids": torch.ones(2, 1, dtype=torch.int64), **dict.fromkeys(names, past)},
        ("logits", *present_names(config.layers)),
        {"input_ids": {0: batch}, **dict.fromkeys(names, axes)},
    )


def effnet_lite0(weights: Path) -> TorchModel:
    """EfficientNet-lite0 from the class that its package defines: a module that is not ours."""
    code = str(PACKAGES["efficientnet-lite-pytorch"].file(""))
    sys.path.insert(0, code)
    try:
        from efficientnet_lite_pytorch import EfficientNet
    finally:
        sys.path.remove(code)
    module = EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(weights, weights_only=True))
    return TorchModel(module.eval(), {"x": torch.zeros(1, 3, 224, 224)}, ("y",))


def mtcnn_pnet(weights: Path) -> TorchModel:
    """Proposal network; its input size is fixed here at 120 x 160."""
    return _mtcnn(PNet(), weights, (120, 160), ("box", "probability"))


def mtcnn_rnet(weights: Path) -> TorchModel:
    """Refinement network with a dynamic batch."""
    return _mtcnn(RNet(), weights, (24, 24), ("box", "probability"), Dim("batch", max=4096))


def mtcnn_onet(weights: Path) -> TorchModel:
    """Output network with a dynamic batch."""
    outputs = ("box", "landmarks", "probability")
    return _mtcnn(ONet(), weights, (48, 48), outputs, Dim("batch", max=4096))


def _mtcnn(
    module: nn.Module,
    weights: Path,
    size: tuple[int, int],
    outputs: tuple[str, ...],
    batch: Dim | None = None,
) -> TorchModel:
    module.load_state_dict(torch.load(weights, weights_only=True))
    example = torch.zeros(2 if batch else 1, 3, *size)
    shapes = {"x": {0: batch}} if batch else {}
    return TorchModel(module.eval(), {"x": example}, outputs, shapes)
