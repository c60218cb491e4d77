"""Launches the compiled kernels of artifacts on torch tensors: no Triton, no compiler, only the driver.

A lowered node names, for every bucket of N, a *chain*: kernels to launch one after the other, and into
how many shares the reduction is split. What lies between two kernels of a chain (x transposed, partial
sums) is memory of torch's, so that a CUDA graph can own it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsec.backends.cuda.loader import Driver, Kernel, load_kernels
from sparsec.ir.errors import ArtifactError

_LOADED: dict[str, Kernel] = {}  # by name; never unloaded, since CUDA graphs may hold them
_CEIL = re.compile(r"ceil\((\w+)/(\d+)\)(?:\*(\d+))?")


@dataclasses.dataclass(frozen=True, slots=True)
class Chain:
    """Kernels that are launched in turn.

    Parameters
    ----------
    kernels : tuple of str
    shares : int
        S, the shares of the reduction.
    """

    kernels: tuple[str, ...]
    shares: int

    def __str__(self) -> str:
        return f"{' '.join(self.kernels)}:{self.shares}"


def load(root: Path, manifest: Mapping[str, Any], device: int) -> None:
    """Load the kernels of the artifact at ``root`` onto a device.

    Raises
    ------
    ArtifactError
        If they are for another architecture.
    UnsupportedTargetError
        If there is no driver.
    """
    torch.cuda.init()
    _LOADED.update(load_kernels(Driver(device), root, manifest))


def as_text(chains: Sequence[str], shares: Sequence[int]) -> str:
    """Return the chains of a node, by bucket, as the operators take them.

    Examples
    --------
    >>> as_text(["transpose main", "main64"], [1, 3])
    'transpose main:1,main64:3'
    """
    pairs = zip(chains, shares or [1] * len(chains), strict=True)
    return ",".join(str(Chain(tuple(names.split()), count)) for names, count in pairs)


@functools.lru_cache(maxsize=1024)
def chains_of(text: str) -> tuple[Chain, ...]:
    """Return what :func:`as_text` wrote.

    Examples
    --------
    >>> chains_of("transpose main:1,main64:3")[1]
    Chain(kernels=('main64',), shares=3)
    """
    found = []
    for part in filter(None, text.split(",")):
        names, _, shares = part.rpartition(":")
        found.append(Chain(tuple(names.split()), int(shares)))
    return tuple(found)


def loaded(text: str) -> bool:
    """Whether all kernels that ``text`` names are loaded; False if it names none."""
    chains = chains_of(text)
    return bool(chains) and all(name in _LOADED for chain in chains for name in chain.kernels)


def linear(
    text: str,
    x: Tensor,
    arrays: Mapping[str, Tensor],
    bias: Tensor | None,
    y: Tensor,
) -> None:
    """Write ``x @ W.T + bias`` to ``y`` [N, M], by the chain for N.

    Parameters
    ----------
    text : str
        As :func:`as_text` returns it.
    x : float16 or bfloat16 [N, K], contiguous
    arrays : mapping of str to Tensor
        The packed weight.
    bias : float32 [M], optional
    y : as the kernels were compiled for, contiguous

    Raises
    ------
    ArtifactError
        If the launch data ask for something that is not there, or for another type.
    """
    chains = sorted(chains_of(text), key=_most_rows)
    n = len(x)
    chain = next((each for each in chains if _most_rows(each) >= n), chains[-1])
    kernels = [_LOADED[name] for name in chain.kernels]
    wanted = {each["name"] for kernel in kernels for each in kernel.launch_data["arguments"]}
    # x is transposed a bucket at a time; other kernels spread many rows over their grid.
    step = _most_rows(chain) if "xt" in wanted else n
    for first in range(0, n, step):
        part = slice(first, first + step)
        tensors = {**arrays, "x": x[part], "y": y[part]}
        if bias is not None:
            tensors["bias"] = bias
        _launch(kernels, chain.shares, tensors, y.shape[1], x.shape[1])


def _launch(
    kernels: Sequence[Kernel], shares: int, tensors: dict[str, Tensor], m: int, k: int
) -> None:
    n = len(tensors["x"])
    sizes = {"M": m, "N": n, "K": k, "S": shares}
    stream = _stream(tensors["x"])
    for kernel in kernels:
        for each in kernel.launch_data["arguments"]:
            name = each["name"]
            if each["kind"] != "pointer":
                continue
            if name not in tensors:
                if name not in ("xt", "partial"):
                    raise ArtifactError(
                        f"kernel {kernel.launch_data['name']}: needs {name!r}, which the node has not"
                    )
                shape = [extent(size, sizes) for size in each["shape"]]
                dtype = getattr(torch, each["dtype"])
                tensors[name] = torch.empty(shape, dtype=dtype, device=tensors["x"].device)
            if str(tensors[name].dtype).removeprefix("torch.") != each["dtype"]:
                raise ArtifactError(
                    f"kernel {kernel.launch_data['name']}: {name} is {tensors[name].dtype}, it was "
                    f"compiled for {each['dtype']}"
                )
        # Arrays without elements (a weight of zeros) have no address, and are not read.
        x = tensors["x"]
        pointers = {key: (each if each.numel() else x).data_ptr() for key, each in tensors.items()}
        kernel.launch(pointers, sizes, stream)


def extent(size: int | str, sizes: Mapping[str, int]) -> int:
    """Return the number for an extent of an argument's shape: ``16``, ``"K"``, ``"ceil(K/32)*8"``.

    Raises
    ------
    ArtifactError
        If it is none of these.

    Examples
    --------
    >>> [extent(each, {"K": 100}) for each in (16, "K", "ceil(K/32)*8")]
    [16, 100, 32]
    """
    if isinstance(size, int):
        return size
    if size in sizes:
        return sizes[size]
    match = _CEIL.fullmatch(size)
    if match is None or match[1] not in sizes:
        raise ArtifactError(f"launch data: {size!r} is no extent of {', '.join(sizes)}")
    return math.ceil(sizes[match[1]] / int(match[2])) * int(match[3] or 1)


def _most_rows(chain: Chain) -> int:
    """Return the bucket of a chain; its second pass counts rows one by one."""
    return max(int(_LOADED[name].launch_data["n_max"]) for name in chain.kernels)


def _stream(x: Tensor) -> int:
    return int(torch.cuda.current_stream(x.device).cuda_stream) if x.is_cuda else 0
