"""Runs the CUDA C++ kernels on torch tensors: compiled once a process and variant, by nvcc or NVRTC.

For sparse layers in torch, which have no artifact to bring cubins. Compiling happens at the first call for
a bucket of rows, which is before a CUDA graph is captured: capturing needs a warm-up anyway.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from sparsec.backends.cuda import nvcc
from sparsec.backends.cuda.loader import Driver, Kernel
from sparsec.backends.cuda.native import ACTIVATIONS, BUCKETS, NativeVariant, split_for
from sparsec.ir.errors import UnsupportedTargetError

FORMATS = ("nm24_sp", "lps")
_CLEAR_BELOW = (
    0.7  # stored bytes a weight: three zeros in four, from where clearing what was written pays
)


def linear(
    name: str,
    x: Tensor,
    arrays: Mapping[str, Tensor],
    bias: Tensor | None,
    y: Tensor,
    values: str,
) -> None:
    """Write ``x @ W.T + bias`` to ``y``.

    Parameters
    ----------
    name : str
        ``"nm24_sp"`` or ``"lps"``.
    x : float16 or bfloat16 [N, K], contiguous, on 16-byte borders
    arrays : mapping of str to Tensor
        The packed weight, contiguous, on the device of x; its contents are trusted.
    bias : float32 [M], optional
    y : float32 or of the type of x [N, M], contiguous
    values : str
        Type of the stored values: that of x.

    Raises
    ------
    UnsupportedTargetError
        If the kernels cannot be compiled here, or do not multiply such values.
    """
    dtype = str(x.dtype).removeprefix("torch.")
    if values != dtype:
        raise UnsupportedTargetError(
            f"the CUDA C++ kernel of {name} multiplies {dtype} by {dtype}, not by {values}"
        )
    (n, k), m = x.shape, y.shape[1]
    device = x.device.index or 0
    driver = driver_of(device)
    stored = sum(array.nbytes for array in arrays.values())
    variant = NativeVariant(
        name,
        dtype,
        driver.sm,
        next((bucket for bucket in BUCKETS if bucket >= n), BUCKETS[-1]),
        aligned=k % 8 == 0,
        even=k % 64 == 0,
        clear=name == "lps" and stored < _CLEAR_BELOW * m * k,
    )
    kernel = kernel_of(variant, device)
    sizes = {"M": m, "N": n, "K": k, "split": split_for(m, k, driver.sm)}
    sizes |= {"activation": ACTIVATIONS.index("none"), "wide": int(y.dtype == torch.float32)}
    stream = int(torch.cuda.current_stream(x.device).cuda_stream) if x.is_cuda else 0
    tensors = {**arrays, "x": x, "y": y}
    if bias is not None:
        tensors["bias"] = bias
    for scratch, (nbytes, zero) in kernel.scratch(sizes).items():
        make = _zeros if zero else _fresh
        tensors[scratch] = make(nbytes, x.device, stream)
    # An array without elements has no address; the kernel is told its length and reads nothing.
    addresses = {key: (t if t.numel() else x).data_ptr() for key, t in tensors.items()}
    kernel.launch(addresses, sizes, stream)


@functools.cache
def driver_of(device: int) -> Driver:
    """Return the driver on the context that torch uses, too."""
    torch.cuda.init()
    return Driver(device)


@functools.cache
def kernel_of(variant: NativeVariant, device: int) -> Kernel:
    """Return a variant, compiled and loaded; it is never unloaded, since CUDA graphs may hold it."""
    compiled = nvcc.compile_native(variant)
    return Kernel(driver_of(device), compiled.cubin, compiled.launch)


def why_not(device: int = 0) -> str | None:
    """Return why these kernels cannot run on a device, or None."""
    major, minor = torch.cuda.get_device_capability(device)
    return nvcc.why_not(10 * major + minor)


def _fresh(nbytes: int, device: torch.device, stream: int) -> Tensor:
    return torch.empty(nbytes, dtype=torch.uint8, device=device)


# A kernel leaves its counters at zero, so they are cleared once. Launches of one stream follow each other
# and can share them; two graphs that were captured on one stream must not be replayed at the same time.
_COUNTERS: dict[tuple[str, int], Tensor] = {}


def _zeros(nbytes: int, device: torch.device, stream: int) -> Tensor:
    key = str(device), stream
    if key not in _COUNTERS or _COUNTERS[key].nbytes < nbytes:
        _COUNTERS[key] = torch.zeros(max(nbytes, 1 << 16), dtype=torch.uint8, device=device)
    return _COUNTERS[key]
