"""Small standard networks in torch, seeded, each trainable in minutes on a processor.

Examples
--------
::

    model = nets.build("resnet", seed=0)
    export(model, Path("resnet.onnx"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.export import Dim

from examples.zoo.export import TorchModel
from examples.zoo.llama import Llama, LlamaConfig
from examples.zoo.nets.gpt import GPT
from examples.zoo.nets.lstm import RowLSTM
from examples.zoo.nets.mobilenet import MobileNet
from examples.zoo.nets.moe import moe_llama
from examples.zoo.nets.resnet import ResNet
from examples.zoo.nets.vit import ViT
from examples.zoo.nets.yolo import Yolo

__all__ = ["GPT", "NETS", "Llama", "MobileNet", "ResNet", "RowLSTM", "ViT", "Yolo", "build"]

SMALL_LLAMA = LlamaConfig(
    layers=3, width=96, heads=6, kv_heads=2, hidden=256, vocabulary=128, rotary_base=1e4
)
IMAGE = (2, 1, 28, 28)
CANVAS = (2, 1, 64, 64)
TOKENS = (2, 32)

# Each network with the shape of its example input: a picture, or token ids if of two axes.
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (ResNet, IMAGE),
    "mobilenet": (MobileNet, IMAGE),
    "vit": (ViT, IMAGE),
    "lstm": (RowLSTM, IMAGE),
    "yolo": (Yolo, CANVAS),
    "gpt": (GPT, TOKENS),
    "llama": (lambda: Llama(SMALL_LLAMA), TOKENS),
    "moe": (lambda: moe_llama(dataclasses.replace(SMALL_LLAMA, hidden=96)), TOKENS),
}


def build(name: str, seed: int = 0) -> TorchModel:
    """Return a network with fresh weights of the seed, in evaluation mode.

    Its batch is dynamic, and so is the length of a language model.
    """
    make, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make().eval()
        example = _example(shape)
    batch = {0: Dim("batch", max=4096)}
    if len(shape) == 2:
        axes = {**batch, 1: Dim("length", max=64)}
        return TorchModel(module, {"input_ids": example}, ("logits",), {"input_ids": axes})
    output = "predictions" if name == "yolo" else "logits"
    return TorchModel(module, {"x": example}, (output,), {"x": batch})


def _example(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, 128, shape) if len(shape) == 2 else torch.randn(shape)
