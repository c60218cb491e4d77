"""Products of many rows: the weight unpacked once and multiplied densely, against dense and packed.

Each product is made by the operators that a model runs, of every kind of kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import native
from benchmarks.gpu.packed import random_weight
from benchmarks.gpu.plan import Entry
from benchmarks.gpu.prepare import stored
from benchmarks.gpu.shapes import Layer
from benchmarks.gpu.timing import copies_needed, interleaved, median
from sparsec.backends.cuda.native import NATIVE
from sparsec.backends.cuda.operators import NEVER, linear_operator, unpack_operator
from sparsec.backends.cuda.torch_formats import (
    array_names,
    form_of,
    multiplied_in,
    pack,
    unpack,
)

Timer = Callable[[dict[str, Sequence[Callable[[], object]]]], dict[str, list[float]]]
TOLERANCE = 2e-3
_CHECKED = ((1000, 1280), (77, 96), (15, 100))
_CHECKED_ROWS = 130


def missing(entry: Entry, device: str = "cuda") -> str | None:
    """Return why nothing unpacks a format here, or None."""
    return native.missing() if device == "cuda" and entry.format in NATIVE else None


def check(seed: int, entries: Sequence[Entry], device: str = "cuda") -> dict[str, Any]:
    """Return the largest relative error of either way to multiply, and which weights come back wrong."""
    rng = np.random.default_rng(seed)
    worst, inexact = 0.0, []
    for entry in entries:
        if missing(entry, device):
            continue
        dtype = multiplied_in(entry.values)
        for m, k in _CHECKED:
            pattern = form_of(entry.format).pattern
            dense = torch.from_numpy(random_weight(pattern, m, k, entry.sparsity, rng))
            packed = [each.to(device) for each in pack(entry.format, dense, entry.values)]
            weight = _unpack(entry, packed, m, k)()
            if entry.values == "float16" and not torch.equal(weight.cpu(), dense):
                inexact.append(f"{entry} {m}x{k}")
            x = torch.from_numpy(rng.standard_normal((_CHECKED_ROWS, k), dtype=np.float32))
            x = x.to(device, dtype)
            # With a bias these are kernels that the check of fewer rows launches too.
            bias = torch.from_numpy(rng.standard_normal(m, dtype=np.float32)).to(device)
            held = unpack(entry.format, packed, (m, k), entry.values)
            exact = x.double() @ held.to(device).double().T + bias
            for dense_from in (1, NEVER):
                y = _product(entry, x, packed, m, dense_from, bias)().double()
                error = (y - exact).abs().max() / exact.abs().max()
                worst = max(worst, float(error.nan_to_num(nan=torch.inf)))
    passed = worst <= TOLERANCE and not inexact
    return {"max_rel": worst, "tolerance": TOLERANCE, "inexact": inexact, "passed": passed}


def measure(
    layer: Layer,
    rows: int,
    entry: Entry,
    path: str,
    device: str = "cuda",
    timer: Timer = interleaved,
) -> dict[str, Any]:
    """Return one row of the table: medians of interleaved replays, cold in the L2 cache.

    ``unpack_us`` is unpacking alone, ``unpacked_us`` with the dense product, ``packed_us`` the packed
    kernel, which reads the weight again for every 64 rows. ``path`` is the file with the packed weight.
    """
    arrays = stored(path)
    host = [torch.from_numpy(arrays[name]) for name in array_names(entry.format, entry.values)]
    x = torch.randn(rows, layer.k, device=device).half()
    copies = copies_needed(sum(each.nbytes for each in host))
    weights = [[each.to(device, copy=True) for each in host] for _ in range(copies)]
    # Values do not change the time of a product: the dense copies need not match the packed.
    dense = [torch.randn(layer.m, layer.k, device=device).half() for _ in range(copies)]
    times = timer(
        {
            "dense": [functools.partial(torch.nn.functional.linear, x, w) for w in dense],
            "packed": [_product(entry, x, each, layer.m, NEVER) for each in weights],
            "unpacked": [_product(entry, x, each, layer.m, 1) for each in weights],
            "unpack": [_unpack(entry, each, layer.m, layer.k) for each in weights],
        }
    )
    moved = sum(each.nbytes for each in host) + layer.dense_bytes
    ratios = np.array(times["dense"]) / np.array(times["unpacked"])
    return {
        "format": entry.format, "values": entry.values, "sparsity": entry.sparsity,
        "model": layer.model, "layer": layer.name, "m": layer.m, "k": layer.k, "n": rows,
        **{f"{name}_us": 1e6 * median(times[name]) for name in times},
        "speedup": float(np.median(ratios)),
        "speedup_p10": float(np.quantile(ratios, 0.1)),
        "speedup_p90": float(np.quantile(ratios, 0.9)),
        "speedup_packed": float(np.median(np.array(times["dense"]) / np.array(times["packed"]))),
        "unpack_gbytes_per_second": moved / median(times["unpack"]) / 1e9,
    }  # fmt: skip


def _product(
    entry: Entry,
    x: torch.Tensor,
    packed: Sequence[torch.Tensor],
    m: int,
    dense_from: int,
    bias: torch.Tensor | None = None,
) -> Callable[[], torch.Tensor]:
    return functools.partial(
        linear_operator(entry.format), x, packed, bias, None, "none", m, x.shape[1], entry.values,
        x.dtype, dense_from, None, "",
    )  # fmt: skip


def _unpack(
    entry: Entry, packed: Sequence[torch.Tensor], m: int, k: int
) -> Callable[[], torch.Tensor]:
    dtype = multiplied_in(entry.values)
    return functools.partial(unpack_operator(entry.format), packed, m, k, entry.values, dtype)
