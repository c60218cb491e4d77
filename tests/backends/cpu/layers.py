"""Weights, plans and memory that the tests of the CPU library share."""

import ctypes
import mmap

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsec.backends.cpu.library import why_no_library
from sparsec.backends.cpu.pack import pack_blocks
from sparsec.backends.cpu.plan import NONE, Activation, Dense, Kind, Op, OpCode, Plan, Tile, Value

Array = NDArray[np.float32]


NEEDS_LIBRARY = pytest.mark.skipif(why_no_library() is not None, reason=str(why_no_library()))


def sparse_matrix(
    rng: np.random.Generator, rows: int, columns: int, sparsity: float, block_rows: int = 1
) -> Array:
    """A random matrix float32 [rows, columns] whose blocks of ``block_rows`` are kept or zero."""
    groups = -(-rows // block_rows)
    kept = np.repeat(rng.random((groups, columns)) >= sparsity, block_rows, axis=0)[:rows]
    return (rng.standard_normal((rows, columns)) * kept).astype(np.float32)


def linear_plan(
    matrix: Array,
    block_rows: int | None,
    *,
    bias: Array | None = None,
    kind: Kind = Kind.ROWS,
    residual: bool = False,
    tiles: tuple[Tile, ...] = (),
    **fields: object,
) -> Plan:
    """One linear layer; ``block_rows`` None stores the weight dense."""
    rows, columns = matrix.shape
    weight = Dense(matrix) if block_rows is None else pack_blocks(matrix, block_rows)
    tensors = (weight,) if bias is None else (weight, Dense(bias.reshape(1, -1)))
    rank = 4 if kind is Kind.IMAGE else 2
    sizes = [columns, rows] + ([rows] if residual else [])
    values = tuple(Value(kind, size, rank) for size in sizes)
    op = Op(
        OpCode.LINEAR, (0, 2) if residual else (0,), 1, weight=0,
        bias=NONE if bias is None else 1, **fields,  # type: ignore[arg-type]
    )  # fmt: skip
    return Plan((0, 2) if residual else (0,), (1,), values, (op,), tensors, tiles)


def assert_close(
    got: Array, want: NDArray[np.float64], magnitude: NDArray[np.float64] | float
) -> None:
    """Compare with float64; ``magnitude`` is what the sum of absolute products allows."""
    assert got.shape == want.shape
    bound = 1e-5 * (1.0 + np.asarray(magnitude))
    worst = np.abs(got - want) - bound
    assert (worst <= 0).all(), f"{np.abs(got - want).max()} is more than {bound.max()}"


class Guarded:
    """A float32 array that ends where memory that must not be touched begins."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        size = int(np.prod(shape)) * 4
        page = mmap.PAGESIZE
        whole = -(-size // page) * page + page
        self._map = mmap.mmap(-1, whole)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if protect(start + whole - page, page, 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        offset = whole - page - size
        self.array = np.frombuffer(self._map, np.float32, size // 4, offset).reshape(shape)


CLIP = {"activation": Activation.CLIP}
