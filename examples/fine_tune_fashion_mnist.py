"""Prune a torch module, train on, export it again: a small ResNet on Fashion-MNIST, in minutes.

::

    python -m examples.zoo fetch dataset-fashion-mnist
    python -m examples.fine_tune_fashion_mnist [--steps 800] [--tune 400] [--sparsity 0.5]

The numbers that it prints are in docs/fine-tuning.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim

import sparsec
from examples.zoo.cache import UnavailableError
from examples.zoo.nets import ResNet
from examples.zoo.training import accuracy, pictures, train
from sparsec.torch import prune

BATCH = ({0: Dim("batch", min=1, max=1024)},)
EXAMPLE = (torch.zeros(2, 1, 28, 28),)


def main() -> int:
    """Train, prune, train on, compile and compare; 0 unless the data are missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--tune", type=int, default=400)
    parser.add_argument("--sparsity", type=float, default=0.5)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dense = ResNet(widths=(16, 32, 64))
    loss = nn.functional.cross_entropy
    try:
        train(dense, pictures(seed=0), loss, given.steps)
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    report("dense", dense)

    passes = [f"channel:sparsity={given.sparsity},round=4"]
    small = prune(dense, EXAMPLE, passes, dynamic_shapes=BATCH)
    report("pruned", small)
    train(small, pictures(seed=1), loss, given.tune, rate=1e-3)
    report(f"after {given.tune} more steps", small)
    # The same training from other numbers: whether it was worth keeping the dense network's.
    fresh = prune(ResNet(widths=(16, 32, 64)), EXAMPLE, passes, dynamic_shapes=BATCH)
    train(fresh, pictures(seed=1), loss, given.tune, rate=1e-3)
    report("that size, not from the dense one", fresh)

    with tempfile.TemporaryDirectory() as folder:
        sessions = [compiled(module, Path(folder), i) for i, module in enumerate((dense, small))]
        agree(small, sessions[1])
        times = interleaved(sessions)
    print(f"compiled, one picture: {times[0]:.3f} ms dense, {times[1]:.3f} ms pruned")
    return 0


def report(what: str, module: nn.Module) -> None:
    """Print the accuracy and the size of a module."""
    size = sum(parameter.numel() for parameter in module.parameters())
    print(f"{what:36} {accuracy(module, 10_000):7.2%}  {size:7d} parameters", flush=True)


def compiled(module: nn.Module, folder: Path, number: int) -> sparsec.Session:
    """Export and compile a module to plain ONNX, for any runtime."""
    artifact = sparsec.compile(
        module,
        example_inputs=EXAMPLE,
        dynamic_shapes=BATCH,
        target="onnx",
        output=folder / f"{number}.sparsec",
    )
    return sparsec.load(artifact.path)


def agree(module: nn.Module, session: sparsec.Session) -> None:
    """Check that the compiled network returns what the module does."""
    x = torch.rand(8, 1, 28, 28)
    (name,) = (entry["name"] for entry in session.inputs)
    with torch.no_grad():
        wanted = module(x).numpy()
    (got,) = session.run({name: x.numpy()}).values()
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


def interleaved(sessions: Sequence[sparsec.Session], rounds: int = 200) -> list[float]:
    """Return the median milliseconds of each session on one picture, in turns."""
    times: list[list[float]] = [[] for _ in sessions]
    feeds: list[Mapping[str, Any]] = [
        {
            name: np.zeros((1, 1, 28, 28), np.float32)
            for name in [entry["name"] for entry in session.inputs]
        }
        for session in sessions
    ]
    for _ in range(rounds):
        for session, feed, record in zip(sessions, feeds, times, strict=True):
            started = time.perf_counter()
            session.run(feed)
            record.append(1e3 * (time.perf_counter() - started))
    return [statistics.median(record) for record in times]


if __name__ == "__main__":
    sys.exit(main())
