"""The CUDA C++ kernels: which compiled forms exist, and what a launch of each one needs.

M, N, K, bias, residual, activation and the type of y are run-time facts of every form. Compiled in are
the rows of x, the 16-bit type, and how x can be read.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("csrc")
BUCKETS = (8, 16, 32, 64)
NATIVE = ("nm24_sp", "nm14_sp", "lps")  # the formats that these kernels read
FRAGMENTS = ("nm24_sp", "nm14_sp")  # those stored as fragments of mma.sp: one source, nm_sp.cuh
VALUES = ("", "float8_e4m3fn", "int8")  # stored values by their number in values.cuh; "" as x
ACTIVATIONS = ("none", "relu", "gelu", "silu", "gelu_tanh")  # by their number in finish.cuh

_THREADS = 256
_SHORT = {"float16": "f16", "bfloat16": "bf16"}
_STORED = {"": "", "float8_e4m3fn": "e4m3", "int8": "i8"}
_SMALL_SHARED = (86, 88, 89, 120, 121)  # 99 KiB of shared memory a block at most
_SHARED_KIB = {80: 164, 86: 100, 87: 164, 89: 100, 90: 228, 100: 228, 120: 100}  # of a processor
_RESERVED = 1024  # bytes of shared memory that the driver takes of each block

# Processors of the device that the architecture is built for; they decide only into how many blocks the
# reduction is split.
_PROCESSORS = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148, 120: 170}
_CLEAR_BYTES, _CLEAR_BYTES_8 = 0.62, 0.41  # an element of lps, of 16 and 8-bit values, see clears()
_MAX_SPLIT = 16
_STORED_BYTES = {"nm24_sp": 1.125, "nm14_sp": 0.5625, "lps": 0.9}  # of an element, about
_MIN_COLUMNS = 512  # of a block: below, the partial sums cost more than they bring


@dataclasses.dataclass(frozen=True, slots=True)
class NativeVariant:
    """One compiled form of ``nm24_sp_linear``, ``nm14_sp_linear`` or ``lps_linear``.

    Parameters
    ----------
    format : str
        One of ``NATIVE``.
    dtype : str
        ``"float16"`` or ``"bfloat16"``: x, what is multiplied, and y unless it is float32.
    sm : int
        Compute capability, 80 for 8.0.
    bucket : int
        Rows of x that one block handles.
    aligned : bool
        K is a multiple of 8: rows of x start on 16-byte borders.
    even : bool
        K is a multiple of 64: no step needs a mask.
    clear : bool
        ``lps`` only: zero what was written, not the whole tile.
    values : str
        ``"float8_e4m3fn"`` or ``"int8"`` for stored values with a scale for each row; empty for
        values of ``dtype``.
    """

    format: str
    dtype: str
    sm: int
    bucket: int
    aligned: bool = True
    even: bool = True
    clear: bool = False
    values: str = ""

    @property
    def name(self) -> str:
        """``<dtype>_<op>_<pattern>_<tile>__<isa>``, as all microkernels are named."""
        ragged = "" if self.even else ("_ragged" if self.aligned else "_ragged_unaligned")
        tags = ragged + ("_clear" if self.clear else "")
        tile = f"{self.block_rows}x{self.bucket}x64"
        form = self.format + _STORED[self.values]
        return f"{_SHORT[self.dtype]}_matmul_{form}_{tile}{tags}__sm{self.sm}"

    @property
    def arch(self) -> str:
        """What it is compiled for: ``"sm90"``."""
        return f"sm{self.sm}"

    @property
    def family(self) -> str:
        """The name that a layer's variants have in common, for a table of layers."""
        form = self.format + _STORED[self.values]
        return f"{_SHORT[self.dtype]}_matmul_{form}__sm{self.sm}"

    @property
    def entry(self) -> str:
        """Name of the kernel in its source."""
        return f"{self.format}_linear"

    @property
    def source(self) -> Path:
        """The file that holds the kernel; it includes others of the same folder."""
        return FOLDER / f"{self.format}.cu"

    @property
    def tensor_op(self) -> str:
        """The tensor-core instruction that the code has to have: mma.sync, on every architecture."""
        return "HMMA"

    @property
    def defines(self) -> dict[str, str]:
        """Preprocessor constants the source is compiled with."""
        common = {"N8": str(self.bucket // 8), "BRAIN": _bool(self.dtype == "bfloat16")}
        common["VALUES"] = str(VALUES.index(self.values))
        narrow = "2" if self.format == "lps" else "8"
        common |= {"X_BYTES": "16" if self.aligned else narrow, "EVEN": _bool(self.even)}
        if self.format == "lps":
            return {**common, "CLEAR": _bool(self.clear)}
        return {**common, "STRIPS": str(self.block_rows // 64), "STAGES": str(self.stages)}

    @property
    def block_rows(self) -> int:
        """Rows of W of a block: more with many rows of x, if there is shared memory for a ring of them."""
        wide = self.format in FRAGMENTS and self.bucket >= 32 and self.sm not in _SMALL_SHARED
        if self.values and self.bucket == 64 and not self.aligned:
            wide = False  # widening and copies of 8 bytes need the registers of the larger tile
        return 256 if wide else 128

    @property
    def stages(self) -> int:
        """Buffers of the ring of fragments: as many as fit, with two blocks where registers allow two."""
        half = self.format == "nm14_sp"  # of the bytes: twice as many steps keep memory busy
        if self.sm in _SMALL_SHARED:
            return ({8: 4, 16: 6, 32: 5, 64: 3} if half else {8: 4, 16: 4, 32: 3, 64: 2})[
                self.bucket
            ]
        if self.sm in (80, 87):
            return (4 if self.bucket == 64 else 6) if half else 3
        return 6 if half else 4

    @property
    def blocks(self) -> int:
        """Blocks that a processor holds, by the launch bounds of the source and by shared memory."""
        if self.format in FRAGMENTS:
            bound = 2 if self.block_rows == 128 and self.bucket <= 32 else 1
        elif self.bucket > 8:
            bound = 2 if self.bucket == 16 else 1
        else:
            bound = 2 if self.clear or not (self.aligned or not self.values) else 3
        shared = (_SHARED_KIB.get(self.sm, 100) << 10) // (self.shared_bytes + _RESERVED)
        return max(1, min(bound, shared))

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        if self.format == "lps":
            return 8 * 8192
        row = {"nm24_sp": (72, 40), "nm14_sp": (36, 20)}[self.format][
            bool(self.values)
        ]  # of a step
        return 2 * self.stages * (self.block_rows * row + self.bucket * 128)

    @property
    def k_multiple(self) -> int:
        """What K is a multiple of."""
        if self.even:
            return 64
        return 8 if self.aligned else (4 if self.format in FRAGMENTS else 1)

    def grid(self) -> list[dict[str, Any]]:
        """Return the grid as the manifest stores it: ``ceil(of / per)`` for each dimension."""
        return [
            {"of": "M", "per": self.block_rows},
            {"of": "split", "per": 1},
            {"of": "N", "per": self.bucket},
        ]

    def arguments(self) -> list[dict[str, Any]]:
        """Return the kernel's arguments in order."""
        blocks = [{"of": "M", "per": self.block_rows}, {"of": "N", "per": self.bucket}]
        accumulators = self.block_rows * self.bucket  # float32, of one block
        split = {"of": "split", "per": 1}
        return [
            _pointer("x", self.dtype, "N", "K"),
            *_weight(self.format, self.values),
            {**_pointer("bias", "float32", "M"), "optional": True},
            {**_pointer("residual", "as y", "N", "M"), "optional": True},
            _pointer("y", "float32 if wide else " + self.dtype, "N", "M"),
            _scratch("partial", "float32", [*blocks, split, accumulators], zero=False),
            _scratch("counters", "int32", blocks, zero=True),
            *(
                {"name": name, "kind": "value", "dtype": "int32"}
                for name in ("M", "N", "K", "activation", "wide")
            ),
        ]

    def launch(self) -> dict[str, Any]:
        """Return what the manifest says of this kernel, without files and what the compiler tells."""
        return {
            "name": self.name,
            "entry": self.entry,
            "sm": self.sm,
            "grid": self.grid(),
            "num_warps": _THREADS // 32,
            "threads": _THREADS,
            "shared_bytes": self.shared_bytes,
            "arguments": self.arguments(),
            "n_max": self.bucket,
            "k_multiple": self.k_multiple,
            "dtype": self.dtype,
            "values": self.values or self.dtype,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class NativeUnpack:
    """One compiled form of the kernels ``*_unpack``: W in 16 bits, for many rows of x.

    Parameters
    ----------
    format : str
        One of ``NATIVE``.
    dtype : str
        ``"float16"`` or ``"bfloat16"``: of w, and of the stored values if they have 16 bits.
    sm : int
        Compute capability, 80 for 8.0.
    aligned : bool
        K is a multiple of 8; of no influence on fragments, which store four elements together.
    values : str
        As for :class:`NativeVariant`.
    """

    format: str
    dtype: str
    sm: int
    aligned: bool = True
    values: str = ""

    @property
    def name(self) -> str:
        """``<dtype>_unpack_<pattern>__<isa>``."""
        form = self.format + _STORED[self.values] + ("" if self.aligned else "_unaligned")
        return f"{_SHORT[self.dtype]}_unpack_{form}__sm{self.sm}"

    @property
    def arch(self) -> str:
        """What it is compiled for: ``"sm90"``."""
        return f"sm{self.sm}"

    @property
    def entry(self) -> str:
        """Name of the kernel in its source."""
        return f"{self.format}_unpack"

    @property
    def source(self) -> Path:
        """The file that holds the kernel."""
        return FOLDER / f"{self.format}_unpack.cu"

    @property
    def tensor_op(self) -> str:
        """The tensor-core instruction that the code has to have: none."""
        return ""

    @property
    def defines(self) -> dict[str, str]:
        """Preprocessor constants the source is compiled with."""
        common = {
            "BRAIN": _bool(self.dtype == "bfloat16"),
            "VALUES": str(VALUES.index(self.values)),
        }
        return common | ({"ALIGNED": _bool(self.aligned)} if self.format == "lps" else {})

    def launch(self) -> dict[str, Any]:
        """Return what the manifest says of this kernel, without files and what the compiler tells."""
        rows = 64 if self.format == "lps" else 32
        return {
            "name": self.name,
            "entry": self.entry,
            "unpacks": self.format,
            "sm": self.sm,
            "grid": [{"of": "K", "per": 512}, {"of": "M", "per": rows}, 1],
            "num_warps": _THREADS // 32,
            "threads": _THREADS,
            "shared_bytes": 8 * 8192 if self.format == "lps" else 0,
            "arguments": [
                *_weight(self.format, self.values),
                _pointer("w", self.dtype, "M", "K"),
                *({"name": name, "kind": "value", "dtype": "int32"} for name in ("M", "K")),
            ],
            "k_multiple": 4 if self.format in FRAGMENTS else (8 if self.aligned else 1),
            "dtype": self.dtype,
            "values": self.values or self.dtype,
        }


def split_for(
    variant: NativeVariant, rows: int, columns: int, processors: int | None = None
) -> int:
    """Return into how many blocks the reduction is split: as few as fill the device, and no small rest.

    ``processors`` of the device; those of a usual one of its architecture if absent. The fewest modelled
    seconds count, of reading the weight and of writing and reading partial sums; unmeasured.

    Examples
    --------
    >>> variant = NativeVariant("nm24_sp", "float16", 90, 16)
    >>> [split_for(variant, *shape) for shape in ((4096, 11008), (28672, 8192), (128, 512))]
    [5, 1, 1]
    """
    across = -(-rows // variant.block_rows)
    slots = (processors or _PROCESSORS.get(variant.sm, 128)) * variant.blocks
    stored = _STORED_BYTES[variant.format] * (0.5 if variant.clear or variant.values else 1.0)
    of_sums = 8 * variant.bucket / (stored * columns)  # bytes of a share, as part of the weight's

    def seconds(split: int) -> tuple[float, int]:
        return _waves(across * split, slots, _reach(variant)) + (split > 1) * split * of_sums, split

    return min(range(1, max(1, min(_MAX_SPLIT, columns // _MIN_COLUMNS)) + 1), key=seconds)


def _reach(variant: NativeVariant) -> float:
    """Return how many times its share of the bandwidth a block takes where others leave it: a guess.

    From the bytes that it has under way and, of ``lps``, from its instructions.
    """
    if variant.format in FRAGMENTS:
        return 2.0
    return max(1.0, variant.blocks * (0.8 if variant.clear else 1.0))


def _waves(blocks: int, slots: int, reach: float) -> float:
    """Return the time of equal blocks, in times of a device that is full to the end."""
    full, rest = divmod(blocks, slots)
    return (full * slots + (max(rest, slots / reach) if rest else 0)) / blocks


def native_variants(
    form: str, columns: int, dtype: str, sm: int, stored: float, values: str = ""
) -> list[NativeVariant]:
    """Return the variants of a layer with K = ``columns``, one for each bucket of N.

    ``stored`` is the bytes an element that the format takes, ``values`` as for ``NativeVariant``.
    """
    aligned, even, clear = columns % 8 == 0, columns % 64 == 0, clears(form, stored, values)
    return [
        NativeVariant(form, dtype, sm, bucket, aligned, even, clear, values)
        for bucket in buckets(form, columns)
    ]


def buckets(form: str, columns: int) -> tuple[int, ...]:
    """Return the rows of x that blocks of a layer may have.

    64 rows of x that ``lps`` has to read element by element leave it too few registers.
    """
    return tuple(each for each in BUCKETS if each < 64 or form != "lps" or columns % 8 == 0)


def clears(form: str, stored: float, values: str = "") -> bool:
    """Whether a layer of ``stored`` bytes an element is to be zeroed place by place, not tile by tile.

    Both take shared memory's time: a tile 16 stores of 16 bytes a lane, which are 64 of its clocks, single
    places one store and one clock an entry. They are fewer, and what a lane needs of them stays in its
    registers, where lists have at most 12 entries, of 8-bit values 16: from a sparsity of 79 % on.

    Examples
    --------
    >>> clears("lps", 0.58), clears("lps", 0.7)
    (True, False)
    """
    return form == "lps" and stored < (_CLEAR_BYTES_8 if values else _CLEAR_BYTES)


def _weight(form: str, values: str) -> list[dict[str, Any]]:
    """Return the arguments that hold a packed weight."""
    words = {"nm24_sp": ("576", "320"), "nm14_sp": ("288", "160")}
    if form in words:
        packed = _pointer("packed", "int32", "ceil(M/32)", "ceil(K/64)", words[form][bool(values)])
        arrays = [packed]
    else:
        arrays = [
            _pointer("chunks", "int32", "C", "96" if values else "160"),
            _pointer("tiles", "int32", "ceil(M/64)*ceil(K/64)+1", "2"),
            _pointer("overflow", "int32", "V"),
        ]
    return [*arrays, {**_pointer("scale", "float32", "M", "1"), "optional": not values}]


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _pointer(name: str, dtype: str, *shape: str) -> dict[str, Any]:
    return {"name": name, "kind": "pointer", "dtype": dtype, "shape": list(shape), "align": 16}


def _scratch(name: str, dtype: str, shape: list[Any], zero: bool) -> dict[str, Any]:
    found = {"name": name, "kind": "scratch", "dtype": dtype, "shape": shape, "zero": zero}
    return {**found, "align": 16}
