"""EfficientNet-lite0 through torch's exporter with and without its optimiser, and through our clean-ups.

``python -m benchmarks.torch_import``: number of nodes, and CPU time of one image in ONNX Runtime, one thread,
medians of interleaved rounds. Needs torch and the models that ``make models`` fetches.
"""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from examples.zoo.real import load_torch
from sparsec.ir.cleanup import fold_batch_norm
from sparsec.ir.load import load_model

ROUNDS = 40


def session(model: ir.Model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)


def main() -> None:
    source = load_torch("effnet_lite0")
    inputs = tuple(source.args.values())
    models = {
        f"exporter, optimize={on}": torch.onnx.export(
            source.module, inputs, dynamo=True, opset_version=20, optimize=on, verbose=False
        ).model
        for on in (False, True)
    }
    models["ours"] = load_model(source.module, example_inputs=inputs)
    models["ours, fold-bn"] = models["ours"].clone()
    fold_batch_norm(models["ours, fold-bn"])

    sessions = {name: session(model) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    image = np.random.default_rng(0).standard_normal(inputs[0].shape).astype(np.float32)
    for _ in range(ROUNDS):
        for name, ready in sessions.items():
            feed = {ready.get_inputs()[0].name: image}
            start = time.process_time()
            ready.run(None, feed)
            times[name].append(time.process_time() - start)
    for name, model in models.items():
        print(f"{name:26s} {len(model.graph):4d} nodes {np.median(times[name]) * 1e3:6.2f} ms")


if __name__ == "__main__":
    main()
