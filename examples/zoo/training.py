"""Train the small networks on real data in minutes: the task, the loss and the score of each.

Pictures are Fashion-MNIST; a detector sees one of them pasted on a larger canvas; language
models read the bytes of news. Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from examples.zoo import data

Batches = Iterator[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
CANVAS, ITEM = 64, 28


def train(module: nn.Module, batches: Batches, loss: Loss, steps: int, rate: float = 3e-3) -> float:
    """Train in place with AdamW and one cycle of the learning rate; leave evaluation mode on.

    Parameters
    ----------
    module : torch.nn.Module
    batches : iterator of (inputs, targets)
        At least ``steps`` of them.
    loss : callable
        Takes the outputs and the targets.
    steps : int
    rate : float
        Highest learning rate.

    Returns
    -------
    float
        Mean loss of the last tenth of the steps.
    """
    module.train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=steps)
    losses = []
    for _ in range(steps):
        inputs, targets = next(batches)
        optimiser.zero_grad()
        value = loss(module(inputs), targets)
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        cycle.step()
        losses.append(float(value.detach()))
    module.eval()
    return float(np.mean(losses[-max(1, steps // 10) :]))


def pictures(seed: int, size: int = 64) -> Batches:
    """Yield Fashion-MNIST batches: float32 ``[size, 1, 28, 28]`` in -1..1, and int64 classes."""
    images, labels = data.fashion_mnist("train")
    rng = np.random.default_rng(seed)
    while True:
        chosen = rng.integers(0, len(images), size)
        yield _normal(images[chosen]), torch.from_numpy(labels[chosen].astype(np.int64))


def accuracy(module: nn.Module, count: int = 2000) -> float:
    """Return the share of right classes over the first test pictures."""
    images, labels = data.fashion_mnist("test")
    with torch.no_grad():
        told = module(_normal(images[:count])).argmax(dim=1)
    return float((told.numpy() == labels[:count]).mean())


def texts(seed: int, size: int = 32, length: int = 64) -> Batches:
    """Yield bytes of news: int64 ``[size, length]`` and the same text one byte later."""
    tokens = _bytes("calibration")
    rng = np.random.default_rng(seed)
    while True:
        starts = rng.integers(0, len(tokens) - length - 1, size)
        rows = torch.from_numpy(np.stack([tokens[at : at + length + 1] for at in starts]))
        yield rows[:, :-1], rows[:, 1:]


def next_byte_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats per byte."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def nats_per_byte(module: nn.Module, count: int = 64, length: int = 64) -> float:
    """Return the loss on other news than those of training."""
    rows = torch.from_numpy(data.windows(_bytes("test").tolist(), length + 1, count))
    with torch.no_grad():
        return float(next_byte_loss(module(rows[:, :-1]), rows[:, 1:]))


def canvases(seed: int, size: int = 16) -> Batches:
    """Yield canvases with one item each: float32 ``[size, 1, 64, 64]``, and their boxes.

    Targets are float32 ``[size, 5]``: class, then x, y of the centre, width and height in pixels.
    """
    return _canvases("train", seed, size)


def detection_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over every cell, and the box error of the cells nearest to the item.

    Parameters
    ----------
    predictions : float32 [n, 4 + classes, cells]
        As :class:`examples.zoo.nets.yolo.Yolo` gives them.
    targets : float32 [n, 5]
        As :func:`canvases` gives them.
    """
    boxes, scores = predictions[:, :4], predictions[:, 4:].clamp(1e-6, 1 - 1e-6)
    side = CANVAS // 8  # items are taught to the finest map only
    cell = (targets[:, 2] // 8).long() * side + (targets[:, 1] // 8).long()
    items = torch.arange(len(targets))
    wanted = torch.zeros_like(scores)
    wanted[items, targets[:, 0].long(), cell] = 1
    classes = nn.functional.binary_cross_entropy(scores, wanted, reduction="sum") / len(targets)
    error = nn.functional.smooth_l1_loss(boxes[items, :, cell] / 8, targets[:, 1:] / 8)
    return classes + 2 * error


def detections(module: nn.Module, count: int = 200) -> float:
    """Return the share of test canvases whose best cell has the right class and overlaps by .5."""
    canvas, targets = next(_canvases("test", 0, count))
    with torch.no_grad():
        predictions = module(canvas)
    scores, classes = predictions[:, 4:].max(dim=1)
    best = scores.argmax(dim=1)
    items = torch.arange(count)
    overlap = intersection_over_union(predictions[items, :4, best], targets[:, 1:])
    right = (classes[items, best] == targets[:, 0]) & (overlap > 0.5)
    return float(right.float().mean())


def intersection_over_union(a: Tensor, b: Tensor) -> Tensor:
    """Return the overlap of boxes ``[n, 4]`` given as centre, width and height: ``[n]``."""
    low = torch.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = torch.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    common = (high - low).clamp(min=0).prod(dim=1)
    return common / (a[:, 2:].prod(dim=1) + b[:, 2:].prod(dim=1) - common)


def _canvases(part: str, seed: int, size: int) -> Batches:
    images, labels = data.fashion_mnist("train" if part == "train" else "test")
    rng = np.random.default_rng(seed)
    while True:
        canvas = np.zeros((size, CANVAS, CANVAS), np.uint8)
        targets = np.zeros((size, 5), np.float32)
        for row, chosen in enumerate(rng.integers(0, len(images), size)):
            left, top = rng.integers(0, CANVAS - ITEM + 1, 2)
            canvas[row, top : top + ITEM, left : left + ITEM] = images[chosen]
            centre = left + ITEM / 2, top + ITEM / 2
            targets[row] = (labels[chosen], *centre, ITEM, ITEM)
        yield _normal(canvas), torch.from_numpy(targets)


def _normal(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1)[:, None]


def _bytes(part: str) -> NDArray[np.int64]:
    articles = data.lee_background("calibration" if part == "calibration" else "test")
    text = "\n".join(articles).encode("ascii", "replace")
    return np.frombuffer(text, np.uint8).astype(np.int64)
