"""Which compiled forms of a kernel exist, and what a launch of each one needs.

M, K and N are run-time numbers of every variant. Compiled in are only the format, the tile, whether
the reduction needs a mask, and what the epilogue adds: a model needs a handful of binaries, whatever
the number of its layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sparsec.backends.cuda import formats
from sparsec.backends.cuda.formats.base import SCALE
from sparsec.backends.cuda.formats.values import is_scaled

BUCKETS = (1, 16, 32, 64)
MAX_N = BUCKETS[-1]  # beyond, decompress once and multiply densely: the product is compute-bound
ACTIVATIONS = ("none", "relu", "silu", "gelu", "gelu_tanh")

# Formats that the kernels of this package's kernels/ read, by family.
NM = ("nm24", "nm1_4", "nm2_4", "nm2_8", "nm4_8", "nm8_16")
BITMAP = ("bm32",)
BLOCK = ("block8x1", "block16x1")
FORMATS = NM + BITMAP + BLOCK
SPARSE_MMA = ("nm24_sp",)  # by Gluon; what unpacks it is CUDA C++

_KERNELS = {  # function: file
    "nm_matmul": "nm_matmul",
    "nm_gemv": "nm_gemv",
    "bitmap_matmul": "bitmap_matmul",
    "bitmap_gemv": "bitmap_gemv",
    "block_matmul": "block_matmul",
    "sp_matmul": "sp_matmul",
    "transpose_x": "block_matmul",
    "reduce_partials": "epilogue",
    "nm_unpack": "unpack",
    "bitmap_unpack": "unpack",
    "block_unpack": "unpack",
}
_SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}
_STORED = {"float8_e4m3fn": "e4m3", "int8": "i8"}
_FACTOR = {"float8_e4m3fn": 256.0}  # decoders leave it to the scale
_REDUCE_ROWS = 256  # outputs that one program of the second pass owns
_MMA_SYNC = ("sm80", "sm86", "sm89", "sm120")  # architectures whose tensor cores run mma.sync
_TRANSPOSED = 64  # columns of x that one program transposes


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """One compiled form of a kernel.

    Parameters
    ----------
    kernel : str
        The function, as in ``kernels/``.
    format : str
        Packed format of W; empty for ``transpose_x`` and ``reduce_partials``.
    values : str
        Type of the stored values.
    dtype : str
        ``"float16"`` or ``"bfloat16"``: x, and the numbers that are multiplied; of a kernel that
        unpacks, W.
    out : str
        Type of y: ``dtype``, or ``"float32"``, the sum as it is.
    arch : str
        ``"sm80"``, ``"gfx942"``: what it is compiled for.
    bucket : int
        The most rows of x it is meant for.
    rows, step : int
        Rows of W that a program owns, and reduction elements of a step of its loop.
    even : bool
        K is a multiple of ``step``: no masks.
    aligned : bool
        K is a multiple of 16: rows of x start on 32-byte borders, loads are 16 bytes wide.
    bias, residual : bool
    act : str
        One of ``ACTIVATIONS``.
    grouped : bool
        Scales go by 128 columns, not by row.
    split : bool
        It writes partial sums of a share of K, which ``reduce_partials`` adds. ``sp_matmul`` always does.
    local : bool
        N:M formats: every thread decodes its own part of the operand.
    """

    kernel: str
    format: str
    values: str
    dtype: str
    out: str
    arch: str
    bucket: int
    rows: int
    step: int
    even: bool
    aligned: bool
    bias: bool = False
    residual: bool = False
    act: str = "none"
    grouped: bool = False
    split: bool = False
    local: bool = False
    num_warps: int = 4
    num_stages: int = 3

    @property
    def module(self) -> str:
        """The file of the kernel in ``kernels/``, without its suffix."""
        return _KERNELS[self.kernel]

    @property
    def name(self) -> str:
        """``<dtype>_<op>_<pattern>_<tile>__<isa>``, as all microkernels are named."""
        op = self.kernel.rpartition("_")[2]
        if self.kernel in ("transpose_x", "reduce_partials"):
            op = self.kernel
        form = [_stored(self)] if self.format else [_STORED[self.values]] if self.scaled else []
        flags = {
            "ragged": not self.even,
            "unaligned": not self.aligned,
            "groups": self.grouped,
            "split": self.split,
            "bias": self.bias,
            "residual": self.residual,
            self.act: self.act != "none",
        }
        sizes = (self.rows, self.step) if self.unpacks else (self.rows, self.bucket, self.step)
        tile = "x".join(map(str, sizes))
        parts = [_types(self), op, *form, tile, *(name for name, on in flags.items() if on)]
        return f"{'_'.join(parts)}__{self.arch}"

    @property
    def scaled(self) -> bool:
        """Whether it reads a scale."""
        return bool(self.values) and is_scaled(self.values)

    @property
    def unpacks(self) -> bool:
        """Whether it writes W [M, K] itself, and no product."""
        return self.module == "unpack"

    @property
    def constants(self) -> dict[str, Any]:
        """Compile-time parameters of the kernel, by name."""
        if self.kernel == "transpose_x":
            return {"BK": self.step, "NP": self.bucket}
        if self.kernel == "sp_matmul":
            brain = self.dtype == "bfloat16"
            return {"BM": self.rows, "BN": self.bucket, "BRAIN": brain, "EVEN_K": self.even}
        factor = _FACTOR.get(self.values, 1.0) if self.scaled and not self.grouped else 1.0
        if self.kernel == "reduce_partials":
            return {"BM": self.rows, "FACTOR": factor, "ACT": self.act}
        found: dict[str, Any] = {
            "BM": self.rows,
            "BK": self.step,
            "VALUES": self.values if self.scaled else 16,
            "GROUP_SCALE": self.grouped,
        }
        if not self.unpacks:
            found |= {"ACT": self.act, "SPLIT": self.split}
            if not self.kernel.endswith("gemv"):
                found["BN"] = self.bucket
            if self.format not in BLOCK:
                found["EVEN_K"] = self.even
        elif self.format in BITMAP:  # its tile is that of the format
            del found["BM"], found["BK"]
        if self.format in NM:
            kept, group = (int(each) for each in formats.get(self.format).pattern.split(":"))
            pad = 32 if self.format == "nm24" else 64
            asm = self.arch.startswith("sm")
            found |= {"KEPT": kept, "GROUP": group, "PAD": pad, "ASM": asm}
            if self.kernel == "nm_matmul":
                found["LOCAL"] = self.local
        return found

    def grid(self) -> list[dict[str, Any] | int]:
        """Return the grid as the manifest stores it: ``ceil(of / per)``, or a number."""
        if self.unpacks:
            across = 1 if self.format in BLOCK else {"of": "K", "per": self.step}
            return [{"of": "M", "per": self.rows}, across, 1]
        if self.kernel == "transpose_x":
            return [{"of": "K", "per": self.step}, 1, 1]
        if self.kernel == "reduce_partials":
            return [{"of": "M", "per": self.rows}, {"of": "N", "per": 1}, 1]
        share: dict[str, Any] | int = {"of": "split", "per": 1} if self.split else 1
        columns: dict[str, Any] | int = {"of": "N", "per": self.bucket}
        return [{"of": "M", "per": self.rows}, columns, share]

    def arguments(self) -> list[dict[str, Any]]:
        """Return the kernel's own arguments in order, without the scratch pointers."""
        if self.kernel == "transpose_x":
            xt = _scratch("xt", self.dtype, "K", self.bucket)
            return [_pointer("x", self.dtype, "N", "K"), xt, *_sizes("N", "K")]
        finish = []
        if self.scaled and not (self.grouped and self.kernel == "reduce_partials"):
            finish.append(_pointer(SCALE, "float32", "M", "ceil(K/128)" if self.grouped else 1))
        if self.bias:
            finish.append(_pointer("bias", "float32", "M"))
        if self.residual:
            finish.append(_pointer("residual", self.out, "N", "M"))
        if self.unpacks:
            arrays = [_array(name, self) for name in formats.get(self.format).arrays]
            return [*arrays, *finish, _pointer("w", self.dtype, "M", "K"), *_sizes("M", "K")]
        y = _pointer("y", self.out, "N", "M")
        if self.kernel == "reduce_partials":
            share = {**_sizes("split")[0], "parameter": "S"}
            return [_partial(), *finish, y, *_sizes("M", "N"), share]
        x = _pointer("x", self.dtype, "N", "K")
        if self.format in BLOCK:
            x = _scratch("xt", self.dtype, "K", self.bucket)
        arrays = [_array(name, self) for name in formats.get(self.format).arrays]
        if self.format in SPARSE_MMA:
            x["read_as"] = "int32"  # two columns at a time
        if self.split:  # the rest is done by the second pass
            finish = [each for each in finish if each["name"] == SCALE and self.grouped]
            y = {**_partial(), "parameter": "y"}
        return [x, *arrays, *finish, y, *_sizes("M", "N", "K")]

    def before(self) -> Variant | None:
        """Return the kernel to launch before this one: blocks read x transposed."""
        if self.format not in BLOCK or self.unpacks:
            return None
        return Variant(
            "transpose_x", "", "", self.dtype, self.dtype, self.arch, self.bucket, 1, _TRANSPOSED,
            even=True, aligned=self.aligned,
        )  # fmt: skip

    def split_form(self) -> tuple[Variant, Variant]:
        """Return this kernel with a split reduction, and the second pass that finishes its sums."""
        first = dataclasses.replace(self, split=True, bias=False, residual=False, act="none")
        values = self.values if self.scaled and not self.grouped else ""
        second = Variant(
            "reduce_partials", "", values, self.dtype, self.out, self.arch, 1, _REDUCE_ROWS, 1,
            even=True, aligned=True, bias=self.bias, residual=self.residual, act=self.act,
        )  # fmt: skip
        return first, second


def variants_for(
    columns: int,
    dtype: str,
    arch: str,
    *,
    form: str = "nm24",
    values: str = "",
    out: str = "",
    bias: bool = False,
    residual: bool = False,
    act: str = "none",
    grouped: bool = False,
) -> tuple[Variant, ...]:
    """Return the variants a layer with K = ``columns`` needs, one for each bucket of N.

    ``out`` is the type of y, and ``values`` that of the stored values; that of x if empty.
    """
    narrow = bool(values) and is_scaled(values)
    # Where decoding is cheap enough on tensor cores, one row of x does not need a kernel of its own.
    local = not narrow and _local(form, BUCKETS[1], columns, arch)
    buckets = BUCKETS[1:] if form in BLOCK + SPARSE_MMA or local else BUCKETS
    return tuple(
        Variant(
            *_kernel(form, bucket), form, values or dtype, dtype, out or dtype, arch, bucket,
            **_tile(form, bucket, columns, arch, narrow), bias=bias, residual=residual, act=act,
            grouped=grouped,
        )
        for bucket in buckets
    )  # fmt: skip


def unpack_variant(
    form: str, columns: int, values: str, dtype: str, arch: str, *, grouped: bool = False
) -> Variant:
    """Return the variant that unpacks weights of K = ``columns`` to ``dtype``: one for all M.

    16-bit values are unpacked to their own type, scaled ones to any float type.
    """
    rows, step = {"nm": (16, 128), "bitmap": (64, 64), "block": (_strip(form), 64)}[_family(form)]
    return Variant(
        f"{_family(form)}_unpack", form, values, dtype, dtype, arch, 1, rows, step,
        even=True, aligned=columns % 16 == 0, grouped=grouped,
    )  # fmt: skip


def _kernel(form: str, bucket: int) -> tuple[str]:
    if form in SPARSE_MMA:
        return ("sp_matmul",)
    return (f"{_family(form)}_{'gemv' if bucket == 1 else 'matmul'}",)


def _family(form: str) -> str:
    return "nm" if form in NM else "bitmap" if form in BITMAP else "block"


def _strip(form: str) -> int:
    """Return the rows of a strip of a block format; 0 for others."""
    return int(form.removeprefix("block").split("x")[0]) if form in BLOCK else 0


def _local(form: str, bucket: int, columns: int, arch: str) -> bool:
    """Whether threads decode what they need themselves: where that compiles to fewer instructions.

    It is made for the operands of ``wgmma`` and, for few rows of x, ``mma.sync``. Rows of x are then
    read 4 bytes at a time, which many of them do not pay for on the latter.
    """
    fits = form in ("nm1_4", "nm2_8") and columns % 128 == 0
    return fits and (arch == "sm90" or (bucket == BUCKETS[1] and arch in _MMA_SYNC))


def _tile(form: str, bucket: int, columns: int, arch: str, narrow: bool) -> dict[str, Any]:
    """Return rows, step, even, aligned and warps: what compiled best, see docs/adr/0032."""
    aligned = columns % 16 == 0
    if not narrow and _local(form, bucket, columns, arch):
        # A step of 256 takes fewer instructions and more registers; 1:4 does well without it.
        step = 256 if (form, bucket) == ("nm2_8", BUCKETS[1]) and columns % 256 == 0 else 128
        return {
            "rows": 128,
            "step": step,
            "even": True,
            "aligned": True,
            "num_warps": 8,
            "local": True,
        }
    if form in BLOCK:
        # One strip is little work, which few warps share badly. Of 16 x 32 outputs one warp spills on sm_89.
        warps = 1 if bucket * _strip(form) < 16 * 32 else 2
        return {
            "rows": _strip(form),
            "step": 64,
            "even": True,
            "aligned": aligned,
            "num_warps": warps,
        }
    if form in SPARSE_MMA:  # a step is a block of the format, a warp owns 32 rows of it
        return {
            "rows": 128,
            "step": 64,
            "even": columns % 64 == 0,
            "aligned": aligned,
            "split": True,
        }
    # 64 rows are what one warpgroup MMA of sm_90 covers; smaller tiles fall back to half-rate code.
    # The longer step has more bytes in flight.
    rows = 64
    steps: tuple[int, ...] = (128, 64)
    if form in BITMAP:
        steps = (64,)
    elif bucket == 1:
        steps = (256, 128, 64)
    step = next((step for step in steps if columns % step == 0), steps[-1])
    even = columns % step == 0
    if bucket == 1 and form in NM:
        # A tile of 4096 weights: of a smaller one a thread decodes too little to make up for its
        # addresses. Masks take registers: with 64 rows a ragged tile of int8 spills.
        rows = 4096 // step if even else 32
    tile = {"rows": rows, "step": step, "even": even, "aligned": aligned}
    if form in BITMAP and (bucket, arch) == (64, "sm80"):
        tile["num_stages"] = 2  # with three a split reduction spills
    return tile


def shares(rows: int, columns: int, variant: Variant, processors: int) -> int:
    """Return into how many shares K is split: until two programs wait for each processor.

    A share keeps four steps or 512 columns at least, and there are eight at most: each adds a
    float32 of y to write and read.
    """
    programs = -(-rows // variant.rows)
    wanted = -(-2 * processors // programs)
    steps = min(4, max(1, 512 // variant.step))
    return max(1, min(wanted, -(-columns // variant.step) // steps, 8))


def family(variants: tuple[Variant, ...]) -> str:
    """Return the name that a layer's variants have in common, for a table of layers."""
    last = next(variant for variant in variants if variant.format)
    return f"{_types(last)}_matmul_{_stored(last)}__{last.arch}"


def _stored(variant: Variant) -> str:
    """Return the format as it stands in names: ``nm24``, ``bm32e4m3``."""
    return variant.format + _STORED.get(variant.values, "")


def _types(variant: Variant) -> str:
    """Return ``f16`` if all is float16, ``f16f32`` if y is float32."""
    return _SHORT[variant.dtype] + (_SHORT[variant.out] if variant.out != variant.dtype else "")


def _array(name: str, variant: Variant) -> dict[str, Any]:
    dtype = {"offs": "int16", "cols": "int16"}.get(name, "int32")
    if name == "vals" and variant.format not in NM:
        dtype = "int8" if variant.scaled else "int16"
    return {"name": name, "kind": "pointer", "dtype": dtype, "align": 16}


def _pointer(name: str, dtype: str, *shape: str | int) -> dict[str, Any]:
    return {"name": name, "kind": "pointer", "dtype": dtype, "shape": list(shape), "align": 16}


def _scratch(name: str, dtype: str, *shape: str | int) -> dict[str, Any]:
    """Return memory that one kernel of a chain writes and the next one reads."""
    return {**_pointer(name, dtype, *shape), "kind": "scratch", "zero": False}


def _partial() -> dict[str, Any]:
    return _scratch("partial", "float32", "split", "N", "M")


def _sizes(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "kind": "value", "dtype": "int32"} for name in names]
