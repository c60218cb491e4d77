"""``python -m benchmarks.cpu.records``: the times that the model of x86 targets is fitted on.

One product at a time, on one thread, by the kernels of the machine's best instruction set, beside ONNX
Runtime's dense product, which takes the widest vectors that the machine has: what an instruction set is
worth is measured on a machine that has no better one. Contestants take turns; the least of all rounds
counts, because on a shared machine it is the one that nobody disturbed. They are written to the file that
:mod:`sparsec.backends.cpu.cost_model` reads.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cpu.__main__ import machine
from sparsec.backends.cpu.cost_model import DENSE, records_file
from sparsec.backends.cpu.library import LoadedPlan, features
from sparsec.backends.cpu.pack import pack_blocks
from sparsec.backends.cpu.plan import Kind, Op, OpCode, Plan, Tensor, Value
from sparsec.ir.run import new_session, session_options

ROUNDS = 15

# M, K, N of 1x1 convolutions, of linear layers, and of one token.
PRODUCTS = [
    (64, 32, 12544), (96, 16, 12544), (24, 144, 3136), (128, 128, 3136), (40, 240, 784),
    (256, 256, 784), (480, 80, 196), (512, 512, 196), (1152, 192, 49), (1024, 1024, 49),
    (384, 384, 128), (1536, 384, 128), (768, 768, 128), (3072, 768, 128), (768, 3072, 128),
    (768, 768, 16), (1000, 1280, 1), (576, 1536, 1), (1024, 1024, 1), (3072, 1024, 1),
    (2048, 2048, 1), (4096, 4096, 1), (4096, 11008, 1),
]  # fmt: skip
WINDOWS = [(64, 64, 56), (128, 128, 28), (256, 256, 14), (512, 512, 7)]  # 3x3: M, channels, side
FORMS = {1: (0.5, 0.7, 0.8, 0.9, 0.95), 2: (0.8,), 4: (0.5, 0.8, 0.9), 8: (0.8, 0.9)}


def main() -> int:
    """Measure all cases and write them, one row a line."""
    isa = features()[0]
    rows = [row for case in cases() for row in measure(*case, isa)]
    head = {
        "machine": machine(),
        "what": "block_rows 0: ONNX Runtime's dense product; "
        "border: seconds of a value that enters or leaves a plan",
        "columns": ["rows", "reduction", "columns", "block_rows", "kept", "seconds"],
        "border": float(f"{border(isa):.3g}"),
    }
    body = ",\n".join(json.dumps(row) for row in rows)
    text = json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n{body}\n]\n}}\n'
    records_file(isa).write_text(text, encoding="utf-8")
    return 0


def cases() -> Iterator[tuple[tuple[int, int, int], int]]:
    """Yield M, K, N and the side of the window."""
    for shape in PRODUCTS:
        yield shape, 1
    for out, channels, side in WINDOWS:
        yield (out, channels * 9, side * side), 3


def measure(shape: tuple[int, int, int], window: int, isa: str) -> list[list[Any]]:
    """Race all forms of one product."""
    rng = np.random.default_rng(0)
    m, k, n = shape
    dense = rng.standard_normal((m, k)).astype(np.float32)
    whole = DENSE, m * k
    runs: dict[tuple[int, int], Callable[[], float]] = {whole: onnxruntime(dense, n)}
    for block_rows, sparsities in FORMS.items():
        for sparsity in sparsities:
            kept = rng.random((-(-m // block_rows), k)) >= sparsity
            weight = pack_blocks(dense * np.repeat(kept, block_rows, axis=0)[:m], block_rows)
            runs[block_rows, weight.values.size] = ours(weight, shape, window, isa)
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            run()  # the caches are the other contestant's
            best[name] = min(best[name], run())
    print(shape, window, f"{best[whole] * 1e3:.3f} ms dense", file=sys.stderr)
    return [
        [m, k, n, block, kept, float(f"{seconds:.4g}")] for (block, kept), seconds in best.items()
    ]


def border(isa: str) -> float:
    """Return the seconds that reading and writing take for each value, rows or images, the slower."""
    slowest = 0.0
    for kind, shape in ((Kind.ROWS, (128, 768)), (Kind.IMAGE, (1, 128, 56, 56))):
        channels = shape[1]
        values = (Value(kind, channels, len(shape)),) * 2
        op = Op(OpCode.LINEAR, (0,), 1, weight=0)
        weight = pack_blocks(np.eye(channels, dtype=np.float32), 1)
        plan = LoadedPlan(Plan((0,), (1,), values, (op,), (weight,)).to_bytes(), isa=isa)
        bound = plan.prepare(np.ones(shape, np.float32))
        times = []
        for _ in range(5 * ROUNDS):
            seconds = np.zeros(3)
            bound(seconds)
            times.append(float(seconds[1:].sum()))
        slowest = max(slowest, min(times) / (2 * int(np.prod(shape))))
    return slowest


def onnxruntime(weight: np.ndarray, columns: int) -> Callable[[], float]:
    """Return a run of the dense product in ONNX Runtime, which returns its seconds."""
    m, k = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [columns, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [columns, m])],
        [numpy_helper.from_array(np.ascontiguousarray(weight.T), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session: ort.InferenceSession = new_session(ir.from_proto(proto), session_options(threads=1))
    binding = session.io_binding()
    binding.bind_cpu_input("x", np.ones((columns, k), np.float32))
    binding.bind_output("y", "cpu")

    def run() -> float:
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        return time.perf_counter() - start

    return run


def ours(weight: Tensor, shape: tuple[int, int, int], window: int, isa: str) -> Callable[[], float]:
    """Return a run of one operator, which returns its seconds.

    Reading inputs and writing outputs is not counted; a single column has none of it.
    """
    m, k, n = shape
    if window == 1:
        values = (Value(Kind.ROWS, k, 2), Value(Kind.ROWS, m, 2))
        op = Op(OpCode.LINEAR, (0,), 1, weight=0)
        x = np.ones((n, k), np.float32)
    else:
        side, channels = round(n**0.5), k // window**2
        values = (Value(Kind.IMAGE, channels, 4), Value(Kind.IMAGE, m, 4))
        op = Op(
            OpCode.CONV, (0,), 1, weight=0, kernel=(window, window), pads=(window // 2,) * 4
        )  # fmt: skip
        x = np.ones((1, channels, side, side), np.float32)
    plan = LoadedPlan(Plan((0,), (1,), values, (op,), (weight,)).to_bytes(), isa=isa)
    bound = plan.prepare(x)
    seconds = np.zeros(3)

    def run() -> float:
        seconds[:] = 0
        start = time.perf_counter()
        bound(seconds)
        return time.perf_counter() - start if n == 1 else float(seconds[0])

    return run


if __name__ == "__main__":
    sys.exit(main())
