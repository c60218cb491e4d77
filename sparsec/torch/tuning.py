"""``tune``: measure on this device from how many rows of x on each sparse layer goes the dense way.

Nothing is measured while a model serves. The result is a record that :func:`sparsec.torch.save` keeps.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
from torch import nn

from sparsec.backends.cuda import operators
from sparsec.ir.errors import UnsupportedTargetError
from sparsec.torch.linear import Dispatch, SparseLinear
from sparsec.torch.sparsify import sparse_layers

ROWS = (64, 96, 128, 192, 256, 384, 512, 1024, 2048)
PACKED = "packed"

Measure = Callable[[SparseLinear, str, int], "float | None"]
"""``(layer, way, rows) -> seconds``, or None if the layer cannot go that way."""


def tune(
    module: nn.Module,
    rows: Sequence[int] = ROWS,
    *,
    second_copy: bool = False,
    measure: Measure | None = None,
) -> dict[str, Dispatch]:
    """Set the dispatch record of every sparse layer from measurements; return the records by name.

    Layers of one shape, format and type of values are measured once.

    Parameters
    ----------
    module : nn.Module
        With its sparse layers on the device that it will serve on.
    rows : sequence of int
        Rows of x to measure at.
    second_copy : bool
        Let 2:4 layers keep a second copy in the form of cuSPARSELt, where that is faster.
    measure : callable, optional
        In place of timing CUDA graphs on the device.

    Raises
    ------
    UnsupportedTargetError
        If the layers are not on a CUDA device and ``measure`` is not given.
    """
    layers = dict(sparse_layers(module))
    on_device = all(layer.packed[0].is_cuda for layer in layers.values())
    if measure is None and not (layers and on_device):
        raise UnsupportedTargetError(
            "tune measures on a CUDA device: sparsify a module and move it there first. Without "
            "tuning the record is modelled"
        )
    measure = measure or seconds_on_device
    known: dict[tuple[object, ...], Dispatch] = {}
    for layer in layers.values():
        key = (layer.out_features, layer.in_features, layer.format, layer.values)
        if key not in known:
            ways = ("decompress", "cusparselt") if second_copy else ("decompress",)
            known[key] = _best(layer, sorted(rows), ways, measure)
        layer.dispatch = known[key]
        layer.prepare()
    return {name: layer.dispatch for name, layer in layers.items()}


def _best(
    layer: SparseLinear, rows: Sequence[int], ways: Sequence[str], measure: Measure
) -> Dispatch:
    """Return the way that wins from the fewest rows on, and these rows."""
    packed = {count: measure(layer, PACKED, count) for count in rows}
    best = Dispatch(operators.NEVER, source="measured")
    for way in ways:
        first = operators.NEVER
        for count in reversed(rows):
            mine, other = packed[count], measure(layer, way, count)
            if mine is None or other is None or other >= mine:
                break
            first = count
        if first < best.dense_from:
            best = Dispatch(first, way, "measured")
    return best


def seconds_on_device(layer: SparseLinear, way: str, rows: int) -> float | None:
    """Return the median seconds of one call, from replays of a CUDA graph.

    The weight is read from the cache of the device where it fits: both ways read the same one.
    """
    values = layer.multiplied_in
    x = torch.randn(rows, layer.in_features, device=layer.packed[0].device).to(values)
    prefill = None
    if way == "cusparselt":
        try:
            prefill = operators.cusparselt_weight(layer.weight)
        except UnsupportedTargetError:
            return None

    def call() -> object:
        return operators.linear_operator(layer.format)(
            x, layer.packed, layer.bias, None, "none", layer.out_features, layer.in_features,
            layer.values, values, operators.NEVER if way == PACKED else 1, prefill, "",
        )  # fmt: skip

    with torch.inference_mode(), torch.cuda.device(layer.packed[0].device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            try:
                call()
            except UnsupportedTargetError:  # no kernel unpacks the format
                return None
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        repeats = 10
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                call()
        times = []
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(12):
            graph.replay()  # not timed: what is timed queues behind it
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e-3 / repeats)
    return float(statistics.median(times[2:]))
