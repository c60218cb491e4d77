"""CUDA C++ kernels: correctness against float64.

Kernels are compiled by nvcc or NVRTC where the benchmark runs, for its device, and launched from their
launch data through the driver: what an artifact's loader does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.gpu.packed import TOLERANCE, random_weight
from benchmarks.gpu.prepare import kinds
from sparsec.backends.cuda import formats, nvcc
from sparsec.backends.cuda.native import NATIVE, NativeUnpack, NativeVariant, buckets
from sparsec.backends.cuda.native_launch import native_linear

# Format and sparsity.
CASES = (
    ("nm24_sp", 0.5),
    ("nm14_sp", 0.75),
    *(("lps", s) for s in (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
)
CHECKED = ((2048, 4096), (1000, 1280), (77, 96), (15, 100))
CHECKED_ROWS = (1, 3, 8, 16, 17, 32, 64, 70)


def missing() -> str | None:
    """Return why these kernels cannot be compiled here, or None."""
    return nvcc.why_not(_sm())


def check(seed: int, name: str, sparsity: float) -> dict[str, Any]:
    """Return the largest relative error over shapes and rows, outputs poisoned beforehand."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for m, k in CHECKED:
        pattern = formats.get(name).pattern
        dense = random_weight(pattern, m, k, sparsity, rng)
        packed = formats.get(name).pack(dense)
        arrays = {each: torch.from_numpy(array).cuda() for each, array in packed.items()}
        exact_weight = torch.from_numpy(dense).cuda().double()
        for n in CHECKED_ROWS:
            x = torch.from_numpy(rng.standard_normal((n, k)).astype(np.float16)).cuda()
            for split in (None, 3):
                y = torch.full((n, m), torch.nan, dtype=torch.float16, device="cuda")
                native_linear(name, x, arrays, y, split=split)
                exact = x.double() @ exact_weight.T
                error = (y.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-30)
                worst = max(worst, float(error.nan_to_num(nan=torch.inf)))
    return {"max_rel": worst, "tolerance": TOLERANCE, "passed": worst <= TOLERANCE}


def variants(sm: int) -> list[NativeVariant | NativeUnpack]:
    """Return all that the benchmark launches of them: products, and what unpacks for many rows of x."""
    products = [
        NativeVariant(name, "float16", sm, bucket, k % 8 == 0, k % 64 == 0, clear)
        for k in kinds(k for _, k in CHECKED)
        for name, clear in (*((each, False) for each in NATIVE), ("lps", True))
        for bucket in buckets(name, k)
    ]
    unpacking = [(each, True) for each in NATIVE] + [("lps", False)]
    return products + [NativeUnpack(name, "float16", sm, aligned) for name, aligned in unpacking]


def _sm() -> int:
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor
