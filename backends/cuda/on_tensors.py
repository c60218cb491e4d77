"""Launches loaded kernels on torch tensors: scratch memory and streams of torch, checked operands."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparsec.backends.cuda.loader import Kernel
from sparsec.ir.errors import ArtifactError


def launch(
    kernels: Sequence[Kernel], tensors: Mapping[str, Tensor | None], sizes: Mapping[str, int]
) -> None:
    """Enqueue kernels one after the other on the current stream.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Operands by the names of arguments, contiguous, on one device; None
        for what is optional and not there. Scratch memory is made here, once for all kernels.
    sizes : mapping of str to int
        Values, and what grids and scratch memory are made of.

    Raises
    ------
    ArtifactError
        If an operand is missing or has another type than a kernel was compiled for.
    """
    held = {name: each for name, each in tensors.items() if each is not None}
    some = next(each for each in held.values() if each.numel())
    stream = _stream(some.device)
    for kernel in kernels:
        for name, (nbytes, zero) in kernel.scratch(sizes).items():
            if name not in held:
                held[name] = _scratch(some.device, nbytes, zero, stream)
        _check(kernel, held)
        # Arrays without elements (a weight of zeros) have no address, and are not read.
        pointers = {key: (each if each.numel() else some).data_ptr() for key, each in held.items()}
        kernel.launch(pointers, sizes, stream)


def _check(kernel: Kernel, tensors: Mapping[str, Tensor]) -> None:
    for each in kernel.launch_data["arguments"]:
        name = each["name"]
        if each["kind"] != "pointer" or (name not in tensors and each.get("optional")):
            continue
        if name not in tensors:
            raise ArtifactError(
                f"kernel {kernel.launch_data['name']}: needs {name!r}, which the node has not"
            )
        found = _name(tensors[name])
        wanted = _name(tensors["y"]) if each["dtype"] == "as y" else each["dtype"]
        if found not in wanted.split(" if wide else "):
            raise ArtifactError(
                f"kernel {kernel.launch_data['name']}: {name} is {found}, it was compiled for "
                f"{each['dtype']}"
            )


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _scratch(device: torch.device, nbytes: int, zero: bool, stream: int) -> Tensor:
    """Return scratch memory: what starts at zero is kept for each stream, since launches leave it so."""
    if not zero:
        return torch.empty(nbytes, dtype=torch.uint8, device=device)
    if _capturing(device):
        # A launch in a graph has memory of its own: graphs may be replayed beside each other. Where
        # none was put aside, the graph zeroes some in every replay.
        mine = _ZEROS.setdefault(device, _Zeros()).take(nbytes)
        return torch.zeros(nbytes, dtype=torch.uint8, device=device) if mine is None else mine
    _ZEROS.setdefault(device, _Zeros()).reserve(device)
    return _zeros(device, nbytes, stream)


class _Zeros:
    """Zeroed memory of a device, put aside before a capture, for launches that are captured.

    Slices are given away for good: nothing tells when a graph is gone.
    """

    def __init__(self) -> None:
        self._lock, self._left = threading.Lock(), torch.empty(0, dtype=torch.uint8)

    def reserve(self, device: torch.device) -> None:
        """See that there is some; called by launches outside captures."""
        if self._left.numel() < _PUT_ASIDE // 2:
            with self._lock:
                self._left = torch.zeros(_PUT_ASIDE, dtype=torch.uint8, device=device)
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()  # graphs run on any stream

    def take(self, nbytes: int) -> Tensor | None:
        """Return memory that nobody else gets, or None."""
        with self._lock:
            size = -(-nbytes // _BORDER) * _BORDER
            mine, left = self._left[:nbytes], self._left[size:]
            if len(mine) < nbytes:
                return None
            self._left = left
            _GIVEN.append(mine)
        return mine


_PUT_ASIDE = 1 << 20  # bytes: some thousand launches
_BORDER = 128  # bytes, where a slice starts
_ZEROS: dict[torch.device, _Zeros] = {}
_GIVEN: list[Tensor] = []  # graphs hold their addresses


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and bool(torch.cuda.is_current_stream_capturing())


@functools.cache
def _zeros(device: torch.device, nbytes: int, stream: int) -> Tensor:
    return torch.zeros(nbytes, dtype=torch.uint8, device=device)


def _stream(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0
