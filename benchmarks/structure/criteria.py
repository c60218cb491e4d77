"""Criteria of channels side by side: ``python -m benchmarks.structure.criteria [--sparsity 0.15]``.

EfficientNet-lite0 loses the same multiply-accumulates by each criterion, one-shot; printed is how
often its first class is still the dense model's on crops that no criterion saw.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from examples.zoo import calib, data, real
from sparsec.ir.cleanup import clean_up
from sparsec.ir.load import load_model
from sparsec.ir.run import OrtRunner
from sparsec.passes.base import PassContext
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.pipeline import Pipeline

CRITERIA = ("random", "l1", "l2", "bn", "fpgm", "lamp",
            "saliency", "taylor", "taylor-group", "hessian", "fisher")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsity", type=float, default=0.15)
    parser.add_argument("--crops", type=int, default=100)
    parser.add_argument("--criteria", nargs="+", default=CRITERIA, choices=CRITERIA)
    options = parser.parse_args()
    dense = load_model(real.path("effnet_lite0"))
    clean_up(dense)
    feeds = list(calib.effnet_lite0())
    pictures = data.crops(data.photographs(), options.crops, seed=7)
    unseen = [((np.asarray(p, np.float32).transpose(2, 0, 1)[None]) - 127) / 128 for p in pictures]
    runner = OrtRunner(dense)
    expected = np.concatenate([runner.run({"x": x})["y"] for x in unseen])
    print("| criterion | scope | MACs gone | agreement | cosine | seconds |")
    print("|---|---|---|---|---|---|")
    for criterion in options.criteria:
        for scope in ("layer", "global"):
            spec = f"channel:budget=macs,scope={scope},round=8,criterion={criterion}"
            model, start = dense.clone(), time.perf_counter()
            context = PassContext(calibration=Calibration(feeds), feeds=feeds)
            (step,) = Pipeline.parse([f"{spec},sparsity={options.sparsity}"]).run(model, context)
            seconds = time.perf_counter() - start
            runner = OrtRunner(model)
            got = np.concatenate([runner.run({"x": x})["y"] for x in unseen])
            same = np.mean(got.argmax(axis=1) == expected.argmax(axis=1))
            lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
            cosine = np.mean((got * expected).sum(axis=1) / lengths)
            gone = step.result.notes["macs"]
            print(
                f"| `{criterion}` | {scope} | {gone:.3f} | {same:.2f} | {cosine:.2f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
