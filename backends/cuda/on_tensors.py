"""Launches loaded kernels on torch tensors: scratch memory and streams of torch, checked operands."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparsec.backends.cuda.loader import Driver, Kernel
from sparsec.backends.cuda.zeros import Zeros
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
    zeroed: dict[str, int] = {}
    for kernel in kernels:
        for name, (nbytes, zero) in kernel.scratch(sizes).items():
            if name in held or name in zeroed:
                continue
            if zero and (address := _zeros(kernel.driver, some.device, nbytes, stream)):
                zeroed[name] = address
            else:
                make = torch.zeros if zero else torch.empty
                held[name] = make(nbytes, dtype=torch.uint8, device=some.device)
        _check(kernel, held)
        # Arrays without elements (a weight of zeros) have no address, and are not read.
        pointers = {key: (each if each.numel() else some).data_ptr() for key, each in held.items()}
        kernel.launch({**pointers, **zeroed}, sizes, stream)


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


def _zeros(driver: Driver, device: torch.device, nbytes: int, stream: int) -> int | None:
    """Return the address of zeroed memory; None in a capture that none was put aside for."""
    if _capturing(device):
        return _zeros_of(driver).of_graph(nbytes)
    return _zeros_of(driver).of_stream(stream, nbytes)


@functools.cache
def _zeros_of(driver: Driver) -> Zeros:
    return Zeros(driver)


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and bool(torch.cuda.is_current_stream_capturing())


def _stream(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0
