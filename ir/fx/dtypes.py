"""ONNX element types in torch, and constants as torch tensors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

_D = ir.DataType

TORCH_DTYPES: dict[ir.DataType, torch.dtype] = {
    _D.FLOAT: torch.float32,
    _D.DOUBLE: torch.float64,
    _D.FLOAT16: torch.float16,
    _D.BFLOAT16: torch.bfloat16,
    _D.FLOAT8E4M3FN: torch.float8_e4m3fn,
    _D.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    _D.FLOAT8E5M2: torch.float8_e5m2,
    _D.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    _D.INT8: torch.int8,
    _D.INT16: torch.int16,
    _D.INT32: torch.int32,
    _D.INT64: torch.int64,
    _D.UINT8: torch.uint8,
    _D.UINT16: torch.uint16,
    _D.UINT32: torch.uint32,
    _D.UINT64: torch.uint64,
    _D.BOOL: torch.bool,
    _D.COMPLEX64: torch.complex64,
    _D.COMPLEX128: torch.complex128,
    _D.INT4: torch.int8,  # torch has no 4-bit types; the values fit
    _D.UINT4: torch.uint8,
}

ONNX_DTYPES: dict[torch.dtype, ir.DataType] = {
    torch_dtype: dtype
    for dtype, torch_dtype in TORCH_DTYPES.items()
    if dtype not in (_D.INT4, _D.UINT4)
}

_BY_BITS = {1: np.uint8, 2: np.uint16}


def torch_dtype(code: int) -> torch.dtype | None:
    """Return the torch type of an ONNX element type number; None if torch has none."""
    try:
        return TORCH_DTYPES.get(_D(code))
    except ValueError:
        return None


def to_torch(tensor: ir.TensorProtocol) -> Tensor:
    """Copy a constant into a torch tensor of its own type.

    The type must be one of :data:`TORCH_DTYPES`.
    """
    dtype = TORCH_DTYPES[tensor.dtype]
    array = tensor.numpy()
    if tensor.dtype in (_D.INT4, _D.UINT4):
        return torch.from_numpy(array.astype(np.int8 if dtype == torch.int8 else np.uint8))
    array = np.array(array, copy=True)  # torch must not write into a mapped file
    if dtype.is_floating_point and (dtype.itemsize == 1 or dtype == torch.bfloat16):
        bits = torch.from_numpy(array.view(_BY_BITS[dtype.itemsize]))
        return bits.view(dtype)
    return torch.from_numpy(array)
