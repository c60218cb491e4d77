"""From a CUDA C++ variant to a cubin and its PTX: by nvcc where it is, else by NVRTC. Needs no GPU."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sparsec.backends.cuda.aot import CompiledKernel
from sparsec.backends.cuda.native import FOLDER, NativeUnpack, NativeVariant
from sparsec.backends.cuda.sass import check_code, read_code
from sparsec.ir.errors import UnsupportedTargetError

AnyNative = NativeVariant | NativeUnpack
_STANDARD = "-std=c++17"
_KNOWN_GOOD = "CUDA 13.0"
_INCLUDE = re.compile(r'^#include "([\w.]+)"', re.MULTILINE)


def why_not(sm: int) -> str | None:
    """Return why CUDA C++ kernels cannot be compiled for ``sm`` here, with the way out, or None."""
    if sm < 80:
        return f"sm_{sm} has no asynchronous copies; sm_80 is the oldest"
    if find_nvcc() is None and find_nvrtc() is None:
        return (
            "compiling CUDA C++ kernels needs nvcc on the PATH (or CUDA_HOME), or "
            "pip install nvidia-cuda-nvrtc"
        )
    return None


def compile_native(variant: AnyNative, cache: Path | None = None) -> CompiledKernel:
    """Compile and check one variant.

    Parameters
    ----------
    cache : Path, optional
        Directory that keeps compiled kernels between runs, by the hash of all that goes into them.

    Raises
    ------
    UnsupportedTargetError
        If it cannot be compiled here, or if the code fails the checks of ``sass.check_code``.
    """
    if reason := why_not(variant.sm):
        raise UnsupportedTargetError(reason, where=variant.name)
    folder = cache / "native" / _key(variant) if cache else None
    if folder is not None and (folder / "kernel.ptx").is_file():
        cubin, ptx = (folder / "kernel.cubin").read_bytes(), (folder / "kernel.ptx").read_text()
    else:
        cubin, ptx = _compiled(variant)
        if folder is not None:
            _keep(folder, cubin, ptx)
    code = read_code(cubin)
    check_code(code, variant.name, variant.sm, variant.tensor_op, _KNOWN_GOOD)
    launch = {
        **variant.launch(),
        "registers": code.registers,
        "tensor_op": code.tensor_op,
        "source_sha256": source_hash(variant.source.name),
    }
    return CompiledKernel(variant, cubin, ptx, launch, code)


def kept_in() -> Path | None:
    """Return the folder of SPARSEC_CACHE, in which kernels compiled on first use are kept, or None."""
    folder = os.environ.get("SPARSEC_CACHE")
    return Path(folder) if folder else None


def _keep(folder: Path, cubin: bytes, ptx: str) -> None:
    """Store a compiled kernel for later compilations; others may read or store it at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as name:
        scratch = Path(name)
        (scratch / "kernel.cubin").write_bytes(cubin)
        (scratch / "kernel.ptx").write_text(ptx)
        for file in ("kernel.cubin", "kernel.ptx"):  # the presence of the last says both are there
            os.replace(scratch / file, folder / file)


def source_text(variant: AnyNative) -> str:
    """Return the kernel's source as one file, includes and compile-time constants written in."""
    defines = "".join(f"#define {name} {value}\n" for name, value in variant.defines.items())
    return defines + _joined(variant.source, set())


@functools.cache
def source_hash(name: str) -> str:
    """Return the hash of a kernel of this package with what it includes, whatever it is compiled with."""
    return hashlib.sha256(_joined(FOLDER / name, set()).encode()).hexdigest()


def find_nvcc() -> Path | None:
    """Return nvcc: of CUDA_HOME or CUDA_PATH if set, else from the PATH or /usr/local/cuda."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    for home in [*homes, "/usr/local/cuda"]:
        if (path := Path(home, "bin", "nvcc")).is_file():
            return path
    found = shutil.which("nvcc")
    return Path(found) if found else None


@functools.cache
def find_nvrtc() -> Path | None:
    """Return the library that pip installs as nvidia-cuda-nvrtc, if it is there."""
    spec = importlib.util.find_spec("nvidia") if importlib.util.find_spec("nvidia") else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).glob("*/lib/libnvrtc.so.*")):
            if "builtins" not in path.name and "alt" not in path.name:
                return path
    return None


def _compiled(variant: AnyNative) -> tuple[bytes, str]:
    """Return cubin and PTX by nvcc; by NVRTC where it is absent or fails: too old, no host compiler."""
    ways = [way for way, found in ((_by_nvcc, find_nvcc()), (_by_nvrtc, find_nvrtc())) if found]
    failures = []
    for way in ways:
        try:
            return way(variant)
        except UnsupportedTargetError as error:
            failures.append(error.message)
    raise UnsupportedTargetError("; ".join(failures), where=variant.name)


def _by_nvcc(variant: AnyNative) -> tuple[bytes, str]:
    nvcc = find_nvcc()
    assert nvcc is not None
    with tempfile.TemporaryDirectory(prefix="sparsec-nvcc-") as name:
        folder = Path(name)
        # One file with a plain name: neither cubin nor PTX holds a path of this machine.
        (folder / "kernel.cu").write_text(source_text(variant))
        # The C++ is read once; the cubin is made of the PTX, as nvcc makes it on its own.
        for options in (
            (_STANDARD, f"-arch=compute_{variant.sm}", "-ptx", "kernel.cu", "-o", "kernel.ptx"),
            (f"-arch=sm_{variant.sm}", "-cubin", "kernel.ptx", "-o", "kernel.cubin"),
        ):
            done = subprocess.run(
                [str(nvcc), *options], cwd=folder, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise UnsupportedTargetError(
                    f"kernel {variant.name}: {nvcc} failed: {done.stderr.strip()[-2000:]}",
                    where=variant.name,
                )
        return (folder / "kernel.cubin").read_bytes(), (folder / "kernel.ptx").read_text()


def _by_nvrtc(variant: AnyNative) -> tuple[bytes, str]:
    path = find_nvrtc()
    assert path is not None
    for needed in sorted(path.parent.glob("libnvrtc-builtins.so.*")):
        # NVRTC 13.0 does not find them beside itself.
        ctypes.CDLL(str(needed), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(path))
    program = ctypes.c_void_p()

    def call(name: str, *arguments: object) -> None:
        status = getattr(library, name)(*arguments)
        if status:
            size = ctypes.c_size_t()
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(max(size.value, 1))
            library.nvrtcGetProgramLog(program, log)
            raise UnsupportedTargetError(
                f"kernel {variant.name}: {name} returned {status}: {log.value.decode()[-2000:]}",
                where=variant.name,
            )

    def result(kind: str) -> bytes:
        size = ctypes.c_size_t()
        call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        call(f"nvrtcGet{kind}", program, buffer)
        return buffer.raw

    text = source_text(variant).encode()
    call("nvrtcCreateProgram", ctypes.byref(program), text, b"kernel.cu", 0, None, None)
    try:
        options: Sequence[bytes] = (_STANDARD.encode(), f"-arch=sm_{variant.sm}".encode())
        array = (ctypes.c_char_p * len(options))(*options)
        call("nvrtcCompileProgram", program, len(options), array)
        return result("CUBIN"), result("PTX").rstrip(b"\0").decode()
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _joined(path: Path, seen: set[str]) -> str:
    def include(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen or not (FOLDER / name).is_file():
            return "" if name in seen else match[0]
        seen.add(name)
        return _joined(FOLDER / name, seen)

    return _INCLUDE.sub(include, path.read_text()).replace("#pragma once\n", "")


def _key(variant: AnyNative) -> str:
    tool = str(find_nvcc() or find_nvrtc())
    text = f"{variant.name}\n{tool}\n{source_text(variant)}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
