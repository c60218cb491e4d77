"""Kernels of any packed format: against float64 (Triton's), then against cuBLAS in the same rounds (all)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.plan import Entry
from benchmarks.gpu.prepare import stored
from benchmarks.gpu.shapes import Layer, limit
from benchmarks.gpu.timing import copies_needed, interleaved, median
from sparsec.backends.cuda.formats import Packed, get
from sparsec.backends.cuda.launch import packed_linear
from sparsec.backends.cuda.native_launch import native_linear

TOLERANCE = 2e-3
CHECKED = ((1024, 1280), (1000, 1280), (77, 96), (15, 100))
_CHECKED_ROWS = (1, 3, 8, 16, 17, 32, 64, 70)


def random_weight(
    pattern: str, m: int, k: int, sparsity: float, rng: np.random.Generator
) -> np.ndarray:
    """Return a random float16 matrix [m, k] in a pattern; ``sparsity`` counts where it is free."""
    dense = rng.standard_normal((m, k), dtype=np.float32).astype(np.float16)
    if pattern.startswith("block:"):
        high = int(pattern.removeprefix("block:").split("x")[0])
        kept = rng.random((-(-m // high), k), dtype=np.float32) >= sparsity
        dense[~np.repeat(kept, high, axis=0)[:m]] = 0
    elif pattern == "unstructured":
        dense[rng.random((m, k), dtype=np.float32) < sparsity] = 0
    else:
        n, group = (int(each) for each in pattern.split(":"))
        wide = -(-k // group) * group
        score = rng.random((m, wide // group, group), dtype=np.float32)
        order = score.argsort(axis=-1).argsort(axis=-1).reshape(m, wide)[:, :k]
        dense[order >= n] = 0
    return dense


def check(seed: int, entry: Entry) -> dict[str, Any]:
    """Return the largest relative error over shapes and rows, outputs poisoned beforehand."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for m, k in CHECKED:
        for dense in _weights(entry, m, k, rng):
            worst = max(worst, _error(Packed.of(get(entry.format), dense, entry.values), rng))
    return {"max_rel": worst, "tolerance": TOLERANCE, "passed": worst <= TOLERANCE}


def _weights(entry: Entry, m: int, k: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return a random matrix, one with empty rows and a full tile, and one of zeros."""
    pattern = get(entry.format).pattern
    usual = random_weight(pattern, m, k, entry.sparsity, rng)
    uneven = random_weight(pattern, m, k, 0.0, rng)
    uneven[64:] = 0
    uneven[:16] = 0
    return [usual, uneven, np.zeros_like(usual)]


def _error(packed: Packed, rng: np.random.Generator) -> float:
    m, k = packed.shape
    arrays = {name: torch.from_numpy(array).cuda() for name, array in packed.arrays.items()}
    exact_weight = torch.from_numpy(packed.unpack()).cuda().double()
    bias = torch.from_numpy(rng.standard_normal(m, dtype=np.float32)).cuda()
    worst = 0.0
    for n in _CHECKED_ROWS:
        x = torch.from_numpy(rng.standard_normal((n, k)).astype(np.float16)).cuda()
        for split in (None, 3):
            y = torch.full((n, m), torch.nan, dtype=torch.float16, device="cuda")
            packed_linear(
                packed.format.name, x, arrays, m, packed.values, bias=bias, out=y, split=split
            )
            exact = x.double() @ exact_weight.T + bias
            error = (y.double() - exact).abs().max() / exact.abs().max()
            worst = max(worst, float(error.nan_to_num(nan=torch.inf)))
    return worst


def measure(
    layer: Layer, rows: int, entry: Entry, bandwidth: float, path: str, native: bool
) -> dict[str, Any]:
    """Return one row of the table: medians of interleaved replays, cold in the L2 cache.

    Parameters
    ----------
    bandwidth : float
        Bytes a second of a copy, which ``share_of_copy`` is a share of.
    path : str
        File with the packed weight.
    native : bool
        By the CUDA C++ kernel of the format, not by Triton's.
    """
    host = stored(path)
    nbytes = sum(array.nbytes for array in host.values())
    x = torch.randn(rows, layer.k, dtype=torch.float16, device="cuda")
    y = torch.empty(rows, layer.m, dtype=torch.float16, device="cuda")
    copies = copies_needed(nbytes)
    first = {name: torch.from_numpy(array).cuda() for name, array in host.items()}
    weights = [{name: array.clone() for name, array in first.items()} for _ in range(copies)]
    # Values do not change the time of a product: the dense copies need not match the packed.
    dense = [torch.randn(layer.m, layer.k, device="cuda").half() for _ in range(copies)]
    candidates: dict[str, Sequence[Callable[[], object]]] = {
        "dense": [functools.partial(torch.matmul, x, w.T, out=y) for w in dense],
        "packed": [_product(entry, x, arrays, y, native) for arrays in weights],
    }
    float8 = [] if native else _float8(x, dense)
    if float8:
        candidates["float8"] = float8
    times = interleaved(candidates)
    ratios = np.array(times["dense"]) / np.array(times["packed"])
    achieved = nbytes / median(times["packed"])
    most = limit(nbytes, layer, rows)
    return {
        "format": entry.format, "values": entry.values, "sparsity": entry.sparsity,
        "model": layer.model, "layer": layer.name, "m": layer.m, "k": layer.k, "n": rows,
        "dense_us": 1e6 * median(times["dense"]), "packed_us": 1e6 * median(times["packed"]),
        "dense_float8_us": 1e6 * median(times["float8"]) if float8 else None,
        "speedup": float(np.median(ratios)),
        "speedup_p10": float(np.quantile(ratios, 0.1)),
        "speedup_p90": float(np.quantile(ratios, 0.9)),
        # About 1 unless the device sped up or slowed down meanwhile; ratios do not mind, times do.
        "dense_drift": median(times["dense"][-10:]) / median(times["dense"][:10]),
        "limit": most, "share_of_limit": float(np.median(ratios)) / most,
        "gbytes_per_second": achieved / 1e9, "share_of_copy": achieved / bandwidth,
    }  # fmt: skip


def _product(
    entry: Entry, x: torch.Tensor, arrays: dict[str, torch.Tensor], y: torch.Tensor, native: bool
) -> Callable[[], object]:
    if native:
        return functools.partial(native_linear, entry.format, x, arrays, y)
    return functools.partial(
        packed_linear, entry.format, x, arrays, y.shape[1], entry.values, out=y
    )


def _float8(x: torch.Tensor, dense: Sequence[torch.Tensor]) -> list[Callable[[], object]]:
    """Return the dense product in float8, the free competitor; empty where torch has none here."""
    rows = torch.nn.functional.pad(x, (0, 0, 0, -len(x) % 16)).to(torch.float8_e4m3fn)
    one = torch.ones((), device="cuda")
    try:
        narrow = [w.to(torch.float8_e4m3fn) for w in dense]
        calls = [
            functools.partial(
                torch._scaled_mm, rows, w.T, scale_a=one, scale_b=one, out_dtype=torch.float16
            )
            for w in narrow
        ]
        calls[0]()
    except (RuntimeError, ValueError, AttributeError):
        return []
    return list(calls)
