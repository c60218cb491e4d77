"""What takes a host's time, done ahead and side by side: kernels are compiled, random weights are packed.

Processes apart do it while the device checks and measures; one that ends in the middle of its work, as a
compiler may, takes nothing else along. They need no device: compiled kernels reach the process that launches
them through the caches of triton (``TRITON_CACHE_DIR``) and of binaries (``SPARSEC_CACHE``), packed weights
through files.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import queue
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.isolated import Worker
from benchmarks.gpu.plan import Entry
from benchmarks.gpu.shapes import Layer
from sparsec.backends.cuda.native import NativeUnpack, NativeVariant
from sparsec.backends.cuda.variants import Variant

ROOT = Path(__file__).parents[2]
_ROWS = 2048  # of random numbers; a taller weight repeats them
_SECONDS = 180.0  # that one kernel or weight may take


class Preparation:
    """Some processes, and what they have made.

    Parameters
    ----------
    sm : int
        Compute capability of the device, 90 for 9.0.
    until : float
        On ``time.monotonic``: nothing is waited for any longer.
    processes : int, optional
        As many as there are processors but two, 12 at most, if absent.
    """

    def __init__(self, sm: int, until: float, processes: int | None = None) -> None:
        self.sm, self._until = sm, until
        self._folder = tempfile.TemporaryDirectory(prefix="sparsec-gpu-")
        for name, folder in (("TRITON_CACHE_DIR", "triton"), ("SPARSEC_CACHE", "native")):
            os.environ.setdefault(name, str(ROOT / "build" / "gpu-cache" / folder))
        processes = processes or max(1, min(12, len(os.sched_getaffinity(0)) - 2))
        self._threads = concurrent.futures.ThreadPoolExecutor(processes)
        self._workers = [Worker() for _ in range(processes)]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._made: dict[Any, concurrent.futures.Future[Any]] = {}

    def compile(self, function: Callable[..., None], calls: Iterable[tuple[Any, ...]]) -> None:
        """Start compiling: one call of ``function`` for each of ``calls``, the device's sm first."""
        for each in calls:
            self._start((function.__name__, each), function, (self.sm, *each))

    def pack(self, layers: Iterable[tuple[Layer, Entry]]) -> None:
        """Start packing random weights."""
        for each in layers:
            self._start(each, pack_to, (self._folder.name, *each))

    def compiled(self, function: Callable[..., None], calls: Iterable[tuple[Any, ...]]) -> None:
        """Wait until these are compiled. What failed fails again, and is reported, at its launch."""
        made = [self._made[function.__name__, each] for each in calls]
        concurrent.futures.wait(made, self._left())

    def packed(self, layer: Layer, entry: Entry) -> str:
        """Wait for a packed weight and return its file.

        Raises
        ------
        Exception
            What packing raised, or that it takes too long.
        """
        return str(self._made[layer, entry].result(self._left()))

    def _start(self, key: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if key not in self._made:
            self._made[key] = self._threads.submit(self._apart, function, arguments)

    def _apart(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        worker = self._free.get()
        try:
            return worker.call(function, *arguments, seconds=_SECONDS)
        finally:
            self._free.put(worker)

    def _left(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def __enter__(self) -> Preparation:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        while not all(each.done() for each in self._made.values()):
            for worker in self._workers:
                worker.kill()
            time.sleep(0.05)
        for worker in self._workers:
            worker.close()
        self._folder.cleanup()


def pack_to(folder: str, layer: Layer, entry: Entry) -> str:
    """Pack a random weight of a layer into a file of ``folder``; return the file."""
    from benchmarks.gpu.packed import random_weight
    from sparsec.backends.cuda.formats import get

    form = get(entry.format)
    rng = np.random.default_rng(0)
    some = random_weight(form.pattern, min(layer.m, _ROWS), layer.k, entry.sparsity, rng)
    dense = np.tile(some, (-(-layer.m // len(some)), 1))[: layer.m]
    arrays = form.pack(dense, entry.values)
    name = f"{layer.m}x{layer.k}-{entry.format}-{entry.values}-{100 * entry.sparsity:.0f}.npz"
    path = Path(folder, name)
    np.savez(path, **arrays)
    return str(path)


@functools.lru_cache(maxsize=1)
def stored(path: str) -> dict[str, np.ndarray]:
    """Return the arrays of a file that :func:`pack_to` wrote."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def kinds(columns: Iterable[int]) -> list[int]:
    """Return of some K one for each form that a CUDA C++ kernel has for it."""
    return list({(k % 8 == 0, k % 64 == 0): k for k in columns}.values())


def compile_file(sm: int, variant: Variant | NativeVariant | NativeUnpack) -> None:
    """Compile a kernel to the file that an artifact has of it, and keep that."""
    from sparsec.backends.cuda import aot, nvcc

    if variant.arch != f"sm{sm}":
        raise ValueError(f"{variant.name} is not for sm{sm}")
    if isinstance(variant, Variant):
        aot.compile_variant(variant, nvcc.kept_in())
    else:
        nvcc.compile_native(variant, nvcc.kept_in())


def compile_triton(
    sm: int, format: str, values: str, bucket: int, k: int, options: tuple[tuple[str, Any], ...]
) -> None:
    """Compile the Triton kernels of a weight with K = ``k``, exactly as a launch does.

    ``options`` are ``out``, ``act``, ``bias`` and ``residual``, as those of ``variants_for``, ``group`` as
    that of ``Packed.of``, and ``splits``: whether the reduction is split, not split (1), or both.
    """
    import torch
    import triton

    from benchmarks.gpu.packed import random_weight
    from sparsec.backends.cuda import launch
    from sparsec.backends.cuda.formats import Packed, get
    from sparsec.backends.cuda.variants import SPARSE_MMA

    # This process of the pool has no device: the two places that would ask for one are told, not asked.
    triton.runtime.driver.set_active(_Described(sm))
    launch._arch = lambda device: f"sm{sm}"  # type: ignore[assignment]
    launch._run = _compile_only
    m, named = 64, dict(options)
    rng = np.random.default_rng(0)
    dense = random_weight(get(format).pattern, m, k, 0.5, rng)
    packed = Packed.of(get(format), dense, values, named.pop("group", None))
    arrays = {name: torch.from_numpy(array) for name, array in packed.arrays.items()}
    out = getattr(torch, named.pop("out", "float16"))
    added: dict[str, Any] = {"act": named.pop("act", "none")}
    if named.pop("bias", False):
        added["bias"] = torch.zeros(m)
    if named.pop("residual", False):
        added["residual"] = torch.zeros(bucket, m, dtype=out)
    x = torch.zeros(bucket, k, dtype=torch.bfloat16 if values == "bfloat16" else torch.float16)
    splits = named.pop("splits", (1, 3))
    for split in (3,) if format in SPARSE_MMA else splits:
        y = torch.zeros(bucket, m, dtype=out)
        launch.packed_linear(format, x, arrays, m, values, out=y, split=split, **added)
    if format not in SPARSE_MMA:
        launch.unpack(format, arrays, torch.zeros(m, k, dtype=x.dtype), values)


def _compile_only(variant: Any, tensors: Any, sizes: Any, asm: bool) -> None:
    from sparsec.backends.cuda import launch

    kernel, grid, arguments = launch.bound(variant, tensors, sizes, asm)
    kernel.warmup(grid=grid, **arguments)


class _Described:
    """Tells triton's compiler of a device what it asks for, so that it needs none."""

    def __init__(self, sm: int) -> None:
        self._sm = sm

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._sm, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0
