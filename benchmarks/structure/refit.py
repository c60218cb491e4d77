"""One-shot channel pruning with refits, against Torch-Pruning at the same widths.

::

    python -m benchmarks.structure.refit [--seeds 0 1 2] [--models effnet_lite0 opennsfw]

No training, no labels in the method. EfficientNet-lite0 loses 0.3 of the expansion channels of its 15
blocks, OpenNSFW 0.3 of the inner channels of its bottlenecks; widths are multiples of 8 and the same in
every row, so MACs are, but in the row with a global budget, which spreads the same MACs over the layers.

64 calibration crops of the photographs; agreement with the dense model on 300 crops of the labelled
pictures and 200 of eight others, none of which is among the photographs. Rows are means over the seeds
of the calibration crops. Torch-Pruning (``pip install torch-pruning --no-deps``) is compared if it is
there. For OpenNSFW, to which all of these pictures are harmless, *cosine* is the correlation of its log
odds and *difference* their mean difference. Rows are written to benchmarks/results/refit.json one by one,
in place of older ones.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.structure import rival
from examples.zoo import data, real
from examples.zoo.packages import PACKAGES
from sparsec.ir.cleanup import clean_up
from sparsec.ir.cost import graph_cost
from sparsec.ir.load import load_model
from sparsec.ir.run import Feeds, OrtRunner
from sparsec.machine import fingerprint
from sparsec.passes.base import PassContext
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.pipeline import Pipeline

Array = NDArray[np.float32]

RESULTS = Path(__file__).parents[1] / "results" / "refit.json"
OTHERS = (
    "brick.png", "camera.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg",
    "ihc.png", "moon.png",
)  # fmt: skip
INNER = {"effnet_lite0": "expand_conv", "opennsfw": "branch2a|Conv__4[5-9]|Conv__5"}
OURS = (
    "criterion=l1,compensate=none",
    "criterion=l1,compensate=refit",
    "criterion=energy,compensate=bias",
    "criterion=energy,compensate=refit",
    "criterion=obs",
    "criterion=obs,scope=global,budget=macs",  # of as many MACs as the rows before leave
)


def effnet(picture: Any) -> Feeds:
    return {"x": (np.asarray(picture, np.float32).transpose(2, 0, 1)[None] - 127) / 128}


def opennsfw(picture: Any) -> Feeds:
    bgr = np.asarray(picture, np.float32)[None, ..., ::-1]
    return {"input:0": np.ascontiguousarray(bgr - np.array([104, 117, 123], np.float32))}


FEED: dict[str, Callable[[Any], Feeds]] = {"effnet_lite0": effnet, "opennsfw": opennsfw}


def unseen(name: str) -> list[Feeds]:
    """Return 500 crops of pictures that are not among those for calibration."""
    folder = PACKAGES["scikit-image"].file("skimage/data")
    labelled, _ = data.imagenet_samples()
    others = [data.open_picture(folder / file) for file in OTHERS]
    crops = data.crops(labelled, 300, seed=1000) + data.crops(others, 200, seed=1001)
    return [FEED[name](crop) for crop in crops]


def labelled(name: str) -> tuple[list[Feeds], NDArray[np.int64]]:
    """Return the 20 labelled pictures, whole."""
    from PIL import Image

    pictures, labels = data.imagenet_samples()
    small = [picture.resize((224, 224), Image.Resampling.BICUBIC) for picture in pictures]
    return [FEED[name](picture) for picture in small], labels


def outputs(model: ir.Model, feeds: list[Feeds]) -> Array:
    runner = OrtRunner(model)
    return np.concatenate([next(iter(runner.run(feed).values())) for feed in feeds])


def scores(name: str, got: Array, expected: Array, top: tuple[Array, NDArray[Any]] | None) -> dict:
    if name == "opennsfw":  # two classes behind a softmax: their log odds say more
        got, expected = log_odds(got), log_odds(expected)
        return {
            "agreement": 100 * float(np.mean((got > 0) == (expected > 0))),
            "cosine": float(np.corrcoef(got, expected)[0, 1]),
            "difference": float(np.abs(got - expected).mean()),
        }
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    found = {
        "agreement": 100 * float(np.mean(got.argmax(axis=1) == expected.argmax(axis=1))),
        "cosine": float(np.mean((got * expected).sum(axis=1) / lengths)),
        "difference": float(np.abs(got - expected).mean()),
    }
    if top is not None:
        found["top1"] = 100 * float(np.mean(top[0].argmax(axis=1) == top[1]))
    return found


def log_odds(probabilities: Array) -> Array:
    """Return log(p1 / p0) of rows [n, 2]."""
    clipped = np.log(np.maximum(probabilities, 1e-30))
    return np.asarray(clipped[:, 1] - clipped[:, 0])


def rows(name: str, seeds: list[int], wanted: list[str], rivals: bool) -> Iterator[dict[str, Any]]:
    """Yield one row of results for every method."""
    dense = load_model(real.path(name))
    clean_up(dense)
    feeds = unseen(name)
    whole = labelled(name) if name == "effnet_lite0" else None
    expected = outputs(dense, feeds)
    top = None if whole is None else (outputs(dense, whole[0]), whole[1])
    before = graph_cost(dense, feeds[0])
    yield {"model": name, "method": "dense", "macs": before.macs, "params": before.params,
           **scores(name, expected, expected, top)}  # fmt: skip
    calibration = {
        seed: [FEED[name](p) for p in data.crops(data.photographs(), 64, seed)] for seed in seeds
    }
    widths: dict[str, int] = {}
    same = before
    for options in wanted:
        uniform = "budget=" not in options
        sparsity = 0.3 if uniform else round(1 - same.macs / before.macs, 4)
        spec = f"channel:sparsity={sparsity},round=8,include={INNER[name]},{options}"
        found, seconds = [], []
        for seed in seeds:
            model = dense.clone()
            context = PassContext(seed=seed, calibration=Calibration(calibration[seed]))
            started = time.process_time()
            (step,) = Pipeline.parse([spec]).run(model, context)
            seconds.append(time.process_time() - started)
            pair = None if whole is None else (outputs(model, whole[0]), whole[1])
            found.append(scores(name, outputs(model, feeds), expected, pair))
            after = graph_cost(model, feeds[0])
            (certificate,) = step.result.certificates
            if uniform:
                same = after
                widths = {group: size - len(gone) for group, size, gone in certificate.groups}
        yield {"model": name, "method": f"sparsec {options}", "macs": after.macs,
               "params": after.params, "cpu_seconds": statistics.mean(seconds),
               **means(found), "seeds": found}  # fmt: skip
    compared = rival.rows(name, widths, calibration, feeds, whole) if rivals else ()
    for method, results in compared:
        found = [scores(name, got, expected, pair) for got, pair in results]
        yield {"model": name, "method": f"torch-pruning {method}", "macs": same.macs,
               "params": same.params, **means(found), "seeds": found}  # fmt: skip


def keep(row: dict[str, Any], seeds: list[int]) -> None:
    """Put a row into the file of results, in place of an older one of the same method."""
    with (RESULTS.parent / "refit.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
        key = row["model"], row["method"]
        others = [each for each in record["rows"] if (each["model"], each["method"]) != key]
        record |= {
            "machine": fingerprint(),
            "versions": {
                name: importlib.metadata.version(name) for name in ("onnxruntime", "numpy", "torch")
            }
            | {"torch-pruning": rival.version()},
            "seeds": seeds,
            "rows": [*others, row],
        }
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def means(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.mean(each[key] for each in found) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=list(INNER), choices=list(INNER))
    parser.add_argument("--ours", nargs="+", default=list(OURS), help="options of our pass")
    parser.add_argument("--no-rival", action="store_true", help="leave Torch-Pruning out")
    options = parser.parse_args()
    if rival.version() is None:
        print("torch-pruning is not installed: its rows are left out")
    print("| model | method | M MACs | agreement | cosine | difference | top-1 of 20 |")
    print("|---|---|---|---|---|---|---|")
    for name in options.models:
        for row in rows(name, options.seeds, options.ours, not options.no_rival):
            top1 = f"{row['top1']:.0f}" if "top1" in row else ""
            print(
                f"| {name} | {row['method']} | {row['macs'] / 1e6:.0f} | {row['agreement']:.1f} | "
                f"{row['cosine']:.3f} | {row['difference']:.3f} | {top1} |",
                flush=True,
            )
            keep(row, options.seeds)


if __name__ == "__main__":
    main()
