"""Plans that are truncated, altered or made up: refused with a sentence, never executed.

``test_plan_sanitized.py`` runs the same cases, and more of them, on a library that checks every access.
"""

import dataclasses
import os
import struct
import zlib
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.backends.cpu.assemble import DOMAIN, OP_TYPE
from sparsec.backends.cpu.densify import densify_model
from sparsec.backends.cpu.library import LoadedPlan
from sparsec.backends.cpu.narrow import narrow
from sparsec.backends.cpu.pack import pack_blocks
from sparsec.backends.cpu.plan import Activation, Blocks, Dense, Kind, Op, OpCode, Plan, Tile, Value
from sparsec.ir.errors import ArtifactError, ShapeError
from sparsec.passes.rounding import to_float16, to_int8
from tests.backends.cpu.layers import NEEDS_LIBRARY, linear_plan, sparse_matrix

pytestmark = NEEDS_LIBRARY

HEADER = 128
# Altered plans of each kind that are tried; raised where the library is built with sanitizers.
TRIALS = int(os.environ.get("SPARSEC_FUZZ_TRIALS", "800"))
WORDS = (0, 1, 2, 3, 8, 64, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFC0, 0x10000, 0x7F800000)


@dataclasses.dataclass(frozen=True)
class Case:
    """A good plan and inputs that it runs on."""

    data: bytes
    inputs: tuple[np.ndarray, ...]


def _x(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def _linear(kind: str, columns: int) -> Case:
    matrix = sparse_matrix(np.random.default_rng(0), 21, 30, 0.7, 8 if kind != "f32" else 4)
    if kind == "f32":
        return Case(linear_plan(matrix, 4, bias=np.ones(21, np.float32)).to_bytes(), (_x(5, 30),))
    rounded = {"f16": to_float16, "i8": to_int8}[kind](matrix)
    weight = narrow(pack_blocks(rounded, 8))
    assert weight.values.itemsize < 4
    values = Value(Kind.ROWS, 30, 2), Value(Kind.ROWS, 21, 2)
    plan = Plan((0,), (1,), values, (Op(OpCode.LINEAR, (0,), 1, weight=0),), (weight,))
    return Case(plan.to_bytes(), (_x(columns, 30),))


def _wide() -> Case:
    """More columns than 16 bits number."""
    width = 65_600
    columns = np.array([0, 65_535, 65_599, 7], np.uint32)
    starts = np.array([0, 3, 4], np.uint32)
    weight = Blocks(2, width, starts, columns, np.ones((4, 1), np.float32))
    values = Value(Kind.ROWS, width, 2), Value(Kind.ROWS, 2, 2)
    plan = Plan((0,), (1,), values, (Op(OpCode.LINEAR, (0,), 1, weight=0),), (weight,))
    return Case(plan.to_bytes(), (_x(2, width),))


def _images() -> Case:
    """Window, depthwise window, pooling, residual product, mean."""
    rng = np.random.default_rng(1)
    weights = (
        pack_blocks(sparse_matrix(rng, 8, 3 * 9, 0.6), 1),
        Dense(rng.standard_normal((8, 9)).astype(np.float32)),
        Dense(rng.standard_normal((1, 8)).astype(np.float32)),
        pack_blocks(sparse_matrix(rng, 8, 8, 0.5, 4), 4),
    )
    window = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
    clip = {"activation": Activation.CLIP, "low": 0.0, "high": 6.0}
    ops = (
        Op(OpCode.CONV, (0,), 1, weight=0, bias=2, stride=(2, 2), **window, **clip),
        Op(OpCode.DEPTHWISE, (1,), 2, weight=1, **window),
        Op(OpCode.MAX_POOL, (2,), 3, **window),
        Op(OpCode.LINEAR, (3, 2), 4, weight=3, activation=Activation.HARD_SWISH),
        Op(OpCode.GLOBAL_AVERAGE_POOL, (4,), 5),
    )
    values = (Value(Kind.IMAGE, 3, 4), *(Value(Kind.IMAGE, 8, 4),) * 5)
    return Case(Plan((0,), (5, 2), values, ops, weights).to_bytes(), (_x(2, 3, 9, 10),))


def _encoder() -> Case:
    """Attention with a mask, norms, a gate."""
    rng = np.random.default_rng(2)
    tensors = (
        pack_blocks(sparse_matrix(rng, 8, 8, 0.5), 1),
        Dense(rng.standard_normal((1, 8)).astype(np.float32)),
    )
    rows = Value(Kind.ROWS, 8, 3)
    ops = (
        Op(OpCode.LINEAR, (0,), 2, weight=0, bias=1, activation=Activation.GELU),
        Op(OpCode.ATTENTION, (0, 2, 2, 1), 3, heads=2, alpha=0.5),
        Op(OpCode.LAYER_NORM, (3, 0), 4, gain=1, bias=1, alpha=1e-5),
        Op(OpCode.RMS_NORM, (4,), 5, gain=1, alpha=1e-5),
        Op(OpCode.MULTIPLY, (5, 4), 6, activation=Activation.SILU),
        Op(OpCode.ADD, (6, 0), 7),
    )
    values = (rows, Value(Kind.RAW, 0, 4), *(rows,) * 6)
    tiles = (Tile(10, 1, 8, 8), Tile(10, 1, 16, 16), Tile(10, 2, 8, 16))
    plan = Plan((0, 1), (7,), values, ops, tensors, tiles)
    return Case(plan.to_bytes(), (_x(2, 5, 8), np.zeros((2, 1, 5, 5), np.float32)))


CASES: dict[str, Callable[[], Case]] = {
    "blocks": lambda: _linear("f32", 5),
    "float16, few columns": lambda: _linear("f16", 1),
    "int8, few columns": lambda: _linear("i8", 1),
    "int8, tiles": lambda: _linear("i8", 5),
    "wide": _wide,
    "images": _images,
    "encoder": _encoder,
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[str(request.param)]()


def resealed(data: bytearray) -> bytes:
    """Give altered bytes a fitting size and checksum, so that the deeper checks are reached."""
    data[12:16] = struct.pack("<I", zlib.crc32(bytes(data[HEADER:])))
    data[16:24] = struct.pack("<Q", len(data))
    return bytes(data)


def test_round_trip(case: Case) -> None:
    assert Plan.from_bytes(case.data).to_bytes() == case.data
    for y in LoadedPlan(case.data).run(*case.inputs):
        assert np.isfinite(y).all()


def test_every_truncation_is_refused(case: Case) -> None:
    for size in range(len(case.data)):
        with pytest.raises(ArtifactError):
            LoadedPlan(case.data[:size])
        if size % 7 == 0:
            with pytest.raises(ArtifactError):
                Plan.from_bytes(case.data[:size])


def test_every_truncation_with_a_fitting_checksum_is_refused(case: Case) -> None:
    for size in range(HEADER, len(case.data)):
        with pytest.raises(ArtifactError):
            LoadedPlan(resealed(bytearray(case.data[:size])))


def test_every_flipped_bit_is_refused(case: Case) -> None:
    for at in range(len(case.data)):
        broken = bytearray(case.data)
        broken[at] ^= 1 << at % 8
        with pytest.raises(ArtifactError):
            LoadedPlan(bytes(broken))


def test_resealed_garbage_never_crashes(case: Case) -> None:
    """Past the checksum every field is still checked: a plan either loads and runs, or is refused."""
    rng = np.random.default_rng(1)
    refused = ran = 0
    for _trial in range(TRIALS):
        broken = bytearray(case.data)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(8, len(case.data) - 4)) & ~3
            choices = (*WORDS, int(rng.integers(0, 1 << 32)), int(rng.integers(0, 64)))
            broken[at : at + 4] = struct.pack("<I", choices[int(rng.integers(len(choices)))])
        try:
            plan = LoadedPlan(resealed(broken))
            plan.run(*case.inputs)
            ran += 1
        except (ArtifactError, ShapeError):
            refused += 1
    assert refused > TRIALS // 10
    assert ran > TRIALS // 100


def test_every_word_at_its_borders(case: Case) -> None:
    """Each word of the header and of the tables, at each extreme value, one at a time."""
    (tensors_at,) = struct.unpack_from("<Q", case.data, 72)
    tables = [*range(8, min(len(case.data), 1200), 4), *range(tensors_at, len(case.data), 4)]
    refused = 0
    for at in tables:
        for word in WORDS:
            broken = bytearray(case.data)
            broken[at : at + 4] = struct.pack("<I", word)
            try:
                LoadedPlan(resealed(broken)).run(*case.inputs)
            except (ArtifactError, ShapeError):  # and no other, and no crash
                refused += 1
    assert len(tables) < refused < len(tables) * len(WORDS)


def region(data: bytes) -> ir.Model:
    """Return a graph of one Region node with this plan, as an artifact holds it."""
    inputs, outputs = struct.unpack_from("<2I", data, 24)
    plan = ir.Value(name="plan", const_value=ir.tensor(np.frombuffer(data, np.uint8), name="plan"))
    given = [ir.Value(name=f"x{i}") for i in range(min(inputs, 4))]
    node = ir.Node(
        DOMAIN, OP_TYPE, [plan, *given], num_outputs=max(1, min(outputs, 4)), name="region_0"
    )
    for i, output in enumerate(node.outputs):
        output.name = f"y{i}"
    graph = ir.Graph(
        given, node.outputs, nodes=[node], initializers=[plan], opset_imports={"": 17, DOMAIN: 1}
    )
    return ir.Model(graph, ir_version=10)


def test_a_damaged_plan_is_unpacked_or_refused_by_name(case: Case) -> None:
    """What ``verify`` unpacks is checked without the library: one error, or stock operators."""
    stock = densify_model(region(case.data))
    assert all(node.domain == "" for node in stock.graph)
    (tensors_at,) = struct.unpack_from("<Q", case.data, 72)
    tables = [*range(24, min(len(case.data), 1200), 4), *range(tensors_at, len(case.data), 4)]
    refused = 0
    for at in tables:
        for word in (0, 3, 0x7FFFFFFF, 0xFFFFFFFF):
            broken = bytearray(case.data)
            broken[at : at + 4] = struct.pack("<I", word)
            try:
                densify_model(region(resealed(broken)), "a.sparsec")
            except ArtifactError as error:  # and no other
                start = "a.sparsec: the artifact is damaged: node 'region_0': "
                refused += error.message.startswith(start)
    assert refused > len(tables) // 2


@pytest.mark.parametrize("field", range(24, 48, 4))
def test_huge_counts_are_refused(field: int) -> None:
    broken = bytearray(CASES["blocks"]().data)
    broken[field : field + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(ArtifactError):
        LoadedPlan(resealed(broken))


@pytest.mark.parametrize("field", ["starts_at", "columns_at", "values_at", "scales_at", "count"])
@pytest.mark.parametrize("at", [1, 64, (1 << 63) - 64, (1 << 64) - 64, (1 << 64) - 1, 1 << 62])
def test_offsets_and_counts_that_overflow_are_refused(field: str, at: int) -> None:
    """No sum of an offset and a size wraps around."""
    data = bytearray(CASES["int8, few columns"]().data)
    (tensors_at,) = struct.unpack_from("<Q", data, 72)
    place = 16 + 8 * ("count", "starts_at", "columns_at", "values_at", "scales_at").index(field)
    struct.pack_into("<Q", data, tensors_at + place, at)
    with pytest.raises(ArtifactError):
        LoadedPlan(resealed(data))


def test_wrong_inputs_are_refused() -> None:
    plan = LoadedPlan(CASES["blocks"]().data)
    for x in (np.ones((5, 31)), np.ones(30), np.ones((1, 5, 30)), np.ones((0, 29))):
        with pytest.raises(ShapeError):
            plan.run(x.astype(np.float32))
    assert plan.run(np.ones((0, 30), np.float32))[0].shape == (0, 21)


def test_values_in_rows_beyond_the_last_are_refused() -> None:
    """A block of four of the last row alone: the three rows that do not exist hold zeros."""
    for kind in (np.float32, np.float16):
        matrix = np.zeros((9, 30), np.float32)
        matrix[8, 3] = 1.5
        weight = pack_blocks(matrix, 4 if kind is np.float32 else 8)
        if kind is np.float16:
            weight = narrow(weight)
        values = Value(Kind.ROWS, 30, 2), Value(Kind.ROWS, 9, 2)
        plan = Plan((0,), (1,), values, (Op(OpCode.LINEAR, (0,), 1, weight=0),), (weight,))
        LoadedPlan(plan.to_bytes())
        held = weight.values.copy()
        held[-1, -1] = 1.0
        broken = dataclasses.replace(plan, tensors=(dataclasses.replace(weight, values=held),))
        with pytest.raises(ArtifactError, match="rows beyond the last"):
            LoadedPlan(broken.to_bytes())


def test_a_padding_beyond_the_window_is_refused() -> None:
    """A few bytes must not ask for an image of any size."""
    op = Op(OpCode.MAX_POOL, (0,), 1, kernel=(1, 1), pads=(4096, 4096, 4096, 4096))
    plan = Plan((0,), (1,), (Value(Kind.IMAGE, 1, 4),) * 2, (op,), ())
    with pytest.raises(ArtifactError, match="window out of range"):
        LoadedPlan(plan.to_bytes())


def test_a_long_chain_of_sizes_neither_ends_the_stack_nor_takes_minutes() -> None:
    count = 20_000
    ops = tuple(Op(OpCode.DEPTHWISE, (i,), i + 1, weight=0, kernel=(1, 2)) for i in range(count))
    half = Dense(np.full((1, 2), 0.5, np.float32))
    values = (Value(Kind.IMAGE, 1, 4),) * (count + 1)
    plan = LoadedPlan(Plan((0,), (count,), values, ops, (half,)).to_bytes())
    (y,) = plan.run(np.ones((1, 1, 1, count + 3), np.float32))
    np.testing.assert_array_equal(y, np.ones((1, 1, 1, 3), np.float32))
