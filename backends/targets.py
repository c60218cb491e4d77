"""The table of targets, and the registries of targets and backends."""

from __future__ import annotations

import platform

from sparsec.backends.base import Backend
from sparsec.ir.registry import Registry
from sparsec.ir.target import Status, Target

CPU_PATTERNS = ("unstructured", "block:4x1", "2:4")

# Channels at once, see docs/structural-pruning.md: the blocks of ONNX Runtime's convolutions (measured
# for AVX-512), a vector of four floats, and what fp16 tensor cores ask of a dimension (16 bytes).
WIDTHS = {"avx2": 8, "avx512": 16, "neon": 4, "tensor cores": 8}

# Peak rates are the vendors' data sheets (dense fp16 tensor-core flop/s; device memory bytes/s).
# They only decide whether a layer is memory- or compute-bound, never a claim of speed.
_GPUS = {  # title, architecture, flop/s, bytes/s, processors, clock in Hz
    "a100": ("NVIDIA A100", "sm80", 312e12, 2.0e12, 108, 1.41e9),
    "h100": ("NVIDIA H100", "sm90", 989e12, 3.35e12, 132, 1.755e9),
    "h200": ("NVIDIA H200", "sm90", 989e12, 4.8e12, 132, 1.755e9),
    "b200": ("NVIDIA B200", "sm100", 2250e12, 8.0e12, 148, 1.85e9),
    "rtx4090": ("NVIDIA GeForce RTX 4090", "sm89", 165e12, 1.0e12, 128, 2.52e9),
    "mi300": ("AMD Instinct MI300X", "gfx942", 1307e12, 5.3e12, 304, 2.1e9),
}
_LANES = {"sm": 128, "gfx": 64}  # that a processor issues to in one cycle
GPU_PATTERNS = ("unstructured", "2:4", "1:4", "2:8", "4:8", "8:16", "block:16x1", "block:8x1")

_TENSORRT = ("sm80", "sm86", "sm89", "sm90", "sm120")

ONNX = Target("onnx", "plain ONNX, no custom operators, for any runtime", "onnx", Status.EMITTED)
CPU = Target("cpu", "this machine", "cpu", Status.MEASURED, frozenset(), CPU_PATTERNS)
X86_AVX2 = Target(
    "x86-avx2",
    "x86-64 with AVX2 and FMA",
    "cpu",
    Status.MODELLED,
    frozenset({"x86_64", "avx2"}),
    CPU_PATTERNS,
    WIDTHS["avx2"],
)
X86_AVX512 = Target(
    "x86-avx512",
    "x86-64 with AVX-512",
    "cpu",
    Status.MODELLED,
    frozenset({"x86_64", "avx2", "avx512"}),
    CPU_PATTERNS,
    WIDTHS["avx512"],
)
AARCH64 = Target(
    "aarch64",
    "64-bit ARM with NEON",
    "cpu",
    Status.MODELLED,
    frozenset({"aarch64", "neon"}),
    CPU_PATTERNS,
    WIDTHS["neon"],
)


def _gpu(name: str) -> Target:
    title, arch, flops, bandwidth, processors, clock = _GPUS[name]
    issue = _LANES[arch.rstrip("0123456789")] * processors * clock
    return Target(
        name,
        title,
        "cuda",
        Status.EMITTED,
        frozenset({arch}),
        GPU_PATTERNS,
        WIDTHS["tensor cores"],
        {"flops": flops, "bandwidth": bandwidth, "processors": processors, "issue": issue},
    )


A100, H100, H200, B200, RTX4090, MI300 = (_gpu(name) for name in _GPUS)
TENSORRT = {
    f"tensorrt-{sm}": Target(f"tensorrt-{sm}", f"TensorRT on {sm}", "", Status.PLANNED)
    for sm in _TENSORRT
}
TENSORRT_SM80, TENSORRT_SM86, TENSORRT_SM89, TENSORRT_SM90, TENSORRT_SM120 = TENSORRT.values()

_HERE = "sparsec.backends.targets"

targets: Registry[Target] = Registry(
    "target",
    "sparsec.targets",
    {
        "cpu": f"{_HERE}:CPU",
        "onnx": f"{_HERE}:ONNX",
        "x86-avx2": f"{_HERE}:X86_AVX2",
        "x86-avx512": f"{_HERE}:X86_AVX512",
        "aarch64": f"{_HERE}:AARCH64",
        **{name: f"{_HERE}:{name.upper()}" for name in _GPUS},
        **{name: f"{_HERE}:{name.upper().replace('-', '_')}" for name in TENSORRT},
    },
)

backends: Registry[type[Backend]] = Registry(
    "backend",
    "sparsec.backends",
    {
        "onnx": "sparsec.backends.onnx.backend:OnnxBackend",
        "cpu": "sparsec.backends.cpu.backend:CpuBackend",
        "cuda": "sparsec.backends.cuda.backend:CudaBackend",
    },
)


def platform_tag() -> str:
    """Return ``<os>-<arch>`` of this machine, as under ``lib/`` of an artifact."""
    return f"{platform.system().lower()}-{platform.machine().lower()}"
