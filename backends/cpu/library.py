"""``libsparsec_cpu`` through ctypes: find it, load it, run plans without ONNX Runtime."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.cpu.plan import VERSION
from sparsec.ir.errors import ArtifactError, ShapeError, UnsupportedTargetError

FILE_NAME = "libsparsec_cpu.so"
LANES = {"avx512": 16, "avx2": 8, "neon": 4, "portable": 4}  # floats of a vector
_ALIGN = 64  # bytes: where a plan may be read in place
_MAX_RANK = 8
_ERROR_SIZE = 512


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * _MAX_RANK),
    )


class _Options(ctypes.Structure):
    _fields_ = (("isa", ctypes.c_char_p), ("threads", ctypes.c_int32))


def library_path() -> Path | None:
    """Return where the library was installed or built in place; None if it was not."""
    path = Path(__file__).resolve().parent / FILE_NAME
    return path if path.is_file() else None


def why_no_library() -> str | None:
    """Return why plans cannot be run here, with the way out; None if they can."""
    path = library_path()
    if path is None:
        return (
            f"{FILE_NAME} is missing: SparseC was installed without a C++ compiler; install g++ or "
            "clang++ and reinstall (in a checkout: python setup.py build_ext --inplace)"
        )
    try:
        version = _load(path).sparsec_plan_version()
    except OSError as error:
        return f"{path} cannot be loaded ({error}); reinstall SparseC on this machine"
    if version != VERSION:
        return f"{path} reads plans of version {version}, this SparseC writes {VERSION}; rebuild it"
    return None


def features() -> tuple[str, ...]:
    """Return the instruction sets with kernels that this machine runs, best first.

    Raises
    ------
    UnsupportedTargetError
        If there is no library.
    """
    return tuple(_library().sparsec_isas().decode().split(","))


def microkernels(isa: str) -> tuple[str, ...]:
    """Return the names of the microkernels of one instruction set; empty if it is not to be had."""
    names = _library().sparsec_microkernels(isa.encode()).decode()
    return tuple(names.split(",")) if names else ()


class LoadedPlan:
    """A plan in the library, ready to run.

    Parameters
    ----------
    data : bytes-like or uint8 array
        The plan; kept alive and used in place.
    isa : str, optional
        Force an instruction set, for tests and benchmarks.
    threads : int
        Threads of :meth:`run`.

    Raises
    ------
    ArtifactError
        If the library refuses the plan.
    UnsupportedTargetError
        If there is no library.
    """

    def __init__(self, data: Any, *, isa: str | None = None, threads: int = 1) -> None:
        self._library = _library()
        self._handle: int | None = None
        self._data = _aligned(np.frombuffer(data, np.uint8))
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        options = _Options(isa.encode() if isa else None, threads)
        self._handle = self._library.sparsec_plan_load(
            self._data.ctypes.data, self._data.size, ctypes.byref(options), error, _ERROR_SIZE
        )
        if not self._handle:
            raise ArtifactError(error.value.decode())
        self.inputs = int(self._library.sparsec_plan_inputs(self._handle))
        self.outputs = int(self._library.sparsec_plan_outputs(self._handle))
        self.ops = int(self._library.sparsec_plan_ops(self._handle))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.sparsec_plan_free(self._handle)
            self._handle = None

    def run(self, *inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the outputs for float32 ``inputs``.

        Raises
        ------
        ShapeError
            If the inputs do not fit the plan.
        """
        return self._call(inputs, None)

    def profile(self, *inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the seconds of one run: of each operator, of reading inputs, of writing outputs."""
        seconds = np.zeros(self.ops + 2)
        self._call(inputs, seconds)
        return seconds

    def prepare(self, *inputs: NDArray[np.float32]) -> PreparedRun:
        """Return a run with its operands bound once, so that only the library's time is measured."""
        return PreparedRun(self, inputs)

    def memory(self) -> int:
        """Return the bytes that the plan holds beside its own: values of the last runs, packed weights."""
        return int(self._library.sparsec_plan_memory(self._handle))

    def _describe(self, inputs: Sequence[NDArray[np.float32]]) -> Any:
        if len(inputs) != self.inputs:
            raise ShapeError(f"the plan needs {self.inputs} inputs, got {len(inputs)}")
        tensors = (_Tensor * max(1, len(inputs)))()
        for tensor, array in zip(tensors, inputs, strict=False):
            if array.dtype != np.float32 or not array.flags.c_contiguous or array.ndim > _MAX_RANK:
                raise ShapeError("inputs of a plan must be C-contiguous float32 of at most rank 8")
            _fill(tensor, array)
        return tensors

    def _call(
        self, inputs: Sequence[NDArray[np.float32]], seconds: NDArray[np.float64] | None
    ) -> list[NDArray[np.float32]]:
        bound = PreparedRun(self, inputs)
        bound(seconds)
        return bound.outputs


class PreparedRun:
    """A plan with its operands: calling it runs the plan and fills ``outputs``."""

    def __init__(self, plan: LoadedPlan, inputs: Sequence[NDArray[np.float32]]) -> None:
        self._plan = plan
        self._inputs = tuple(inputs)  # kept alive: the library holds their addresses
        self._in = plan._describe(inputs)
        self._out = (_Tensor * plan.outputs)()
        self._error = ctypes.create_string_buffer(_ERROR_SIZE)
        library = plan._library
        self._check(
            library.sparsec_plan_shapes(plan._handle, self._in, self._out, self._error, _ERROR_SIZE)
        )
        self.outputs = [np.empty(tuple(t.dims[: t.rank]), np.float32) for t in self._out]
        for tensor, array in zip(self._out, self.outputs, strict=True):
            _fill(tensor, array)

    def __call__(self, seconds: NDArray[np.float64] | None = None) -> None:
        """Run; add the seconds of each part to ``seconds`` if it is given."""
        plan, library = self._plan, self._plan._library
        if seconds is None:
            status = library.sparsec_plan_run(
                plan._handle, self._in, self._out, self._error, _ERROR_SIZE
            )
        else:
            status = library.sparsec_plan_profile(
                plan._handle, self._in, self._out, seconds.ctypes.data, self._error, _ERROR_SIZE
            )
        self._check(status)

    def _check(self, status: int) -> None:
        if status:
            raise ShapeError(f"the plan cannot run: {self._error.value.decode()}")


def _fill(tensor: Any, array: NDArray[np.float32]) -> None:
    tensor.data = array.ctypes.data
    tensor.rank = array.ndim
    for axis, size in enumerate(array.shape):
        tensor.dims[axis] = size


def _aligned(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``data`` at an address that the library can use in place."""
    if data.ctypes.data % _ALIGN == 0:
        return data
    room = np.empty(data.size + _ALIGN, np.uint8)
    start = -room.ctypes.data % _ALIGN
    room[start : start + data.size] = data
    return room[start : start + data.size]


def _library() -> ctypes.CDLL:
    if reason := why_no_library():
        raise UnsupportedTargetError(reason, where="cpu")
    path = library_path()
    assert path is not None
    return _load(path)


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    text = ctypes.c_char_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "sparsec_plan_version": (integer, []),
        "sparsec_isas": (text, []),
        "sparsec_microkernels": (text, [text]),
        "sparsec_plan_load": (pointer, [pointer, size, pointer, pointer, size]),
        "sparsec_plan_free": (None, [pointer]),
        "sparsec_plan_inputs": (integer, [pointer]),
        "sparsec_plan_outputs": (integer, [pointer]),
        "sparsec_plan_ops": (integer, [pointer]),
        "sparsec_plan_shapes": (integer, [pointer, pointer, pointer, pointer, size]),
        "sparsec_plan_run": (integer, [pointer, pointer, pointer, pointer, size]),
        "sparsec_plan_profile": (integer, [pointer, pointer, pointer, pointer, pointer, size]),
        "sparsec_plan_memory": (size, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
