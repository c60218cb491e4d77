"""Launches a compiled kernel by its launch data, through the CUDA driver alone.

What an artifact ships is enough: a cubin (or PTX), and the kernel's object in ``manifest.json``. Neither
torch nor the CUDA toolkit takes part; ``libcuda`` comes with the driver. ``docs/formats/gpu-kernels.md``
describes the data for loaders in other languages.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsec.ir.errors import ArtifactError, UnsupportedTargetError

_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_ALWAYS_ALLOWED = 48 << 10  # bytes of shared memory that need no attribute
_BYTES = {"float32": 4, "int32": 4, "float16": 2, "bfloat16": 2}
_LAUNCH = {"entry": str, "threads": int, "shared_bytes": int, "grid": list, "arguments": list}
_ARGUMENTS = ("pointer", "value", "scratch", "null_pointer")
_CEIL = re.compile(r"ceil\((\w+)/(\d+)\)(?:\*(\d+))?")


class Driver:
    """The CUDA driver on one device, in its primary context, which torch uses too.

    Every method works from any thread and leaves the thread's current device as it was.

    Parameters
    ----------
    device : int
        Ordinal of the device.
    library : str
        The driver's shared library.

    Raises
    ------
    UnsupportedTargetError
        If there is no driver or no such device.
    """

    def __init__(self, device: int = 0, library: str = _LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise UnsupportedTargetError(
                f"no CUDA driver: {error}; kernels run on a machine with an NVIDIA GPU, and "
                "`sparsec verify` checks an artifact without one"
            ) from error
        self.call("cuInit", 0)
        handle, self._context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(handle), device)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), handle)
        self.sm = 10 * self._attribute(_MAJOR, handle) + self._attribute(_MINOR, handle)

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of the driver.

        Raises
        ------
        UnsupportedTargetError
            If it does not return 0, with the driver's own words.
        """
        status = getattr(self._library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            reason = (text.value or b"unknown error").decode()
            raise UnsupportedTargetError(f"{name} returned {status}: {reason}")

    def within(self, name: str, *arguments: object) -> None:
        """Call a function of the driver that works in the current context, in that of this device.

        A thread that torch has not used yet has no current context, and another device may be current.

        Raises
        ------
        UnsupportedTargetError
            As :meth:`call`.
        """
        with self._current():
            self.call(name, *arguments)

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        self.call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def allocate(self, nbytes: int) -> int:
        """Return the address of new device memory."""
        address = ctypes.c_uint64()
        self.within("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(nbytes))
        return address.value

    def free(self, address: int) -> None:
        """Give memory of :meth:`allocate` back."""
        self.within("cuMemFree_v2", ctypes.c_uint64(address))

    def fill(self, address: int, byte: int, nbytes: int) -> None:
        """Set ``nbytes`` bytes of device memory to ``byte``."""
        size = ctypes.c_size_t(nbytes)
        self.within("cuMemsetD8_v2", ctypes.c_uint64(address), ctypes.c_ubyte(byte), size)

    def zero(self, address: int, nbytes: int) -> None:
        """Zero memory before this returns, on a stream of its own.

        While another thread captures, nothing may wait for the whole device, nor use the default stream.
        """
        stream, size = ctypes.c_void_p(), ctypes.c_size_t(nbytes)
        self.within("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        try:
            zero = ctypes.c_ubyte(0)
            self.within("cuMemsetD8Async", ctypes.c_uint64(address), zero, size, stream)
            self.within("cuStreamSynchronize", stream)
        finally:
            self.within("cuStreamDestroy_v2", stream)

    def copy_in(self, address: int, data: bytes) -> None:
        """Copy from the host to device memory."""
        size = ctypes.c_size_t(len(data))
        self.within("cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_char_p(data), size)

    def copy_out(self, address: int, nbytes: int) -> bytes:
        """Return device memory, after all work before it."""
        buffer = ctypes.create_string_buffer(nbytes)
        size = ctypes.c_size_t(nbytes)
        self.within("cuMemcpyDtoH_v2", buffer, ctypes.c_uint64(address), size)
        return buffer.raw

    def _attribute(self, which: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value


class Kernel:
    """One loaded kernel.

    Parameters
    ----------
    driver : Driver
    code : bytes
        Cubin or PTX.
    launch : mapping
        Its object in the manifest.
    """

    def __init__(self, driver: Driver, code: bytes, launch: Mapping[str, Any]) -> None:
        self.launch_data = launch
        self.driver = driver
        module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        # The driver reads PTX up to a zero byte; to a cubin one more byte does nothing.
        driver.within("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(code + b"\0"))
        entry = str(launch["entry"]).encode()
        driver.within("cuModuleGetFunction", ctypes.byref(self._function), module, entry)
        if launch["shared_bytes"] > _ALWAYS_ALLOWED:
            size = int(launch["shared_bytes"])
            driver.within("cuFuncSetAttribute", self._function, _DYNAMIC_SHARED, size)

    def scratch(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, bool]]:
        """Return bytes, and whether they must be zero before the first launch, of scratch memory.

        A launch leaves what must be zero at zero. Launches that overlap need memory of their own.
        """
        return {
            each["name"]: (
                math.prod(extents(each["shape"], sizes)) * _BYTES[each["dtype"]],
                bool(each["zero"]),
            )
            for each in self.launch_data["arguments"]
            if each["kind"] == "scratch"
        }

    def launch(
        self, pointers: Mapping[str, int], sizes: Mapping[str, int], stream: int = 0
    ) -> None:
        """Enqueue one launch.

        Parameters
        ----------
        pointers : mapping of str to int
            Device addresses by the names of the arguments; 0 or absent only where ``optional``.
        sizes : mapping of str to int
            The values, and what the grid is made of: M, N, K, ...
        stream : int
            Handle of a stream; 0 is the default one.

        Raises
        ------
        ArtifactError
            If an argument is missing or an address is not aligned as the kernel needs it.
        """
        values = [self._argument(each, pointers, sizes) for each in self.launch_data["arguments"]]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(each) for each in values))
        grid = [*extents(self.launch_data["grid"], sizes), 1, 1][:3]
        self.driver.within(
            "cuLaunchKernel",
            self._function,
            *grid,
            *(int(self.launch_data["threads"]), 1, 1),
            int(self.launch_data["shared_bytes"]),
            ctypes.c_void_p(stream),
            addresses,
            None,
        )

    def _argument(
        self, each: Mapping[str, Any], pointers: Mapping[str, int], sizes: Mapping[str, int]
    ) -> ctypes.c_void_p | ctypes.c_int32:
        name, kind = each["name"], each["kind"]
        if kind == "value":
            if name not in sizes:
                raise self._missing(f"no value for {name!r}")
            return ctypes.c_int32(sizes[name])
        if kind == "null_pointer":
            return ctypes.c_void_p(None)
        address = pointers.get(name, 0)
        if not address and not each.get("optional"):
            raise self._missing(f"no address for {name!r}")
        if address % each.get("align", 4):
            raise self._missing(f"{name!r} at {address:#x} is not aligned to {each['align']} bytes")
        return ctypes.c_void_p(address)

    def _missing(self, what: str) -> ArtifactError:
        return ArtifactError(f"kernel {self.launch_data['name']}: {what}")


def load_kernel(driver: Driver, root: Path, data: Mapping[str, Any]) -> Kernel:
    """Load one kernel of an artifact: its cubin, or its PTX where the driver takes only that.

    Parameters
    ----------
    root : Path
        The artifact.
    data : mapping
        The kernel's object in the manifest.

    Raises
    ------
    ArtifactError
        If launch data are missing or odd, or the device runs neither, with the reason for each.
    """
    if wrong := _complaint(data):
        raise ArtifactError(
            f"{root}: the artifact is damaged: kernel {data['name']}: {wrong}; compile it again",
            where=str(root),
        )
    made_for = data.get("sm", 0)
    if made_for // 10 == driver.sm // 10 and made_for <= driver.sm:
        ways, reasons = ["file", "ptx"], []
    else:
        reasons = [f"its machine code is for {_architecture(data)}"]
        ways = ["ptx"] if 0 < made_for < driver.sm else []
    for way in ways:
        if way not in data:
            continue
        try:
            return Kernel(driver, (root / data[way]).read_bytes(), data)
        except UnsupportedTargetError as error:  # an old driver, or PTX for one architecture only
            reasons.append(f"{data[way]}: {error.message}")
    raise ArtifactError(
        f"{root}: kernel {data['name']} is for {_architecture(data)}, the device is sm_{driver.sm}, "
        f"and does not run on it: {'; '.join(reasons)}. Compile with the --target of this device",
        where=str(root),
    )


def _complaint(data: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the launch data of a kernel, or None."""
    for key, wanted in _LAUNCH.items():
        if not isinstance(data.get(key), wanted):
            return f"{key} must be {wanted.__name__}, got {data.get(key)!r}"
    for each in data["arguments"]:
        known = isinstance(each, dict) and each.get("kind") in _ARGUMENTS
        if not known or not isinstance(each.get("name"), str):
            return (
                f"an argument must have a name and a kind ({', '.join(_ARGUMENTS)}), got {each!r}"
            )
    return None


def load_kernels(driver: Driver, root: Path, manifest: Mapping[str, Any]) -> dict[str, Kernel]:
    """Load all kernels of an artifact, by name; see :func:`load_kernel`.

    Raises
    ------
    ArtifactError
        If one of them does not run on the device.
    """
    return {data["name"]: load_kernel(driver, root, data) for data in manifest["kernels"]}


def pick(kernels: Sequence[Kernel], rows: int) -> Kernel:
    """Return the first kernel that takes ``rows`` rows of x in one block, else the largest."""
    ordered = sorted(kernels, key=lambda each: int(each.launch_data["n_max"]))
    return next((k for k in ordered if k.launch_data["n_max"] >= rows), ordered[-1])


def extents(shape: Sequence[Any], sizes: Mapping[str, int]) -> list[int]:
    """Return numbers for extents as the manifest stores them.

    An extent is a number, a size by name, ``"ceil(K/32)*8"``, or ``{"of": "M", "per": 64}`` for M / 64
    rounded up.

    Raises
    ------
    ArtifactError
        If one is none of these.

    Examples
    --------
    >>> extents([{"of": "M", "per": 64}, 3, "K", "ceil(K/32)*8"], {"M": 65, "K": 100})
    [2, 3, 100, 32]
    """
    return [_extent(each, sizes) for each in shape]


def _extent(size: Any, sizes: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    if isinstance(size, str) and size in sizes:
        return sizes[size]
    of, per, times = "", "1", None
    if isinstance(size, Mapping):
        of, per = size["of"], size["per"]
    elif match := _CEIL.fullmatch(size):
        of, per, times = match.groups()
    if of not in sizes:
        raise ArtifactError(f"launch data: {size!r} is no extent of {', '.join(sizes)}")
    return -(-sizes[of] // int(per)) * int(times or 1)


def _architecture(data: Mapping[str, Any]) -> str:
    return f"sm_{data['sm']}" if "sm" in data else str(data.get("arch", "no device that is named"))
