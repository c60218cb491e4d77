"""Ahead of time: from a kernel variant to a cubin, its PTX and its launch data, without a GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsec.backends.cuda.native import NativeVariant
from sparsec.backends.cuda.sass import CodeReport, check_code, read_code
from sparsec.backends.cuda.variants import Variant
from sparsec.ir.errors import UnsupportedTargetError

SOURCE = Path(__file__).with_name("kernels") / "nm24_matmul.py"
OLDEST_SM = 80  # below, triton emits scalar code without tensor cores

_POINTERS = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32", "int32": "*i32"}
_PTX_ENTRY = re.compile(r"\.entry\s+\w+\((.*?)\)", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A compiled variant.

    Parameters
    ----------
    cubin : bytes
        Machine code for exactly one architecture.
    ptx : str
        The same kernel for the driver's compiler.
    launch : dict
        Its object in the manifest, without the file names.
    code : CodeReport
        What was found in ``cubin``, already checked.
    """

    variant: Variant | NativeVariant
    cubin: bytes
    ptx: str
    launch: dict[str, Any]
    code: CodeReport


def why_not(sm: int) -> str | None:
    """Return why kernels for ``sm`` cannot be compiled here, with the way out; None if they can."""
    if sm < OLDEST_SM:
        return f"sm_{sm} has no tensor cores that triton can use; sm_{OLDEST_SM} is the oldest"
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
    if reason := why_not(variant.sm):
        raise UnsupportedTargetError(reason, where=variant.name)
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from sparsec.backends.cuda.kernels.nm24_matmul import nm24_matmul

    with _knobs(cache):
        compiled = triton.compile(
            ASTSource(nm24_matmul, **_specialise(variant, nm24_matmul.arg_names)),
            target=GPUTarget("cuda", variant.sm, 32),
            options={
                "num_warps": variant.num_warps,
                "num_stages": variant.num_stages,
                "enable_fp_fusion": True,  # the default differs between versions of triton
            },
        )
    cubin, ptx = compiled.asm["cubin"], compiled.asm["ptx"]
    code = read_code(cubin)
    check_code(code, variant.name, variant.sm)
    launch = _launch_data(variant, compiled.metadata, ptx, code)
    return CompiledKernel(variant, cubin, ptx, launch, code)


def _specialise(variant: Variant, names: list[str]) -> dict[str, Any]:
    """Return signature, constants and attributes as triton's ``ASTSource`` takes them."""
    arguments = {each["name"]: each for each in variant.arguments()}
    constants = dict(variant.constants)
    signature: dict[str, str] = {}
    divisible_by_16: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, name in enumerate(names):
        if name not in arguments:
            signature[name] = "constexpr"
            constants.setdefault(name, None)  # an optional pointer that is not there
            continue
        pointer = arguments[name]["kind"] == "pointer"
        signature[name] = _POINTERS[arguments[name]["dtype"]] if pointer else "i32"
        if pointer or (name == "K" and variant.aligned):
            divisible_by_16[(index,)] = [["tt.divisibility", 16]]
    return {"signature": signature, "constexprs": constants, "attrs": divisible_by_16}


def _launch_data(variant: Variant, metadata: Any, ptx: str, code: CodeReport) -> dict[str, Any]:
    """Return what the manifest says about a kernel, checked against its PTX."""
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
    declared = _parameter_count(ptx)
    # Triton appends its scratch pointers, which versions differ in; none is ever read here.
    names = list(scratch)[: declared - len(arguments)]
    arguments += [{"name": name, "kind": "null_pointer"} for name in names]
    if len(arguments) != declared:
        raise UnsupportedTargetError(
            f"kernel {variant.name}: the compiled code takes {declared} parameters where "
            f"{len(arguments)} are known; pip install triton==3.9.0",
            where=variant.name,
        )
    return {
        "name": variant.name,
        "entry": str(metadata.name),
        "sm": variant.sm,
        "grid": variant.grid(),
        "num_warps": variant.num_warps,
        "threads": 32 * variant.num_warps,
        "shared_bytes": int(metadata.shared),
        "arguments": arguments,
        "n_max": variant.bucket,
        "k_multiple": variant.step if variant.even else (16 if variant.aligned else 4),
        "dtype": variant.dtype,
        "out": variant.out,
        "registers": code.registers,
        "tensor_op": code.tensor_op,
        "source_sha256": hashlib.sha256(SOURCE.read_bytes()).hexdigest(),
    }


def _parameter_count(ptx: str) -> int:
    match = _PTX_ENTRY.search(ptx)
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
