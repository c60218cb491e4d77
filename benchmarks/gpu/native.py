"""CUDA C++ kernels: correctness against float64, then time against cuBLAS in the same rounds.

Kernels are compiled by nvcc or NVRTC where the benchmark runs, for its device, and launched from their
launch data through the driver: what an artifact's loader does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.shapes import Layer, limit
from benchmarks.gpu.timing import copies_needed, interleaved, median
from sparsec.backends.cuda import formats, nvcc
from sparsec.backends.cuda.native_launch import native_linear

Call = Callable[[], object]
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
_CHECKED = [(4096, 4096), (1000, 1280), (77, 96), (15, 100)]


def missing() -> str | None:
    """Return why these kernels cannot be compiled here, or None."""
    return nvcc.why_not(_sm())


def check(seed: int) -> dict[str, Any]:
    """Return the largest relative error over formats, shapes and rows, outputs poisoned beforehand."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for name, sparsity in [("nm24_sp", 0.5), *(("lps", s) for s in (0.0, *SPARSITIES, 1.0))]:
        for m, k in _CHECKED:
            layer = _Packed(name, m, k, sparsity, rng)
            dense = torch.from_numpy(layer.dense).cuda().double()
            for n in (1, 3, 8, 16, 17, 32, 64):
                x = torch.from_numpy(rng.standard_normal((n, k)).astype(np.float16)).cuda()
                y = torch.full((n, m), torch.nan, dtype=torch.float16, device="cuda")
                layer.call(x, y)()
                exact = x.double() @ dense.T
                error = (y.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-30)
                worst = max(worst, float(error.nan_to_num(nan=torch.inf)))
    return {"max_rel": worst, "tolerance": 2e-3, "passed": worst <= 2e-3}


def measure(
    layer: Layer, rows: int, bandwidth: float, name: str, sparsity: float
) -> dict[str, Any]:
    """Return one row of the table: medians of interleaved replays, cold in the L2 cache."""
    packed = _packed(layer.m, layer.k, name, sparsity)
    x = torch.randn(rows, layer.k, dtype=torch.float16, device="cuda")
    y = torch.empty(rows, layer.m, dtype=torch.float16, device="cuda")
    copies = copies_needed(packed.nbytes)
    # Values do not change the time of either product: the dense copies need not match the packed.
    dense = [torch.randn(layer.m, layer.k, device="cuda").half() for _ in range(copies)]
    times = interleaved(
        {
            "dense": [functools.partial(torch.matmul, x, w.T, out=y) for w in dense],
            "packed": [packed.call(x, y, clone=True) for _ in range(copies)],
        }
    )
    ratios = np.array(times["dense"]) / np.array(times["packed"])
    achieved = packed.nbytes / median(times["packed"])
    most = limit(packed.nbytes, layer, rows)
    return {
        "format": name, "sparsity": sparsity,
        "model": layer.model, "layer": layer.name, "m": layer.m, "k": layer.k, "n": rows,
        "dense_us": 1e6 * median(times["dense"]), "packed_us": 1e6 * median(times["packed"]),
        "speedup": float(np.median(ratios)),
        "speedup_p10": float(np.quantile(ratios, 0.1)),
        "speedup_p90": float(np.quantile(ratios, 0.9)),
        "limit": most, "share_of_limit": float(np.median(ratios)) / most,
        "gbytes_per_second": achieved / 1e9, "share_of_copy": achieved / bandwidth,
    }  # fmt: skip


class _Packed:
    """One random weight on the device, and its launches."""

    def __init__(
        self, name: str, m: int, k: int, sparsity: float, rng: np.random.Generator
    ) -> None:
        self.name, self.m, self.k, self.sparsity = name, m, k, sparsity
        self.dense = _random(name, m, k, sparsity, rng)
        packed = formats.get(name).pack(self.dense)
        self.nbytes = sum(array.nbytes for array in packed.values())
        self.arrays = {each: torch.from_numpy(array).cuda() for each, array in packed.items()}

    def call(self, x: torch.Tensor, y: torch.Tensor, clone: bool = False) -> Call:
        arrays = {n: a.clone() for n, a in self.arrays.items()} if clone else self.arrays
        return functools.partial(native_linear, self.name, x, arrays, y)


@functools.lru_cache(maxsize=1)
def _packed(m: int, k: int, name: str, sparsity: float) -> _Packed:
    return _Packed(name, m, k, sparsity, np.random.default_rng(0))


def _sm() -> int:
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def _random(name: str, m: int, k: int, sparsity: float, rng: np.random.Generator) -> np.ndarray:
    dense = rng.standard_normal((m, k), dtype=np.float32).astype(np.float16)
    if name == "nm24_sp":
        groups = dense.reshape(-1, 4)
        dropped = rng.random(groups.shape, dtype=np.float32).argsort(axis=-1)[:, :2]
        np.put_along_axis(groups, dropped, 0, axis=-1)
        return dense
    dense[rng.random((m, k), dtype=np.float32) < sparsity] = 0
    return dense
