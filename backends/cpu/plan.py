"""Plans: the bytes that tell ``libsparsec_cpu`` what a region computes, weights included.

``docs/formats/cpu-plan.md`` specifies them. A plan is written here and read by the C++ library, which
checks every number itself. The reader here serves ``densify`` and the tests: what it returns refers to
nothing that is not there.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import struct
import zlib
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import ArtifactError

VERSION = 1
MAGIC = b"SPCPLAN\0"
NONE = 0xFFFFFFFF

_HEADER = struct.Struct("<8sIIQ6I5Q40x")
_ALIGN = 64
_TABLE_ALIGN = 8
_MAX_COUNT = 1 << 16
MOST_HELD = 4096  # columns of a tile


class Kind(enum.IntEnum):
    """What a value is outside: ``[.., C]``, ``[B, C, H, W]``, or a tensor that is only passed on."""

    ROWS = 1
    IMAGE = 2
    RAW = 3


class OpCode(enum.IntEnum):
    """What an operator computes."""

    LINEAR = 1
    CONV = 2
    DEPTHWISE = 3
    ADD = 4
    ACTIVATION = 5
    LAYER_NORM = 6
    ATTENTION = 7
    MAX_POOL = 8
    GLOBAL_AVERAGE_POOL = 9
    RMS_NORM = 10
    MULTIPLY = 11


class Activation(enum.IntEnum):
    """What is applied to a finished element."""

    NONE = 0
    CLIP = 1
    GELU = 2
    GELU_TANH = 3
    SILU = 4
    HARD_SWISH = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """A value of the plan."""

    kind: Kind
    channels: int
    rank: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """A hint: values of ``columns`` are best cut into tiles of ``held`` columns.

    It is for so many threads and for kernels with vectors of so many lanes; for all others the library
    chooses.
    """

    columns: int
    threads: int
    lanes: int
    held: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A tensor float32 [rows, columns]."""

    values: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        rows, columns = self.values.shape
        return rows, columns


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A matrix of which blocks of ``block_rows`` x 1 are kept, group of rows by group of rows.

    Parameters
    ----------
    starts : uint32 [ceil(rows / block_rows) + 1]
        First block of each group of rows.
    columns : uint16 or uint32 [blocks]
        Column of each block, ascending within its group.
    values : float32, float16 or int8 [blocks, block_rows]
        Rows beyond the last are zero. Only blocks of 8 rows may be stored narrower than float32.
    scales : float32 [groups * block_rows], optional
        Of int8 values: what those of a row are multiplied by.
    """

    rows: int
    width: int
    starts: NDArray[np.uint32]
    columns: NDArray[np.unsignedinteger]
    values: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.int8]
    scales: NDArray[np.float32] | None = None

    @property
    def block_rows(self) -> int:
        """Rows that share a column."""
        return int(self.values.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of the matrix."""
        return self.rows, self.width


Tensor: TypeAlias = Dense | Blocks


@dataclasses.dataclass(frozen=True, slots=True)
class Op:
    """One operator; value and tensor fields are indices, or :data:`NONE`."""

    code: OpCode
    inputs: tuple[int, ...]
    output: int
    activation: Activation = Activation.NONE
    weight: int = NONE
    bias: int = NONE
    gain: int = NONE
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    heads: int = 0
    low: float = -math.inf
    high: float = math.inf
    alpha: float = 0.0
    depth_hint: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A region: which values come in and go out, the operators in order, and hints."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    tensors: tuple[Tensor, ...]
    tiles: tuple[Tile, ...] = ()

    def to_bytes(self) -> bytes:
        """Serialise; equal plans give equal bytes."""
        return _write(self)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Plan:
        """Read a plan.

        Raises
        ------
        ArtifactError
            If the bytes are no plan of this version, truncated or altered.
        """
        return _read(bytes(data))


_DENSE = 1  # the kind of a dense tensor; those of blocks by the type of their values:
_KINDS = {"<f4": 2, "<f2": 3, "|i1": 4}
_TYPES = {kind: dtype for dtype, kind in _KINDS.items()}

_VALUE = np.dtype(
    [
        ("kind", "<u4"),
        ("channels", "<u4"),
        ("reserved0", "<u4"),
        ("rank", "<u4"),
        ("reserved", "<u4", 4),
    ]
)
_TILE = np.dtype([(field.name, "<u4") for field in dataclasses.fields(Tile)])
_TENSOR = np.dtype(
    [
        ("kind", "<u4"),
        ("rows", "<u4"),
        ("columns", "<u4"),
        ("block_rows", "<u4"),
        ("count", "<u8"),
        ("starts_at", "<u8"),
        ("columns_at", "<u8"),
        ("values_at", "<u8"),
        ("scales_at", "<u8"),
    ]
)
_OP = np.dtype(
    [
        ("code", "<u4"),
        ("activation", "<u4"),
        ("inputs", "<u4", 4),
        ("output", "<u4"),
        ("weight", "<u4"),
        ("bias", "<u4"),
        ("gain", "<u4"),
        ("kernel", "<i4", 2),
        ("stride", "<i4", 2),
        ("pads", "<i4", 4),
        ("dilation", "<i4", 2),
        ("heads", "<u4"),
        ("low", "<f4"),
        ("high", "<f4"),
        ("alpha", "<f4"),
        ("depth_hint", "<u4"),
        ("reserved", "<u4", 7),
    ]
)


class _Body:
    """The bytes after the header, grown piece by piece at aligned offsets."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = _HEADER.size

    def add(self, data: bytes, align: int) -> int:
        padding = -self.size % align
        self.parts += [b"\0" * padding, data]
        at = self.size + padding
        self.size = at + len(data)
        return at


def _write(plan: Plan) -> bytes:
    body = _Body()
    io_at = body.add(np.array([*plan.inputs, *plan.outputs], "<u4").tobytes(), _TABLE_ALIGN)
    values = np.zeros(len(plan.values), _VALUE)
    for row, value in zip(values, plan.values, strict=True):
        row["kind"], row["channels"], row["rank"] = value.kind, value.channels, value.rank
    values_at = body.add(values.tobytes(), _TABLE_ALIGN)
    ops = np.zeros(len(plan.ops), _OP)
    for row, op in zip(ops, plan.ops, strict=True):
        for field in dataclasses.fields(op):
            value = getattr(op, field.name)
            row[field.name] = _padded(value) if field.name == "inputs" else value
    ops_at = body.add(ops.tobytes(), _TABLE_ALIGN)
    # The table of tensors comes last, because it names where their data went.
    records = np.zeros(len(plan.tensors), _TENSOR)
    for row, tensor in zip(records, plan.tensors, strict=True):
        _store(tensor, row, body)
    tensors_at = body.add(records.tobytes(), _TABLE_ALIGN)
    tiles = np.array([dataclasses.astuple(tile) for tile in plan.tiles], _TILE)
    tiles_at = body.add(tiles.tobytes(), _TABLE_ALIGN) if plan.tiles else 0
    rest = b"".join(body.parts)
    counts = len(plan.inputs), len(plan.outputs), len(plan.values), len(plan.ops), len(plan.tensors)
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        zlib.crc32(rest),
        body.size,
        *counts,
        len(plan.tiles),
        io_at,
        values_at,
        ops_at,
        tensors_at,
        tiles_at,
    )
    return header + rest


def _store(tensor: Tensor, row: Any, body: _Body) -> None:
    """Append the data of a tensor to ``body`` and describe it in its row of the table."""

    def add(array: NDArray[Any], dtype: Any) -> int:
        return body.add(np.ascontiguousarray(array, dtype).tobytes(), _ALIGN)

    if isinstance(tensor, Dense):
        row["kind"], row["block_rows"], row["count"] = _DENSE, 1, tensor.values.size
        row["rows"], row["columns"] = tensor.values.shape
        row["values_at"] = add(tensor.values, "<f4")
        return
    dtype = tensor.values.dtype.newbyteorder("<")
    row["kind"] = _KINDS[dtype.str]
    row["block_rows"], row["count"] = tensor.block_rows, len(tensor.columns)
    row["rows"], row["columns"] = tensor.rows, tensor.width
    row["starts_at"] = add(tensor.starts, "<u4")
    row["columns_at"] = add(tensor.columns, _column_type(tensor.width))
    row["values_at"] = add(tensor.values, dtype)
    if tensor.scales is not None:
        row["scales_at"] = add(tensor.scales, "<f4")


def _padded(inputs: tuple[int, ...]) -> list[int]:
    return [*inputs, *[NONE] * (4 - len(inputs))]


def _column_type(width: int) -> str:
    return "<u2" if width <= 65536 else "<u4"


def _read(data: bytes) -> Plan:
    if len(data) < _HEADER.size:
        raise ArtifactError(f"plan: {len(data)} bytes are too few for a header")
    magic, version, crc, size, n_in, n_out, n_values, n_ops, n_tensors, n_tiles, *tables = (
        _HEADER.unpack_from(data)
    )
    if magic != MAGIC:
        raise ArtifactError("plan: this is not a plan (wrong magic bytes)")
    if version != VERSION:
        raise ArtifactError(f"plan: version {version}, this SparseC reads version {VERSION}")
    if size != len(data):
        raise ArtifactError(
            f"plan: {size} bytes by its header, got {len(data)}: truncated or padded"
        )
    if zlib.crc32(data[_HEADER.size :]) != crc:
        raise ArtifactError("plan: checksum differs: the bytes were altered")
    if max(n_in, n_out, n_values, n_ops, n_tensors, n_tiles) > _MAX_COUNT:
        raise ArtifactError("plan: a table is too long")
    io_at, values_at, ops_at, tensors_at, tiles_at = tables
    io = _array(data, "<u4", io_at, n_in + n_out).tolist()
    value_rows = _array(data, _VALUE, values_at, n_values)
    op_rows = _array(data, _OP, ops_at, n_ops)
    reserved = (value_rows["reserved0"], value_rows["reserved"], op_rows["reserved"])
    if any(each.any() for each in reserved):
        raise ArtifactError("plan: a reserved field is not zero")
    try:
        values = tuple(
            Value(Kind(int(v["kind"])), int(v["channels"]), int(v["rank"])) for v in value_rows
        )
        ops = tuple(map(_op, op_rows))
    except ValueError as error:  # of an enumeration
        raise ArtifactError(f"plan: {error}") from error
    tensors = tuple(_tensor(data, row) for row in _array(data, _TENSOR, tensors_at, n_tensors))
    if tiles_at != (size - n_tiles * _TILE.itemsize if n_tiles else 0):
        raise ArtifactError("plan: the table of tile hints is not at its end")
    tile_rows = _array(data, _TILE, tiles_at, n_tiles).tolist() if n_tiles else []
    tiles = tuple(Tile(*row) for row in tile_rows)
    plan = Plan(tuple(io[:n_in]), tuple(io[n_in:]), values, ops, tensors, tiles)
    _check_references(plan)
    if any(min(dataclasses.astuple(t)) < 1 or t.held > MOST_HELD for t in tiles):
        raise ArtifactError("plan: a tile hint of no columns, or too many")
    return plan


# Inputs that an operator cannot do without, if it is more than the first.
_OPERANDS = {OpCode.ADD: 2, OpCode.MULTIPLY: 2, OpCode.ATTENTION: 3}


def _check_references(plan: Plan) -> None:
    """Refuse a plan that names a value before it is made, or a tensor that it does not hold."""
    made = set(plan.inputs)
    for number, op in enumerate(plan.ops):
        needed = op.inputs[: _OPERANDS.get(op.code, 1)]
        if len(needed) < _OPERANDS.get(op.code, 1) or NONE in needed:
            raise ArtifactError(f"plan: operator {number} ({op.code.name}) lacks an input")
        if not made.issuperset(set(op.inputs) - {NONE}):
            raise ArtifactError(f"plan: operator {number} reads a value that is not made before it")
        held = len(plan.tensors)
        if any(held <= each != NONE for each in (op.weight, op.bias, op.gain)):
            raise ArtifactError(f"plan: operator {number} reads a tensor that is not there")
        if op.output in made:
            raise ArtifactError(f"plan: operator {number} makes a value that is there already")
        made.add(op.output)
    if not made.issuperset(plan.outputs) or max(made, default=0) >= len(plan.values):
        raise ArtifactError("plan: a value is not in its table, or an output is never made")


def _array(data: bytes, dtype: Any, at: int, count: int) -> NDArray[Any]:
    dtype = np.dtype(dtype)
    if at < _HEADER.size or at + count * dtype.itemsize > len(data):
        raise ArtifactError("plan: a table or tensor reaches beyond the plan")
    return np.frombuffer(data, dtype, count, at)


def _op(row: Any) -> Op:
    fields: dict[str, Any] = {}
    for name in _OP.names or ():
        value = row[name].tolist()
        fields[name] = tuple(value) if isinstance(value, list) else value
    del fields["reserved"]
    fields["code"] = OpCode(fields["code"])
    fields["activation"] = Activation(fields["activation"])
    while fields["inputs"] and fields["inputs"][-1] == NONE:
        fields["inputs"] = fields["inputs"][:-1]
    return Op(**fields)


def _tensor(data: bytes, row: Any) -> Tensor:
    rows, width, block_rows, count = (
        int(row[n]) for n in ("rows", "columns", "block_rows", "count")
    )
    if row["kind"] == _DENSE:
        if count != rows * width:
            raise ArtifactError("plan: a dense tensor has a wrong count")
        return Dense(_array(data, "<f4", int(row["values_at"]), count).reshape(rows, width))
    dtype = _TYPES.get(int(row["kind"]))
    if dtype is None or block_rows not in ((1, 2, 4, 8) if dtype == "<f4" else (8,)):
        raise ArtifactError("plan: a tensor of unknown kind")
    groups = -(-rows // block_rows)
    starts = _array(data, "<u4", int(row["starts_at"]), groups + 1)
    columns = _array(data, _column_type(width), int(row["columns_at"]), count)
    values = _array(data, dtype, int(row["values_at"]), count * block_rows).reshape(
        count, block_rows
    )
    scales = None
    if dtype == "|i1":
        scales = _array(data, "<f4", int(row["scales_at"]), groups * block_rows)
    if starts[0] != 0 or starts[-1] != count or (np.diff(starts.astype(np.int64)) < 0).any():
        raise ArtifactError("plan: the starts of a tensor do not span it")
    if count and int(columns.max()) >= width:
        raise ArtifactError("plan: a column of a tensor does not exist")
    return Blocks(rows, width, starts, columns, values, scales)
