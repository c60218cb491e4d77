"""Matrix products in floating point."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsec.ir.fx.registry import op


@op("MatMul")
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices with NumPy's rules for other ranks."""
    return torch.matmul(a, b)


@op("Gemm", since=7)
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """Alpha A B + beta C, with A and B transposed on demand."""
    a = a.mT if transA else a
    plain = alpha == 1.0 and beta == 1.0
    if plain and transB and c is not None and c.ndim == 1:
        return torch.nn.functional.linear(a, b, c)
    y = a @ (b.mT if transB else b)
    if plain:
        return y if c is None else y + c
    y = y * alpha if y.is_floating_point() else y * int(alpha)
    return y if c is None else y + (beta * c).to(y.dtype)


@op("Gemm")
def gemm_legacy(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    broadcast: int = 0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """Alpha A B + beta C as before opset 7, where broadcasting had to be asked for."""
    return gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)


@op("Einsum", since=12)
def einsum(*operands: Tensor, equation: str) -> Tensor:
    """Sum products over the indices that the result lacks."""
    return torch.einsum(equation.replace(" ", ""), *operands)


@op("Det", since=11)
def det(x: Tensor) -> Tensor:
    """Take the determinant of the last two axes."""
    return torch.linalg.det(x)
