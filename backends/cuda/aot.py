"""Ahead of time: from a kernel variant to a binary, its assembly and its launch data, without a GPU."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsec.backends.cuda.amdgcn import read_amdgcn
from sparsec.backends.cuda.launch import kernel_function
from sparsec.backends.cuda.native import NativeUnpack, NativeVariant
from sparsec.backends.cuda.sass import CodeReport, check_code, read_code
from sparsec.backends.cuda.variants import SPARSE_MMA, Variant
from sparsec.ir.errors import UnsupportedTargetError

SOURCES = Path(__file__).with_name("kernels")
OLDEST_SM = 80  # below, triton emits scalar code without tensor cores

_POINTERS = {
    "float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32",
    "int32": "*i32", "int16": "*i16", "int8": "*i8",
}  # fmt: skip
_AMD_WARP = 64
_AMD_ARGUMENT = re.compile(r"\.value_kind:\s+(?:by_value|global_buffer)")
_PTX_ENTRY = re.compile(r"\.entry\s+\w+\((.*?)\)", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A compiled variant.

    Parameters
    ----------
    cubin : bytes
        Machine code for exactly one architecture: a cubin, or an hsaco for an AMD GPU.
    ptx : str
        The same kernel for the driver's compiler (PTX); for people only on an AMD GPU.
    launch : dict
        Its object in the manifest, without the file names.
    code : CodeReport
        What was found in ``cubin``, already checked.
    """

    variant: Variant | NativeVariant | NativeUnpack
    cubin: bytes
    ptx: str
    launch: dict[str, Any]
    code: CodeReport


def why_not(arch: str) -> str | None:
    """Return why nothing can be compiled for ``arch`` here, with the way out; None if it can."""
    if arch.startswith("sm") and int(arch[2:]) < OLDEST_SM:
        return (
            f"sm_{arch[2:]} has no tensor cores that triton can use; sm_{OLDEST_SM} is the oldest"
        )
    if importlib.util.find_spec("triton") is None:
        return (
            "compiling GPU kernels needs triton, which is not installed: pip install sparsec[cuda]"
        )
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        return "TRITON_INTERPRET is set, with which triton cannot compile; unset it"
    return None


def compile_variant(variant: Variant, cache: Path | None = None) -> CompiledKernel:
    """Compile and check one variant.

    Parameters
    ----------
    cache : Path, optional
        Directory in which triton keeps compiled kernels between runs.

    Raises
    ------
    UnsupportedTargetError
        If it cannot be compiled here, or if the code fails the checks of :func:`check_code`.
    """
    if reason := why_not(variant.arch):
        raise UnsupportedTargetError(reason, where=variant.name)
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    nvidia = variant.arch.startswith("sm")
    function = kernel_function(variant)
    with _knobs(cache):
        compiled = triton.compile(
            (GluonASTSource if variant.format in SPARSE_MMA else ASTSource)(
                function, **_specialise(variant, function.arg_names)
            ),
            target=GPUTarget("cuda", int(variant.arch[2:]), 32)
            if nvidia
            else GPUTarget("hip", variant.arch, _AMD_WARP),
            options={
                "num_warps": variant.num_warps,
                "num_stages": variant.num_stages,
                "enable_fp_fusion": True,  # the default differs between versions of triton
            },
        )
    if nvidia:
        binary, assembly = compiled.asm["cubin"], compiled.asm["ptx"]
        code = read_code(binary)
    else:
        binary, assembly = compiled.asm["hsaco"], compiled.asm["amdgcn"]
        code = read_amdgcn(assembly)
    sm = int(variant.arch[2:]) if nvidia else 0
    check_code(code, variant.name, sm, tensor_op(variant))
    launch = _launch_data(variant, compiled.metadata, assembly, code)
    return CompiledKernel(variant, binary, assembly, launch, code)


def tensor_op(variant: Variant) -> str | None:
    """Return the matrix instruction that a variant has to compile to.

    Empty if it needs none, None for the fastest of its architecture.
    """
    if not variant.kernel.endswith("matmul"):
        return ""
    if variant.arch.startswith("gfx"):
        return "MFMA"
    # A strip of blocks is lower than what newer instructions multiply; mma.sp is one of the older.
    return "HMMA" if variant.kernel in ("block_matmul", "sp_matmul") else None


def _specialise(variant: Variant, names: list[str]) -> dict[str, Any]:
    """Return signature, constants and attributes as triton's ``ASTSource`` takes them."""
    arguments = {each.get("parameter", each["name"]): each for each in variant.arguments()}
    constants = dict(variant.constants)
    signature: dict[str, str] = {}
    divisible_by_16: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, name in enumerate(names):
        if name not in arguments:
            signature[name] = "constexpr"
            constants.setdefault(name, None)  # an optional pointer that is not there
            continue
        pointer = arguments[name]["kind"] != "value"
        dtype = arguments[name].get("read_as", arguments[name]["dtype"])
        signature[name] = _POINTERS[dtype] if pointer else "i32"
        if pointer or (name == "K" and variant.aligned and variant.step > 1):
            divisible_by_16[(index,)] = [["tt.divisibility", 16]]
    return {"signature": signature, "constexprs": constants, "attrs": divisible_by_16}


def _launch_data(
    variant: Variant, metadata: Any, assembly: str, code: CodeReport
) -> dict[str, Any]:
    """Return what the manifest says about a kernel, checked against its assembly."""
    nvidia = variant.arch.startswith("sm")
    architecture = {"sm": int(variant.arch[2:])} if nvidia else {"arch": variant.arch}
    if variant.unpacks:
        purpose: dict[str, Any] = {"unpacks": variant.format, "grouped": variant.grouped}
    else:
        purpose = {
            "format": variant.format,
            "n_max": variant.bucket,
            "out": variant.out,
            "activation": variant.act,
        }
    return {
        "name": variant.name,
        "entry": str(metadata.name),
        **architecture,
        **purpose,
        "values": variant.values,
        "grid": variant.grid(),
        "num_warps": variant.num_warps,
        "threads": (32 if nvidia else _AMD_WARP) * variant.num_warps,
        "shared_bytes": int(metadata.shared),
        "arguments": _arguments(variant, metadata, assembly),
        "k_multiple": _k_multiple(variant),
        "dtype": variant.dtype,
        "registers": code.registers,
        "tensor_op": code.tensor_op,
        "source_sha256": sources_hash(),
    }


def _arguments(variant: Variant, metadata: Any, assembly: str) -> list[dict[str, Any]]:
    """Return the arguments of a kernel in order, those included that triton appends.

    Raises
    ------
    UnsupportedTargetError
        If the code takes others, or memory that launch data cannot describe.
    """
    arguments = variant.arguments()
    scratch = {
        name: int(getattr(metadata, f"{name}_size", 0) or 0)
        for name in ("global_scratch", "profile_scratch")
    }
    if any(scratch.values()) or getattr(metadata, "num_ctas", 1) != 1:
        raise UnsupportedTargetError(
            f"kernel {variant.name}: the installed triton wants scratch memory or clusters "
            f"({scratch}), which launch data cannot describe; pip install triton==3.9.0",
            where=variant.name,
        )
    declared = _parameter_count(assembly, variant)
    # Triton appends its scratch pointers, which versions differ in; none is ever read here.
    names = list(scratch)[: declared - len(arguments)]
    arguments += [{"name": name, "kind": "null_pointer"} for name in names]
    if len(arguments) != declared:
        raise UnsupportedTargetError(
            f"kernel {variant.name}: the compiled code takes {declared} parameters where "
            f"{len(arguments)} are known; pip install triton==3.9.0",
            where=variant.name,
        )
    return arguments


def _k_multiple(variant: Variant) -> int:
    """Return what K has to be a multiple of."""
    if not variant.format or variant.unpacks or variant.module == "block_matmul":
        return 16 if variant.aligned else 1
    if variant.even:
        return variant.step
    return 16 if variant.aligned else 4


def source(variant: Variant) -> Path:
    """Return the file that a variant is compiled from; it imports others of its folder."""
    return SOURCES / f"{variant.module}.py"


@functools.cache
def sources_hash() -> str:
    """Return the hash of all Triton kernels of this package: they import one another."""
    files = sorted(SOURCES.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _parameter_count(assembly: str, variant: Variant) -> int:
    if variant.arch.startswith("gfx"):
        return len(_AMD_ARGUMENT.findall(assembly))
    match = _PTX_ENTRY.search(assembly)
    return match[1].count(".param") if match else 0


@contextmanager
def _knobs(cache: Path | None) -> Iterator[None]:
    """Keep triton's cache where the caller wants it, and this machine's paths out of cubins."""
    from triton import knobs

    with tempfile.TemporaryDirectory(prefix="sparsec-triton-") as temporary:
        folder = cache / "triton" if cache else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with knobs.cache.scope(), knobs.compilation.scope():
            knobs.cache.dir = str(folder)
            knobs.compilation.disable_line_info = True
            yield
