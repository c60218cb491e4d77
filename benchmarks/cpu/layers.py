"""``python -m benchmarks.cpu.layers [--only TEXT] [--kernels] [--output FILE]``: one layer at a time.

For each layer and sparsity of the tables below: GFLOP/s on nonzeros of one core (real columns only, so that
what a tile wastes counts), its fraction of the peak on registers, and the ratio to dense in two forms: to
ONNX Runtime's own kernel on this machine, and to dense at 88 % of the peak of the instruction set. The bar is
of the second form and was measured with AVX2, so it is held against our AVX2 kernels; the verdict is
``below`` where they miss it by more than 5 % in two runs. (The bars of 3x3 windows leave out what
gathering the inputs of the taps takes; our times hold it.) With ``--kernels`` every microkernel of the table
runs on one problem.

The time is that of the product alone, the minimum over the repetitions: rows that go into tiles and come
out of them belong to the region, not to the layer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cpu.__main__ import machine
from benchmarks.cpu.peak import Peak, measure_peak
from examples.zoo.benchnets import prune_blocks, prune_magnitude
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cpu.library import LANES, LoadedPlan, features, microkernels
from sparsec.backends.cpu.measure import Contest
from sparsec.backends.cpu.narrow import narrow
from sparsec.backends.cpu.pack import pack_blocks
from sparsec.backends.cpu.plan import Dense, Kind, Op, OpCode, Plan, Tile, Value
from sparsec.backends.targets import CPU
from sparsec.passes.rounding import ROUNDINGS

Bars = dict[float, float]
DENSE_FRACTION = 0.88  # of the peak: where ONNX Runtime's dense kernels are
TOLERANCE = 0.95
_REPEAT = (15, 60)
_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Layer:
    """K input channels or features, M outputs, ``side``: of the image, 0 for 128 tokens."""

    k: int
    m: int
    side: int
    bars: Bars
    block_rows: int = 1
    window: int = 1

    @property
    def name(self) -> str:
        """As the tables say it."""
        columns = self.side**2 or 128
        form = f"{self.block_rows}x1" if self.block_rows > 1 else "unstructured"
        size = f" {self.window}x{self.window}" if self.window > 1 else ""
        return f"{self.k}->{self.m}{size} N{columns} {form}"


def _bars(*values: float) -> Bars:
    return dict(zip((0.8, 0.9, 0.95), values, strict=False))


# Ratio to dense at 88 % of the peak, of the best AVX2 kernel without code generation.
LAYERS = (
    Layer(64, 128, 56, _bars(3.7, 6.0, 8.9)),
    Layer(128, 128, 56, _bars(3.8, 6.6, 10.8)),
    Layer(256, 256, 28, _bars(3.6, 6.6, 11.9)),
    Layer(512, 512, 14, _bars(3.1, 5.9, 10.8)),
    Layer(1024, 1024, 7, _bars(2.7, 5.2, 9.2)),
    Layer(768, 768, 0, _bars(3.7, 6.7, 12.1)),
    Layer(768, 3072, 0, _bars(3.5, 6.1, 12.0)),
    Layer(3072, 768, 0, _bars(3.4, 6.5, 11.9)),
    Layer(64, 256, 56, _bars(3.7, 6.3)),
    Layer(256, 64, 56, _bars(3.2, 6.0)),
    Layer(512, 128, 28, _bars(3.5, 6.2)),
    Layer(256, 1024, 14, _bars(3.2, 6.1)),
    Layer(1024, 256, 14, _bars(3.1, 5.7)),
    Layer(512, 2048, 7, _bars(2.7, 5.2)),
    Layer(2048, 512, 7, _bars(2.7, 5.0)),
    Layer(64, 64, 56, _bars(3.4, 6.0, 10.4), window=3),
    Layer(128, 128, 28, _bars(3.0, 5.8, 10.8), window=3),
    Layer(256, 256, 14, _bars(3.3, 6.0, 10.5), window=3),
    Layer(512, 512, 7, _bars(3.2, 5.6, 9.4), window=3),
    Layer(128, 128, 56, {0.5: 2.2, 0.7: 3.53, 0.8: 5.09, 0.9: 8.5}, 4),
    Layer(512, 512, 14, {0.5: 1.95, 0.7: 3.3, 0.8: 5.0, 0.9: 9.6}, 4),
    Layer(1024, 1024, 7, {0.5: 1.5, 0.7: 2.57, 0.8: 3.91, 0.9: 7.7}, 4),
    Layer(768, 3072, 0, {0.5: 1.94, 0.7: 3.4, 0.8: 5.09, 0.9: 8.5}, 4),
    Layer(3072, 768, 0, {0.5: 1.94, 0.7: 3.28, 0.8: 5.04, 0.9: 9.6}, 4),
    Layer(128, 128, 56, {0.5: 2.08, 0.7: 3.38, 0.8: 4.9, 0.9: 8.54}, 2),
    Layer(512, 512, 14, {0.5: 1.39, 0.7: 2.77, 0.8: 2.7, 0.9: 8.6}, 2),
    Layer(768, 3072, 0, {0.5: 1.52, 0.7: 2.84, 0.8: 4.7, 0.9: 9.8}, 2),
    Layer(3072, 768, 0, {0.5: 1.48, 0.7: 2.65, 0.8: 4.11, 0.9: 8.3}, 2),
)  # fmt: skip


def main() -> int:
    """Measure and print; exit code 1 if a layer is below its bar twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu.layers")
    parser.add_argument("--only", default="", help="layers whose name contains this text")
    parser.add_argument("--kernels", action="store_true", help="the table of microkernels instead")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if reason := CpuBackend().why_not(CPU):
        print(reason, file=sys.stderr)
        return 4
    peaks = {isa: peak for isa in features() if (peak := measure_peak(isa)) is not None}
    for isa, peak in peaks.items():
        print(
            f"peak {isa}: {peak.registers} GFLOP/s on registers, {peak.first_cache} from the first "
            f"cache, {peak.second_cache} from the second"
        )
    rows: list[dict[str, Any]] = []
    found = kernel_rows(peaks) if arguments.kernels else layer_rows(peaks, arguments.only)
    for row in found:
        if not rows:
            print("".join(f"{key:>{_width(key)}}" for key in row))
        rows.append(row)
        print("".join(f"{value:>{_width(key)}}" for key, value in row.items()), flush=True)
    if arguments.output:
        roofs = {isa: dataclasses.asdict(peak) for isa, peak in peaks.items()}
        record = {"machine": machine(), "peaks": roofs, "rows": rows}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if any(row.get("verdict") == "below" for row in rows) else 0


def _width(column: str) -> int:
    return 36 if column in ("layer", "kernel") else max(8, len(column) + 2)


def layer_rows(peaks: dict[str, Peak], only: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each layer and sparsity."""
    for layer in LAYERS:
        if only not in layer.name:
            continue
        dense = onnxruntime_seconds(layer)
        for sparsity, bar in layer.bars.items():
            yield layer_row(layer, sparsity, bar, dense, peaks)


def layer_row(
    layer: Layer, sparsity: float, bar: float, dense: float, peaks: dict[str, Peak]
) -> dict[str, Any]:
    """Measure one layer with the kernels of each instruction set."""
    matrix = weight_of(layer, sparsity)
    plan, x = plan_of(layer, matrix)
    columns = layer.side**2 or 128
    work = 2e-9 * int(np.count_nonzero(matrix)) * columns
    row: dict[str, Any] = {"layer": layer.name, "s": sparsity}
    for isa, peak in peaks.items():
        seconds = op_seconds(plan, x, isa)
        if isa == "avx2":
            ratio = _ratio(work / seconds, sparsity, peak)
            if ratio < TOLERANCE * bar:  # twice before it counts
                seconds = min(seconds, op_seconds(plan, x, isa))
                ratio = _ratio(work / seconds, sparsity, peak)
            row |= {"x88_avx2": round(ratio, 2), "bar": bar}
            row["verdict"] = "below" if ratio < TOLERANCE * bar else ""
        row[f"gf_{isa}"] = round(work / seconds, 1)
        row[f"peak_{isa}"] = round(work / seconds / peak.registers, 2)
        row[f"x_ort_{isa}"] = round(dense / seconds, 2)
    return row


def _ratio(gflops: float, sparsity: float, peak: Peak) -> float:
    return gflops / (1 - sparsity) / (DENSE_FRACTION * peak.registers)


def weight_of(layer: Layer, sparsity: float) -> NDArray[np.float32]:
    """Return a random matrix [M, K * window^2], pruned by magnitude."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((layer.m, layer.k * layer.window**2)).astype(np.float32)
    if layer.block_rows == 1:
        return prune_magnitude(matrix, sparsity)
    return prune_blocks(matrix, sparsity, layer.block_rows)


def plan_of(layer: Layer, matrix: NDArray[np.float32]) -> tuple[bytes, NDArray[np.float32]]:
    """Return the plan of a layer and its input."""
    kind, rank = (Kind.IMAGE, 4) if layer.side else (Kind.ROWS, 2)
    values = Value(kind, layer.k, rank), Value(kind, layer.m, rank)
    pad = layer.window // 2
    fields: dict[str, Any] = {}
    if layer.window > 1:
        fields = {"kernel": (layer.window,) * 2, "pads": (pad,) * 4}
    code = OpCode.CONV if layer.window > 1 else OpCode.LINEAR
    op = Op(code, (0,), 1, weight=0, **fields)
    plan = Plan((0,), (1,), values, (op,), (pack_blocks(matrix, layer.block_rows),))
    shape = (1, layer.k, layer.side, layer.side) if layer.side else (128, layer.k)
    return plan.to_bytes(), np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def op_seconds(plan: bytes, x: NDArray[np.float32], isa: str) -> float:
    """Return the least seconds of the one operator of a plan."""
    run = LoadedPlan(plan, isa=isa).prepare(x)
    best, count, start = np.inf, 0, time.perf_counter()
    while count < _REPEAT[0] or (count < _REPEAT[1] and time.perf_counter() - start < _SECONDS):
        seconds = np.zeros(3)
        run(seconds)
        best, count = min(best, float(seconds[0])), count + 1
    return best


def onnxruntime_seconds(layer: Layer) -> float:
    """Return the median seconds of ONNX Runtime's dense operator, called alone."""
    matrix = weight_of(layer, 0.0)
    _, x = plan_of(layer, matrix)
    if layer.side:
        size = layer.window
        node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[size // 2] * 4)
        weight = matrix.reshape(layer.m, layer.k, size, size)
    else:
        node, weight = helper.make_node("MatMul", ["x", "w"], ["y"]), matrix.T
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * x.ndim)],
        [numpy_helper.from_array(np.ascontiguousarray(weight), "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    contest = Contest()
    contest.enter("dense", ir.from_proto(helper.make_model(graph, opset_imports=opset)), {"x": x})
    return contest.run(0.3, (7, 15))["dense"]


NAME = re.compile(r"(f32|f16|i8)_(spmm|gemv)_(dense|unstructured|block(\d)x1)(?:_v(\d+))?__(\w+)")
DEPTHWISE = re.compile(r"f32_depthwise_(\w+?)_(?:any|k(\d)s(\d))__\w+")
_VALUES = {"f16": "float16", "i8": "int8"}


def kernel_rows(peaks: dict[str, Peak]) -> Iterator[dict[str, Any]]:
    """Yield every row of the table of microkernels with its GFLOP/s."""
    for isa in features():
        lanes = LANES[isa]
        for name in microkernels(isa):
            if match := DEPTHWISE.fullmatch(name):
                rate = depthwise_rate(match, isa, lanes)
            else:
                match = NAME.fullmatch(name)
                assert match is not None, name
                rate = product_rate(match, isa, lanes)
            row: dict[str, Any] = {"kernel": name, "gf": round(rate, 1)}
            if isa in peaks:
                row["peak"] = round(rate / peaks[isa].registers, 2)
            yield row


def product_rate(name: re.Match[str], isa: str, lanes: int) -> float:
    """Return the GFLOP/s of 128 -> 128 on 4 tiles, or of one column of 1024, on 10 % non-zeros or all."""
    kind, what, form, rows, vectors, _ = name.groups()
    block_rows, gemv = int(rows or 1), what == "gemv"
    size = 1024 if gemv else 128
    matrix = weight_of(Layer(size, size, 0, {}, block_rows), 0.0 if form == "dense" else 0.9)
    if kind != "f32":
        matrix = ROUNDINGS[_VALUES[kind]](matrix).astype(np.float32)
    tile = 0 if gemv else int(vectors) * lanes
    columns = 1 if gemv else 4 * tile
    values = (Value(Kind.ROWS, size, 2), Value(Kind.ROWS, size, 2))
    op = Op(OpCode.LINEAR, (0,), 1, weight=0)
    weight = Dense(matrix) if form == "dense" else narrow(pack_blocks(matrix, block_rows))
    tiles = () if gemv else (Tile(columns, 1, lanes, tile),)
    plan = Plan((0,), (1,), values, (op,), (weight,), tiles).to_bytes()
    x = np.random.default_rng(1).standard_normal((columns, size)).astype(np.float32)
    seconds = gemv_seconds(plan, x, isa) if gemv else op_seconds(plan, x, isa)
    return 2e-9 * int(np.count_nonzero(matrix)) * columns / seconds


def depthwise_rate(name: re.Match[str], isa: str, lanes: int) -> float:
    """Return the GFLOP/s on 64 images of 28 x 28, or of rows that share a vector."""
    form, channels = name[1], 64
    size, stride = int(name[2] or 7), int(name[3] or 1)
    side = lanes // 2 if form == "packed" else 28
    rng = np.random.default_rng(1)
    weight = Dense(rng.standard_normal((channels, size * size)).astype(np.float32))
    window = {"kernel": (size,) * 2, "stride": (stride,) * 2, "pads": (size // 2,) * 4}
    values = (Value(Kind.IMAGE, channels, 4),) * 2
    op = Op(OpCode.DEPTHWISE, (0,), 1, weight=0, **window)
    plan = Plan((0,), (1,), values, (op,), (weight,)).to_bytes()
    x = rng.standard_normal((1, channels, side, side)).astype(np.float32)
    outputs = channels * (-(-side // stride)) ** 2
    return 2e-9 * outputs * size * size / op_seconds(plan, x, isa)


def gemv_seconds(plan: bytes, x: NDArray[np.float32], isa: str) -> float:
    """Return the least seconds of a call: a plan of few columns has no clock inside."""
    run = LoadedPlan(plan, isa=isa).prepare(x)
    best = np.inf
    for _ in range(10 * _REPEAT[0]):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    sys.exit(main())
