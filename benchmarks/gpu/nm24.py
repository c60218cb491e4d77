"""2:4 layers: correctness against float64, then time against cuBLAS in the same rounds."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.shapes import Layer, limit
from benchmarks.gpu.timing import copies_needed, interleaved, median
from sparsec.backends.cuda.formats.nm24 import NM24Matrix
from sparsec.backends.cuda.launch import nm24_linear

_CHECKED = [(4096, 4096), (1000, 1280), (77, 96), (15, 100)]


def random_nm24(m: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random 2:4 float16 matrix [m, k]."""
    groups = rng.standard_normal((m * k // 4, 4), dtype=np.float32).astype(np.float16)
    dropped = rng.random(groups.shape, dtype=np.float32).argsort(axis=-1)[:, :2]
    np.put_along_axis(groups, dropped, 0, axis=-1)
    return groups.reshape(m, k)


def check(seed: int) -> dict[str, Any]:
    """Return the largest relative error over shapes and rows, outputs poisoned beforehand."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for m, k in _CHECKED:
        weight = random_nm24(m, k, rng)
        packed = NM24Matrix.pack(weight)
        vals, meta = (torch.from_numpy(each).cuda() for each in (packed.vals, packed.meta))
        dense = torch.from_numpy(weight).cuda().double()
        for n in (1, 3, 8, 16, 17, 32, 64):
            x = torch.from_numpy(rng.standard_normal((n, k)).astype(np.float16)).cuda()
            y = torch.full((n, m), torch.nan, dtype=torch.float16, device="cuda")
            nm24_linear(x, vals, meta, out=y)
            exact = x.double() @ dense.T
            error = (y.double() - exact).abs().max() / exact.abs().max()
            worst = max(worst, float(error.nan_to_num(nan=torch.inf)))
    return {"max_rel": worst, "tolerance": 2e-3, "passed": worst <= 2e-3}


def measure(layer: Layer, rows: int, bandwidth: float) -> dict[str, Any]:
    """Return one row of the table: medians of interleaved replays, cold in the L2 cache."""
    packed = NM24Matrix.pack(random_nm24(layer.m, layer.k, np.random.default_rng(0)))
    vals, meta = (torch.from_numpy(each).cuda() for each in (packed.vals, packed.meta))
    x = torch.randn(rows, layer.k, dtype=torch.float16, device="cuda")
    y = torch.empty(rows, layer.m, dtype=torch.float16, device="cuda")
    copies = copies_needed(packed.nbytes)
    # Values do not change the time of either product: the dense copies need not match the packed.
    dense = [torch.randn(layer.m, layer.k, device="cuda").half() for _ in range(copies)]
    pairs = [(vals.clone(), meta.clone()) for _ in range(copies)]
    times = interleaved(
        {
            "dense": [functools.partial(torch.matmul, x, w.T, out=y) for w in dense],
            "nm24": [functools.partial(nm24_linear, x, v, e, out=y) for v, e in pairs],
        }
    )
    ratios = np.array(times["dense"]) / np.array(times["nm24"])
    achieved = packed.nbytes / median(times["nm24"])
    most = limit(packed.nbytes, layer, rows)
    return {
        "model": layer.model, "layer": layer.name, "m": layer.m, "k": layer.k, "n": rows,
        "dense_us": 1e6 * median(times["dense"]), "nm24_us": 1e6 * median(times["nm24"]),
        "speedup": float(np.median(ratios)),
        "speedup_p10": float(np.quantile(ratios, 0.1)),
        "speedup_p90": float(np.quantile(ratios, 0.9)),
        "limit": most, "share_of_limit": float(np.median(ratios)) / most,
        "gbytes_per_second": achieved / 1e9, "share_of_copy": achieved / bandwidth,
    }  # fmt: skip
