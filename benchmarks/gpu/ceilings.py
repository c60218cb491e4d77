"""What this device can do at most: bytes a second, and dense tensor-core flop a second."""

from __future__ import annotations

import torch

from benchmarks.gpu.timing import interleaved, median


def copy_bytes_per_second(nbytes: int = 1 << 30) -> float:
    """Return bytes read plus bytes written a second, of a device-to-device copy."""
    source = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = interleaved({"copy": [lambda: target.copy_(source)]})
    return 2 * nbytes / median(times["copy"])


def matmul_flops(size: int = 8192) -> float:
    """Return flop a second of a square float16 product by cuBLAS."""
    a, b = (torch.randn(size, size, dtype=torch.float16, device="cuda") for _ in range(2))
    times = interleaved({"matmul": [lambda: a @ b]})
    return float(2 * size**3 / median(times["matmul"]))
