"""The operators of torch that packed weights are multiplied with: two for each format.

::

    sparsec::<format>_linear(x, packed, bias, M, K, values, out, dense_from, prefill, kernels) -> y
    sparsec::<format>_unpack(packed, M, K, values, dtype) -> W

``linear`` computes ``y[..., M] = x[..., K] @ W.T + bias``: float16 or bfloat16 operands, a float32 sum, a
float32 bias added to it, one rounding to ``out``. From ``dense_from`` rows of x on, the weight is
decompressed once and the product is a dense one, or cuSPARSELt's on ``prefill``, torch's own packed form
of the weight. ``unpack`` gives W back, exactly.

Both have implementations for CUDA and for the CPU, and fake ones, so they can be compiled, exported and
captured in CUDA graphs. Those for the CPU are the reference: they unpack with the format's own code and
multiply in float32. Gradients reach x and the bias; the packed weight is a constant.
``kernels`` names compiled kernels of an artifact, by commas; without any, they come from source.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsec.backends.cuda import dispatch, formats, torch_formats
from sparsec.ir.errors import ShapeError, UnsupportedTargetError

NAMESPACE = "sparsec"
_BORDER = 16  # bytes
NEVER = 2**31 - 1  # as ``dense_from``: the packed kernel for every number of rows

_LINEAR = (
    "{name}_linear(Tensor x, Tensor[] packed, Tensor? bias, int M, int K, str values, "
    "ScalarType out, int dense_from, Tensor? prefill, str kernels) -> Tensor"
)
_UNPACK = "{name}_unpack(Tensor[] packed, int M, int K, str values, ScalarType dtype) -> Tensor"

_library = torch.library.Library(NAMESPACE, "FRAGMENT")


def linear_operator(name: str) -> Any:
    """Return the callable ``torch.ops.sparsec.<name>_linear``."""
    return getattr(torch.ops.sparsec, f"{name}_linear").default


def unpack_operator(name: str) -> Any:
    """Return the callable ``torch.ops.sparsec.<name>_unpack``."""
    return getattr(torch.ops.sparsec, f"{name}_unpack").default


# The arguments M and K are called so in the schema, which Python's naming does not know.
def linear_on_cpu(
    name: str,
    x: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    M: int,  # noqa: N803
    K: int,  # noqa: N803
    values: str,
    out: torch.dtype,
    dense_from: int,
    prefill: Tensor | None,
    kernels: str,
) -> Tensor:
    """Unpack and multiply in float32: the reference."""
    _check(name, x, K)
    weight = torch_formats.unpack(name, packed, (M, K), values)
    y = x.reshape(-1, K).float() @ weight.T
    y = y if bias is None else y + bias
    return y.to(out).reshape(*x.shape[:-1], M)


def linear_on_device(
    name: str,
    x: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    M: int,  # noqa: N803
    K: int,  # noqa: N803
    values: str,
    out: torch.dtype,
    dense_from: int,
    prefill: Tensor | None,
    kernels: str,
) -> Tensor:
    """Go the way that the number of rows says; see the top of this module."""
    _check(name, x, K)
    rows = x.reshape(-1, K).contiguous()
    if rows.data_ptr() % _BORDER:
        rows = rows.clone()  # kernels load x 16 bytes at a time
    if not len(rows):
        y = rows.new_empty((0, M), dtype=out)
    elif len(rows) < dense_from:
        y = rows.new_empty((len(rows), M), dtype=out)
        dispatch.linear(name, rows, packed, bias, y, values, kernels)
    elif prefill is not None:
        y = _cusparselt(rows, prefill, M).to(out)
        y = y if bias is None else y + bias.to(out)
    else:
        weight = dispatch.unpack(name, packed, (M, K), values, x.dtype)
        y = _dense(rows, weight, bias, out)
    return y.reshape(*x.shape[:-1], M)


def _linear_fake(
    x: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    M: int,  # noqa: N803
    K: int,  # noqa: N803
    values: str,
    out: torch.dtype,
    dense_from: int,
    prefill: Tensor | None,
    kernels: str,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], M), dtype=out)


def _unpack_on_cpu(
    name: str,
    packed: Sequence[Tensor],
    M: int,  # noqa: N803
    K: int,  # noqa: N803
    values: str,
    dtype: torch.dtype,
) -> Tensor:
    return torch_formats.unpack(name, packed, (M, K), values).to(dtype)


def _unpack_on_device(
    name: str,
    packed: Sequence[Tensor],
    M: int,  # noqa: N803
    K: int,  # noqa: N803
    values: str,
    dtype: torch.dtype,
) -> Tensor:
    return dispatch.unpack(name, packed, (M, K), values, dtype)


def _unpack_fake(
    packed: Sequence[Tensor],
    M: int,  # noqa: N803
    K: int,  # noqa: N803
    values: str,
    dtype: torch.dtype,
) -> Tensor:
    return packed[0].new_empty((M, K), dtype=dtype)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, packed, bias, rows, columns, values, *_ = inputs
    ctx.save_for_backward(*packed)
    ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype
    ctx.weight = rows, columns, values


def _backward(name: str, ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    packed = list(ctx.saved_tensors)
    weight = unpack_operator(name)(packed, *ctx.weight, torch.float32)
    of_x = (gradient.float() @ weight).to(ctx.x_dtype)
    of_bias = None
    if ctx.bias_dtype is not None:
        of_bias = gradient.float().reshape(-1, ctx.weight[0]).sum(0).to(ctx.bias_dtype)
    constants = (None,) * 7  # M, K, values, out, dense_from, prefill, kernels
    return of_x, [None] * len(packed), of_bias, *constants


def _register(name: str) -> None:
    linear, unpack = f"{name}_linear", f"{name}_unpack"
    _library.define(_LINEAR.format(name=name))
    _library.define(_UNPACK.format(name=name))
    _library.impl(linear, functools.partial(linear_on_cpu, name), "CPU")
    _library.impl(linear, functools.partial(linear_on_device, name), "CUDA")
    _library.impl(unpack, functools.partial(_unpack_on_cpu, name), "CPU")
    _library.impl(unpack, functools.partial(_unpack_on_device, name), "CUDA")
    torch.library.register_fake(f"{NAMESPACE}::{linear}", _linear_fake, lib=_library)
    torch.library.register_fake(f"{NAMESPACE}::{unpack}", _unpack_fake, lib=_library)
    torch.library.register_autograd(
        f"{NAMESPACE}::{linear}",
        functools.partial(_backward, name),
        setup_context=_remember,
        lib=_library,
    )


def _check(name: str, x: Tensor, columns: int) -> None:
    if x.dtype not in (torch.float16, torch.bfloat16) or not x.ndim or x.shape[-1] != columns:
        raise ShapeError(
            f"{name}_linear: need x float16 or bfloat16 [..., {columns}], got {x.dtype} "
            f"{list(x.shape)}"
        )


def _dense(rows: Tensor, weight: Tensor, bias: Tensor | None, out: torch.dtype) -> Tensor:
    """Multiply densely; the bias is rounded to ``out`` before it is added."""
    if out == rows.dtype:
        return torch.nn.functional.linear(rows, weight, None if bias is None else bias.to(out))
    y = torch.mm(rows, weight.T, out_dtype=out)
    return y if bias is None else y + bias


def cusparselt_weight(dense: Tensor) -> Tensor:
    """Return a 2:4 matrix in the form that cuSPARSELt multiplies: one tensor, values then metadata.

    Raises
    ------
    UnsupportedTargetError
        If torch has no cuSPARSELt here, or it does not take the shape.
    """
    from torch.sparse import SparseSemiStructuredTensorCUSPARSELT

    if not torch.backends.cusparselt.is_available():
        raise UnsupportedTargetError(
            "prefill by cuSPARSELt: this torch has none; take prefill='decompress'"
        )
    try:
        packed = SparseSemiStructuredTensorCUSPARSELT.from_dense(dense).packed
    except (RuntimeError, ValueError) as error:
        raise UnsupportedTargetError(
            f"prefill by cuSPARSELt: it does not take {dense.dtype} {list(dense.shape)}: {error}; "
            "take prefill='decompress'"
        ) from error
    assert isinstance(packed, Tensor)
    return packed


def _cusparselt(rows: Tensor, packed: Tensor, out: int) -> Tensor:
    """Return ``rows @ W.T`` by cuSPARSELt, which takes rows in multiples of 8."""
    padded = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % 8))
    y = torch._cslt_sparse_mm(packed, padded.T, transpose_result=True)
    return y[: len(rows), :out]


for _name in formats.names():
    _register(_name)
