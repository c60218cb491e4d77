"""The operators of torch that packed weights are multiplied with: two for each format.

::

    sparsec::<format>_linear(x, packed, bias, residual, activation, M, K, values, out, dense_from, prefill,
                             kernels) -> y
    sparsec::<format>_unpack(packed, M, K, values, dtype) -> W

``linear`` computes ``y[..., M] = activation(x[..., K] @ W.T + bias) + residual``: float16 or bfloat16
operands, a float32 sum, a float32 bias added to it, one rounding to ``out``, the type of the residual.
A float32 x is brought to the type that the values are multiplied in; its gradient is float32.
From ``dense_from`` rows of x on, the weight is decompressed once and the product is a dense one, or
cuSPARSELt's on ``prefill``, torch's own packed form of the weight. ``unpack`` gives W back, exactly.

Both have implementations for CUDA and for the CPU, and fake ones, so they can be compiled, exported and
captured in CUDA graphs. Those for the CPU are the reference: they unpack with the format's own code and
multiply in float32. Gradients reach x, bias and residual; the packed weight is a constant.
``kernels`` names compiled kernels of an artifact, by commas; without any, they come from source.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsec.backends.cuda import dispatch, formats, torch_formats
from sparsec.backends.cuda.variants import ACTIVATIONS
from sparsec.ir.errors import ShapeError, UnsupportedTargetError, UsageError, did_you_mean

NAMESPACE = "sparsec"
_BORDER = 16  # bytes
NEVER = 2**31 - 1  # as ``dense_from``: the packed kernel for every number of rows

_LINEAR = (
    "{name}_linear(Tensor x, Tensor[] packed, Tensor? bias, Tensor? residual, str activation, int M, "
    "int K, str values, ScalarType out, int dense_from, Tensor? prefill, str kernels) -> Tensor"
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
    residual: Tensor | None,
    activation: str,
    M: int,  # noqa: N803
    K: int,  # noqa: N803
    values: str,
    out: torch.dtype,
    dense_from: int,
    prefill: Tensor | None,
    kernels: str,
) -> Tensor:
    """Unpack and multiply in float32: the reference."""
    x = _narrowed(x, values)
    _check(name, x, K, M, residual, activation, out)
    weight = torch_formats.unpack(name, packed, (M, K), values)
    y = x.reshape(-1, K).float() @ weight.T
    return _finish(y, bias, activation, residual, out).reshape(*x.shape[:-1], M)


def linear_on_device(
    name: str,
    x: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    M: int,  # noqa: N803
    K: int,  # noqa: N803
    values: str,
    out: torch.dtype,
    dense_from: int,
    prefill: Tensor | None,
    kernels: str,
) -> Tensor:
    """Go the way that the number of rows says; see the top of this module."""
    x = _narrowed(x, values)
    _check(name, x, K, M, residual, activation, out)
    rows = _ready(x.reshape(-1, K))
    added = None if residual is None else _ready(residual.reshape(-1, M))
    with _current(x.device):
        y = _linear_of_rows(
            name, rows, packed, None if bias is None else _ready(bias), added, activation,
            (M, K), values, out, dense_from, prefill, kernels,
        )  # fmt: skip
    return y.reshape(*x.shape[:-1], M)


def _linear_of_rows(
    name: str,
    rows: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    added: Tensor | None,
    activation: str,
    shape: tuple[int, int],
    values: str,
    out: torch.dtype,
    dense_from: int,
    prefill: Tensor | None,
    kernels: str,
) -> Tensor:
    outputs, _ = shape
    if not len(rows):
        return rows.new_empty((0, outputs), dtype=out)
    if len(rows) < dense_from:
        y = rows.new_empty((len(rows), outputs), dtype=out)
        dispatch.linear(
            name, rows, packed, y, values, kernels, bias=bias, residual=added, act=activation
        )
        return y
    if prefill is not None:
        return _finish(_cusparselt(rows, prefill, outputs), bias, activation, added, out)
    weight = dispatch.unpack(name, packed, shape, values, rows.dtype)
    if out == rows.dtype and activation == "none" and added is None:
        return torch.nn.functional.linear(rows, weight, None if bias is None else bias.to(out))
    return _finish(_product(rows, weight), bias, activation, added, out)


def _ready(tensor: Tensor) -> Tensor:
    """Return it contiguous and where kernels, which load 16 bytes at a time, can read it."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % _BORDER else tensor


def _current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make the device of the operands the current one, which torch does for its own operators only."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _linear_fake(
    x: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
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
    with _current(packed[0].device):
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
    x, packed, bias, residual, activation, rows, columns, values, *_ = inputs
    ctx.save_for_backward(x, bias, *packed)
    ctx.residual_dtype = None if residual is None else residual.dtype
    ctx.activation = activation
    ctx.weight = rows, columns, values


def _backward(name: str, ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    x, bias, *packed = ctx.saved_tensors
    of_residual = None if ctx.residual_dtype is None else gradient.to(ctx.residual_dtype)
    gradient = gradient.float()
    if ctx.activation != "none":  # the sum was not kept: it is computed again
        rest = (*ctx.weight, torch.float32, NEVER, None, "")
        summed = linear_operator(name)(x, packed, bias, None, "none", *rest)
        gradient = _DERIVATIVES[ctx.activation](gradient, summed)
    weight = unpack_operator(name)(packed, *ctx.weight, torch.float32)
    of_x = (gradient @ weight).to(x.dtype)
    of_bias = None
    if bias is not None:
        of_bias = gradient.reshape(-1, ctx.weight[0]).sum(0).to(bias.dtype)
    constants = (None,) * 8  # activation, M, K, values, out, dense_from, prefill, kernels
    return of_x, [None] * len(packed), of_bias, of_residual, *constants


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


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """Return ``rows @ weight.T`` as float32, which torch has for CUDA only."""
    return torch.mm(rows, weight.T, out_dtype=torch.float32)


def _finish(
    y: Tensor, bias: Tensor | None, activation: str, residual: Tensor | None, out: torch.dtype
) -> Tensor:
    """Return what a kernel makes of a sum, in float32 and rounded once."""
    y = y.float()
    y = y if bias is None else y + bias
    y = _ACTIVATIONS[activation](y)
    y = y if residual is None else y + residual.reshape(y.shape)
    return y.to(out)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": functools.partial(torch.nn.functional.gelu, approximate="tanh"),
}
assert set(_ACTIVATIONS) == set(ACTIVATIONS)
_aten = torch.ops.aten
_DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda gradient, y: _aten.threshold_backward(gradient, y, 0),
    "silu": lambda gradient, y: _aten.silu_backward(gradient, y),
    "gelu": lambda gradient, y: _aten.gelu_backward(gradient, y),
    "gelu_tanh": lambda gradient, y: _aten.gelu_backward(gradient, y, approximate="tanh"),
}


def _narrowed(x: Tensor, values: str) -> Tensor:
    """Bring float32 to the type that is multiplied in: here, so that gradients stay float32."""
    return x.to(torch_formats.multiplied_in(values)) if x.dtype == torch.float32 else x


def _check(
    name: str,
    x: Tensor,
    columns: int,
    outputs: int,
    residual: Tensor | None,
    activation: str,
    out: torch.dtype,
) -> None:
    if x.dtype not in (torch.float16, torch.bfloat16) or not x.ndim or x.shape[-1] != columns:
        raise ShapeError(
            f"{name}_linear: need x float16, bfloat16 or float32 [..., {columns}], got {x.dtype} "
            f"{list(x.shape)}"
        )
    if activation not in _ACTIVATIONS:
        raise UsageError(f"activation: {did_you_mean(activation, ACTIVATIONS)}")
    if residual is not None and (residual.shape, residual.dtype) != (
        (*x.shape[:-1], outputs),
        out,
    ):
        raise ShapeError(
            f"{name}_linear: need a residual {out} {[*x.shape[:-1], outputs]}, got {residual.dtype} "
            f"{list(residual.shape)}"
        )


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
