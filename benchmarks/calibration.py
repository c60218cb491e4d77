"""Seconds and peak memory of calibration: ``python -m benchmarks.calibration NAME... [options]``.

NAME is a real model of the zoo with its calibration feeds, or ``opt-1.3b``: a decoder of that shape
with made-up weights, written to a temporary folder. Every model is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

SHAPE = "opt-1.3b"
LAYERS, WIDTH, HEADS, HIDDEN, VOCABULARY = 24, 2048, 32, 8192, 50272


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--order", choices=["sequential", "parallel"], default="sequential")
    parser.add_argument("--gram", action="store_true", help="collect Gram matrices, not only norms")
    parser.add_argument(
        "--cache", action="store_true", help="with a cache, so that it can be resumed"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(
        "model             sites  samples  weights MB  peak MB  over MB  seconds  CPU s  forward s"
    )
    for name in options.names:
        with tempfile.TemporaryDirectory() as scratch:
            path = write_shape(Path(scratch)) if name == SHAPE else None
            command = [
                sys.executable,
                "-c",
                "from benchmarks.calibration import measure; measure()",
            ]
            job = json.dumps({**vars(options), "name": name, "path": str(path or "")})
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(options.threads)}
            subprocess.run([*command, job], check=True, env=environment)


def measure() -> None:
    """Measure one model, in this process, and print a row of the table."""
    from examples.zoo import calib, real
    from sparsec.ir.cleanup import clean_up, fold_batch_norm
    from sparsec.ir.execute.engine import OrtEngine
    from sparsec.ir.execute.segmented import SegmentedExecutor
    from sparsec.ir.load import load_model
    from sparsec.ir.run import OrtRunner
    from sparsec.ir.sites import weight_sites
    from sparsec.passes.calibration.calibration import Calibration
    from sparsec.passes.calibration.statistics import Needs

    job = json.loads(sys.argv[1])
    name, samples = job["name"], job["samples"]
    if name == SHAPE:
        rng = np.random.default_rng(0)
        feeds = [{"input_ids": rng.integers(0, VOCABULARY, (1, 512))} for _ in range(samples)]
    else:
        feeds = list(getattr(calib, name)() if hasattr(calib, name) else real.feeds(name, samples))
    feeds = feeds[:samples]
    model = load_model(job["path"] or real.path(name))
    clean_up(model)
    fold_batch_norm(model)
    # What mask passes ask for: they leave depthwise convolutions alone.
    sites = [site for site in weight_sites(model) if not site.is_depthwise]
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    with tempfile.TemporaryDirectory() as cache:
        folder = Path(cache) if job["cache"] else None
        executor = SegmentedExecutor(OrtEngine(job["threads"]), cache=folder)
        calibration = Calibration(feeds, executor=executor, cache=folder)
        wall, cpu = time.perf_counter(), time.process_time()
        needs = Needs(gram=job["gram"])
        if job["order"] == "sequential":
            calibration.sequential(
                model, sites, needs, lambda site, found: site.write_matrix(site.matrix()), method=""
            )
        else:
            with calibration.parallel(model, sites, needs) as found:
                assert len(found) == len(sites)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    runner = OrtRunner(model, threads=job["threads"])
    start = time.perf_counter()
    for feed in feeds:
        runner.run(feed)
    forward = time.perf_counter() - start
    print(
        f"{name:16s} {len(sites):6d} {len(feeds):8d} {weights / 1e6:11.0f} {peak / 1e6:8.0f} "
        f"{(peak - weights) / 1e6:8.0f} {wall:8.1f} {cpu:6.1f} {forward:10.1f}",
        flush=True,
    )


def write_shape(folder: Path) -> Path:
    """Write a decoder of the shape of OPT-1.3B, its weights beside it."""
    data = folder / "weights"
    noise = (np.random.default_rng(0).standard_normal(1 << 20) * 0.02).astype(np.float32)
    tensors: list[onnx.TensorProto] = []
    with data.open("wb") as stream:

        def weight(name: str, *shape: int) -> str:
            size = int(np.prod(shape))
            proto = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            proto.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", data.name),
                ("offset", stream.tell()),
                ("length", 4 * size),
            ):
                proto.external_data.add(key=key, value=str(value))
            for start in range(0, size, noise.size):
                stream.write(noise[: size - start].data)
            tensors.append(proto)
            return name

        nodes = [
            helper.make_node(
                "Gather", [weight("embedding", VOCABULARY, WIDTH), "input_ids"], ["h0"]
            )
        ]
        for layer in range(LAYERS):
            nodes += _decoder_layer(layer, weight)
    constants = {
        "split": np.array([0, -1, HEADS, WIDTH // HEADS], np.int64),
        "join": np.array([0, -1, WIDTH], np.int64),
        "scale": np.array((WIDTH / HEADS) ** -0.5, np.float32),
        "gain": np.ones(WIDTH, np.float32),
    }
    tensors += [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    end = helper.make_tensor_value_info(f"h{LAYERS}", TensorProto.FLOAT, ["batch", "length", WIDTH])
    graph = helper.make_graph(nodes, SHAPE, [ids], [end], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def _decoder_layer(number: int, weight) -> list[onnx.NodeProto]:
    """Return the nodes of one layer, from ``h{number}`` to ``h{number + 1}``."""
    p = f"layer{number}."
    nodes: list[onnx.NodeProto] = []

    def add(op: str, inputs: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(op, inputs, [p + output], p + output, **attributes))
        return p + output

    def norm(value: str, output: str) -> str:
        return add("LayerNormalization", [value, "gain"], output, axis=-1)

    start = f"h{number}"
    x = norm(start, "norm1")
    heads = {}
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        flat = add("MatMul", [x, weight(f"{p}w{name}", WIDTH, WIDTH)], name)
        heads[name] = add(
            "Transpose", [add("Reshape", [flat, "split"], f"{name}1")], f"{name}2", perm=perm
        )
    scores = add("Mul", [add("MatMul", [heads["q"], heads["k"]], "scores"), "scale"], "scaled")
    mixed = add("MatMul", [add("Softmax", [scores], "shares", axis=-1), heads["v"]], "mixed")
    joined = add(
        "Reshape", [add("Transpose", [mixed], "back", perm=[0, 2, 1, 3]), "join"], "joined"
    )
    out = add("MatMul", [joined, weight(f"{p}wo", WIDTH, WIDTH)], "o")
    middle = add("Add", [out, start], "middle")
    up = add("MatMul", [norm(middle, "norm2"), weight(f"{p}w_up", WIDTH, HIDDEN)], "up")
    down = add("MatMul", [add("Relu", [up], "relu"), weight(f"{p}w_down", HIDDEN, WIDTH)], "down")
    nodes.append(helper.make_node("Add", [down, middle], [f"h{number + 1}"]))
    return nodes


if __name__ == "__main__":
    main()
