"""Times of GPU work: CUDA graph replays over rotating operands, two candidates in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

# Operands are rotated until this much has been read, so that no replay finds them in the L2 cache.
ROTATE_BYTES = 300 << 20

_WARM_SECONDS = 0.2  # of replays before any is timed: a device at rest has a low clock


def copies_needed(nbytes: int) -> int:
    """Return how many copies of an operand make a rotation: 6 at least."""
    return max(6, -(-ROTATE_BYTES // nbytes))


def capture(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    """Return a graph that makes all ``calls`` once, warmed up and captured on a side stream."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def interleaved(
    candidates: dict[str, Sequence[Callable[[], object]]], rounds: int = 30
) -> dict[str, list[float]]:
    """Return seconds of one call, for each round and candidate; candidates take turns."""
    graphs = {name: capture(calls) for name, calls in candidates.items()}
    begin = time.perf_counter()
    while time.perf_counter() - begin < _WARM_SECONDS:
        for graph in graphs.values():
            graph.replay()
        torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(rounds):
        for name, graph in graphs.items():
            graph.replay()  # not timed: what is timed queues behind it, so that no launch is waited for
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) * 1e-3 / len(candidates[name]))
    return times


def median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)
