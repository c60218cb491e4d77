"""Random graphs of images against float64: any sizes, several threads, tiles of any width."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsec.backends.cpu.library import LANES, LoadedPlan
from sparsec.backends.cpu.pack import pack_blocks
from sparsec.backends.cpu.plan import Activation, Blocks, Dense, Kind, Op, OpCode, Plan, Tile, Value
from tests.backends.cpu.layers import NEEDS_LIBRARY, sparse_matrix
from tests.backends.cpu.test_window import windows

pytestmark = NEEDS_LIBRARY

Image = NDArray[np.float64]  # [B, C, H, W]


class RandomGraph:
    """A plan that grows operator by operator, with what float64 makes of each value."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.ops: list[Op] = []
        self.tensors: list[Dense | Blocks] = []
        self.values: list[Image] = []
        height, width, channels = (
            int(n) for n in (*rng.integers(2, 40, 2), rng.choice([1, 3, 5, 16, 40]))
        )
        batch = int(rng.integers(1, 3))
        # The second image may have the rows of the first as columns: as many pixels, other widths.
        sizes = [(height, width), (width, height)][: int(rng.integers(1, 3))]
        self.inputs = [
            rng.standard_normal((batch, channels, *size)).astype(np.float32) for size in sizes
        ]
        self.values.extend(x.astype(np.float64) for x in self.inputs)
        for _ in range(int(rng.integers(1, 8))):
            self.grow()

    def grow(self) -> None:
        at = int(self.rng.integers(len(self.values)))
        match self.rng.choice(
            ["depthwise", "linear", "conv", "add", "pool"], p=[0.4, 0.3, 0.1, 0.1, 0.1]
        ):
            case "depthwise":
                self.window(OpCode.DEPTHWISE, at)
            case "linear":
                self.linear(at)
            case "conv":
                self.window(OpCode.CONV, at)
            case "pool":
                self.window(OpCode.MAX_POOL, at)
            case _:
                self.put(Op(OpCode.ADD, (at, self.like(at)), 0), lambda a, b: a + b)

    def like(self, at: int) -> int:
        """Return a random value of the shape of one."""
        shape = self.values[at].shape
        return int(self.rng.choice([i for i, v in enumerate(self.values) if v.shape == shape]))

    def weight(self, rows: int, columns: int) -> tuple[int, NDArray[np.float64]]:
        block = int(self.rng.choice([1, 2, 4]))
        matrix = sparse_matrix(self.rng, rows, columns, self.rng.choice([0.5, 0.9]), block)
        matrix /= np.float32(np.sqrt(columns / 4))
        stored = Dense(matrix) if self.rng.random() < 0.2 else pack_blocks(matrix, block)
        self.tensors.append(stored)
        return len(self.tensors) - 1, matrix.astype(np.float64)

    def linear(self, at: int) -> None:
        channels = self.values[at].shape[1]
        rows = channels if self.rng.random() < 0.4 else int(self.rng.integers(1, 40))
        index, w = self.weight(rows, channels)
        if rows == channels and self.rng.random() < 0.5:
            op = Op(OpCode.LINEAR, (at, self.like(at)), 0, weight=index)
            self.put(op, lambda x, r: np.einsum("bchw,oc->bohw", x, w) + r)
        else:
            op = Op(OpCode.LINEAR, (at,), 0, weight=index)
            self.put(op, lambda x: np.einsum("bchw,oc->bohw", x, w))

    def window(self, code: OpCode, at: int) -> None:
        rng, (_, channels, *size) = self.rng, self.values[at].shape
        square = rng.random() < 0.8
        kernel = tuple(
            int(k) for k in (rng.choice([3, 5], 1).repeat(2) if square else rng.integers(1, 5, 2))
        )
        stride = tuple(
            int(s) for s in (rng.choice([1, 2], 1).repeat(2) if square else rng.integers(1, 4, 2))
        )
        dilation = (1, 1) if rng.random() < 0.8 else (2, 2)
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        pads = tuple(int(rng.integers(0, reach[i % 2] + 1)) for i in range(4))
        if any(n + pads[i] + pads[i + 2] <= reach[i] for i, n in enumerate(size)):
            return
        form = kernel, stride, pads, dilation
        fields = {"kernel": kernel, "stride": stride, "pads": pads, "dilation": dilation}
        if code is OpCode.MAX_POOL:
            self.put(
                Op(code, (at,), 0, **fields), lambda x: windows(x, *form, fill=-np.inf).max((4, 5))
            )
        elif code is OpCode.DEPTHWISE:
            matrix = rng.standard_normal((channels, kernel[0] * kernel[1])).astype(np.float32) / 3
            self.tensors.append(Dense(matrix))
            w = matrix.reshape(channels, *kernel).astype(np.float64)
            op = Op(code, (at,), 0, weight=len(self.tensors) - 1, **fields)
            self.put(op, lambda x: np.einsum("bchwij,cij->bchw", windows(x, *form), w))
        else:
            index, flat = self.weight(int(rng.integers(1, 20)), channels * kernel[0] * kernel[1])
            w = flat.reshape(len(flat), channels, *kernel)
            op = Op(code, (at,), 0, weight=index, **fields)
            self.put(op, lambda x: np.einsum("bchwij,ocij->bohw", windows(x, *form), w))

    def put(self, op: Op, compute: Callable[..., Image]) -> None:
        y = compute(*(self.values[i] for i in op.inputs if i < len(self.values)))
        if not np.isfinite(
            y
        ).all():  # the maximum of padding alone; products skip zeros, not infinities
            return
        op = dataclasses.replace(op, output=len(self.values))
        if op.code is not OpCode.MAX_POOL and self.rng.random() < 0.3:
            op = dataclasses.replace(op, activation=Activation.CLIP, low=-0.5, high=2.0)
            y = np.clip(y, -0.5, 2.0)
        self.ops.append(op)
        self.values.append(y)

    def plan(self, lanes: int, threads: int) -> Plan:
        """The plan, all values of operators leaving it, with hints for some numbers of columns."""
        made = range(len(self.inputs), len(self.values))
        columns = {v.shape[2] * v.shape[3]: v.shape[3] for v in self.values[made.start :]}
        tiles = tuple(
            Tile(
                n,
                threads,
                lanes,
                int(self.rng.choice([width, 4 * lanes, 8])) * int(self.rng.integers(1, 4)),
            )
            for n, width in columns.items()
            if self.rng.random() < 0.4
        )
        kinds = tuple(Value(Kind.IMAGE, v.shape[1], 4) for v in self.values)
        inputs = tuple(range(len(self.inputs)))
        outputs = tuple(i for i in made if i == made[-1] or self.rng.random() < 0.6)
        return Plan(inputs, outputs, kinds, tuple(self.ops), tuple(self.tensors), tiles)


def check(seed: int, isa: str) -> None:
    rng = np.random.default_rng(seed)
    graph = RandomGraph(rng)
    if not graph.ops:
        return
    first = None
    for threads in (1, int(rng.choice([2, 3, 5]))):
        plan = graph.plan(LANES[isa], threads)
        loaded = LoadedPlan(plan.to_bytes(), isa=isa, threads=threads)
        for _ in range(3):
            found = dict(zip(plan.outputs, loaded.run(*graph.inputs), strict=True))
            for value, y in found.items():
                want = graph.values[value]
                worst = np.abs(y - want).max(initial=0.0)
                bound = 1e-4 * (1.0 + np.abs(want).max(initial=0.0))
                assert worst < bound, f"value {value}, {threads} threads: {worst}"
            last = found[plan.outputs[-1]]
            first = last if first is None else first
            np.testing.assert_array_equal(last, first)


@pytest.mark.parametrize("seeds", range(0, 200, 50))
def test_random_images(isa: str, seeds: int) -> None:
    for seed in range(seeds, seeds + 50):
        check(seed, isa)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", range(1000, 6000, 500))
def test_many_random_images(isa: str, seeds: int) -> None:
    for seed in range(seeds, seeds + 500):
        check(seed, isa)


@pytest.mark.parametrize(
    ("size", "channels"), [((8, 8), 64), ((8, 8), 960), ((8, 4), 64), ((6, 6), 32)]
)
def test_rows_shorter_than_a_vector_by_several_threads(
    isa: str, size: tuple[int, int], channels: int
) -> None:
    """A window with a stride: what is stored of a channel's last rows may not reach the next channel."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((channels, 9)).astype(np.float32)
    op = Op(OpCode.DEPTHWISE, (0,), 1, weight=0, kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1))
    plan = Plan((0,), (1,), (Value(Kind.IMAGE, channels, 4),) * 2, (op,), (Dense(weight),))
    x = rng.standard_normal((1, channels, *size)).astype(np.float32)
    patches = windows(x, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    want = np.einsum("bchwij,cij->bchw", patches, weight.reshape(channels, 3, 3).astype(np.float64))
    for threads in (1, 2, 4):
        loaded = LoadedPlan(plan.to_bytes(), isa=isa, threads=threads)
        for _ in range(100):
            np.testing.assert_allclose(loaded.run(x)[0], want, atol=1e-4)


@pytest.mark.parametrize("size", [(40, 30), (60, 56), (28, 20)])
def test_images_of_as_many_pixels_and_other_widths(isa: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    channels, window = 32, {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
    matrix = sparse_matrix(rng, channels, channels, 0.8)
    weight = rng.standard_normal((channels, 9)).astype(np.float32)
    ops = (
        Op(OpCode.LINEAR, (1,), 2, weight=0),
        Op(OpCode.DEPTHWISE, (2,), 3, weight=1, **window),
        Op(OpCode.DEPTHWISE, (0,), 4, weight=1, **window),
    )
    values = (Value(Kind.IMAGE, channels, 4),) * 5
    plan = Plan((0, 1), (3, 4), values, ops, (pack_blocks(matrix, 1), Dense(weight)))
    a = rng.standard_normal((1, channels, *size)).astype(np.float32)
    b = rng.standard_normal((1, channels, *size[::-1])).astype(np.float32)

    def depthwise(x: NDArray[np.float64]) -> NDArray[np.float64]:
        patches = windows(x, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
        return np.einsum(
            "bchwij,cij->bchw", patches, weight.reshape(channels, 3, 3).astype(np.float64)
        )

    want = depthwise(np.einsum("bchw,oc->bohw", b, matrix.astype(np.float64))), depthwise(a)
    for threads in (1, 2, 4):
        got = LoadedPlan(plan.to_bytes(), isa=isa, threads=threads).run(a, b)
        for y, expected in zip(got, want, strict=True):
            np.testing.assert_allclose(y, expected, atol=1e-3)
