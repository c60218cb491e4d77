"""How the time of a layer depends on its width: ``python -m benchmarks.structure.widths``.

A chain of equal layers in stock ONNX Runtime, one thread, at every width of a range; the widths take
turns. Printed is the time of a layer over that of the width before, for each width modulo 16.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from sparsec.ir.load import load_model
from sparsec.ir.run import OrtRunner
from sparsec.timing import race

DEPTH = 6
KINDS = {"conv1x1": 1, "conv3x3": 3, "gemm": 0, "depthwise": 3}


def chain(kind: str, width: int) -> tuple[OrtRunner, dict[str, np.ndarray]]:
    """Return DEPTH layers of ``width`` -> ``width``, with an input for them."""
    rng = np.random.default_rng(0)
    kernel = KINDS[kind]
    shape = [64, width] if kind == "gemm" else [1, width, 28, 28]
    nodes, tensors, last = [], [], "x"
    for layer in range(DEPTH):
        inner = [] if kind == "gemm" else [kernel, kernel]
        size = [width, 1 if kind == "depthwise" else width, *inner]
        weight = (rng.standard_normal(size) / np.sqrt(np.prod(size[1:]))).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"w{layer}"))
        if kind == "gemm":
            node = helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"])
        else:
            node = helper.make_node(
                "Conv",
                [last, f"w{layer}"],
                [f"h{layer}"],
                pads=[kernel // 2] * 4,
                group=width if kind == "depthwise" else 1,
            )
        nodes += [node, helper.make_node("Relu", [f"h{layer}"], [f"a{layer}"])]
        last = f"a{layer}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        kind,
        [value("x", TensorProto.FLOAT, shape)],
        [value(last, TensorProto.FLOAT, shape)],
        tensors,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return OrtRunner(load_model(proto)), {"x": rng.standard_normal(shape).astype(np.float32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--widths", default="60:97:1", help="start:stop:step")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    widths = range(*map(int, options.widths.split(":")))
    for kind in options.kinds:
        contestants = {}
        for width in widths:
            runner, feeds = chain(kind, width)
            contestants[str(width)] = lambda runner=runner, feeds=feeds: runner.run(feeds)
        times = race(contestants, options.rounds, clock=time.thread_time)
        print(kind, "us a layer:")
        print(
            "  "
            + "  ".join(
                f"{width}: {1e6 * times.median(str(width)) / DEPTH:.1f}" for width in widths
            )
        )


if __name__ == "__main__":
    main()
