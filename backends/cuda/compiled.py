"""Launches the compiled kernels of artifacts on torch tensors: no Triton, no compiler, only the driver.

Of every kernel the cubin is taken, on a device that does not run it the PTX. Where that does not run
either, the same source is compiled there: that of the installed package, never the file in the artifact,
which would be to run what somebody wrote into it. Both have to be the same (ADR 29).

A lowered node names, for every bucket of N, a *chain*: kernels to launch one after the other, and into
how many shares the reduction is split. What lies between two kernels of a chain (x transposed, partial
sums) is memory of torch's, so that a CUDA graph can own it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsec.backends.cuda import aot, nvcc, on_tensors
from sparsec.backends.cuda.formats.base import SCALE
from sparsec.backends.cuda.loader import Driver, Kernel, load_kernel
from sparsec.backends.cuda.native import ACTIVATIONS, NATIVE
from sparsec.ir.errors import ArtifactError

# By what load returns; never unloaded, since CUDA graphs may hold them.
_LOADED: dict[str, Kernel] = {}
_MOST_BYTES = 2**32 - 1  # of 16-bit elements: kernels index with 32 bits
_MOST_BLOCKS = 2**16 - 1  # along the second and third dimension of a grid


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


def load(root: Path, manifest: Mapping[str, Any], device: int) -> dict[str, str]:
    """Load the kernels of the artifact at ``root`` onto a device.

    What the device does not run is left to the sources, if they can be compiled here.

    Returns
    -------
    dict of str to str
        For the name of every kernel that is loaded, what to call it by in a chain: other artifacts may
        have another kernel of that name, and other devices a copy of it.

    Raises
    ------
    ArtifactError
        If a kernel runs neither as it is nor from its source, with the ways out.
    UnsupportedTargetError
        If there is no driver.
    """
    torch.cuda.init()
    driver = Driver(device)
    called: dict[str, str] = {}
    by = f"SparseC {manifest.get('sparsec', 'of the version')}"
    for data in manifest["kernels"]:
        key = f"{data['name']}@{device}.{_digest(root, data)}"
        try:
            if key not in _LOADED:
                _LOADED[key] = load_kernel(driver, root, data)
            called[data["name"]] = key
        except ArtifactError as error:
            if reason := _why_no_source(data, driver.sm, by):
                raise ArtifactError(
                    f"{error.message}; or have it compiled from its source here: {reason}; or run "
                    "it on the CPU, slowly: sparsec.load(path, emulate=True)",
                    where=str(root),
                ) from error
    return called


def _digest(root: Path, data: Mapping[str, Any]) -> str:
    """Return what tells a kernel from others: a hash of its code and of how it is launched."""
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode())
    for kind in ("file", "ptx"):
        if kind in data:
            digest.update((root / data[kind]).read_bytes())
    return digest.hexdigest()[:16]


def _why_no_source(data: Mapping[str, Any], sm: int, by: str) -> str | None:
    """Return why a kernel's source cannot be compiled for the device here, with the way out.

    ``by`` names what wrote the artifact.
    """
    native = data["source"].endswith(".cu")
    ours = nvcc.source_hash(_source_of(data)) if native else aot.sources_hash()
    if data.get("source_sha256") != ours:
        return (
            "the installed SparseC has another source of it than the one that it was compiled from; "
            f"install {by}, which wrote the artifact, or compile the model again"
        )
    if native:
        return nvcc.why_not(sm)
    if importlib.util.find_spec("triton") is None:
        return "needs triton, which is not installed: pip install sparsec[cuda]"
    return None


def _source_of(data: Mapping[str, Any]) -> str:
    """Return the file of a CUDA C++ kernel, which is called after the format that it reads."""
    stem = str(data["entry"]).removesuffix("_linear")
    if stem.removesuffix("_unpack") not in NATIVE:
        raise ArtifactError(
            f"kernel {data['name']}: no source of this package has {data['entry']!r}"
        )
    return f"{stem}.cu"


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
    y: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    act: str = "none",
) -> None:
    """Write ``act(x @ W.T + bias) + residual`` to ``y`` [N, M], by the chain for N.

    Parameters
    ----------
    text : str
        As :func:`as_text` returns it.
    x : float16 or bfloat16 [N, K], contiguous
    arrays : mapping of str to Tensor
        The packed weight.
    y : as the kernels were compiled for, contiguous
    bias : float32 [M], optional
    residual : like y, contiguous, optional
    act : str

    Raises
    ------
    ArtifactError
        If the kernels were compiled for something else: other operands, types or another activation.
    """
    chains = sorted(chains_of(text), key=_most_rows)
    n, m, k = len(x), y.shape[1], x.shape[1]
    chain = next((each for each in chains if _most_rows(each) >= n), chains[-1])
    kernels = [_LOADED[name] for name in chain.kernels]
    _check_epilogue(kernels, {"bias": bias, "residual": residual}, act)
    sizes = {"M": m, "K": k, "split": chain.shares}
    # What the CUDA C++ kernels do at the end is decided at a launch.
    sizes |= {"activation": ACTIVATIONS.index(act), "wide": int(y.dtype == torch.float32)}
    step = _step(kernels, _most_rows(chain), max(m, k))
    for first in range(0, n, step):
        part = slice(first, first + step)
        tensors = {**arrays, "x": x[part], "y": y[part], "bias": bias}
        tensors["residual"] = None if residual is None else residual[part]
        on_tensors.launch(kernels, tensors, sizes | {"N": len(x[part])})


def unpack(form: str, arrays: Mapping[str, Tensor], w: Tensor, values: str) -> bool:
    """Write the dense matrix of a packed one to ``w`` [M, K] by a loaded kernel; whether there is one.

    Parameters
    ----------
    form : str
    arrays : mapping of str to Tensor
        W as the format packs it, checked when it was loaded.
    w : float16 or bfloat16 [M, K], contiguous
        Of the type of the stored values, if they have 16 bits.
    values : str
        Type of the stored values.

    Raises
    ------
    ArtifactError
        If an array has another type than the kernel was compiled for.
    """
    wanted = {"unpacks": form, "values": values, "dtype": str(w.dtype).removeprefix("torch.")}
    grouped = SCALE in arrays and arrays[SCALE].shape[-1] > 1
    m, k = w.shape
    kernels = [
        kernel
        for name, kernel in _LOADED.items()
        if all(kernel.launch_data.get(key) == each for key, each in wanted.items())
        and kernel.launch_data.get("grouped", False) == grouped
        and f"@{w.device.index or 0}." in name
        and k % kernel.launch_data["k_multiple"] == 0
    ]
    if not kernels:
        return False
    best = max(kernels, key=lambda each: int(each.launch_data["k_multiple"]))
    on_tensors.launch([best], {**arrays, "w": w}, {"M": m, "K": k})
    return True


def _check_epilogue(
    kernels: Sequence[Kernel], operands: Mapping[str, Tensor | None], act: str
) -> None:
    """Accept only kernels that read these operands and apply this activation."""
    names = {each["name"] for kernel in kernels for each in kernel.launch_data["arguments"]}
    unread = [name for name, each in operands.items() if each is not None and name not in names]
    last = kernels[-1].launch_data
    if "activation" not in names and last.get("activation", "none") != act:
        unread.append(f"activation {act}")
    if unread:
        raise ArtifactError(
            f"kernel {last['name']}: was compiled without the {' and '.join(unread)} of the node"
        )


def _step(kernels: Sequence[Kernel], bucket: int, width: int) -> int:
    """Return the rows of x of a launch: a bucket where x is transposed, else what a grid can hold."""
    if any(each["name"] == "xt" for kernel in kernels for each in kernel.launch_data["arguments"]):
        return bucket
    sizes = [size for kernel in kernels for size in kernel.launch_data["grid"][1:]]
    of_rows = [size["per"] for size in sizes if isinstance(size, Mapping) and size["of"] == "N"]
    most = min(_MOST_BLOCKS * min(of_rows, default=bucket), _MOST_BYTES // (2 * width))
    return max(bucket, most // bucket * bucket)


def _most_rows(chain: Chain) -> int:
    """Return the bucket of a chain; its second pass counts rows one by one."""
    return max(int(_LOADED[name].launch_data["n_max"]) for name in chain.kernels)
