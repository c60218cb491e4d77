"""The nodes of a lowered graph as calls of the operators of torch, for the FX importer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsec.backends.cuda import compiled, operators
from sparsec.backends.cuda.rewrite import DOMAIN
from sparsec.backends.cuda.torch_formats import array_names
from sparsec.ir.fx.registry import op


@op("PackedMatMul", domain=DOMAIN)
def packed_matmul(
    x: Tensor,
    *operands: Tensor | None,
    M: int,  # noqa: N803
    K: int,  # noqa: N803
    format: str,
    values: str,
    dtype: str,
    out: str,
    kernels: Sequence[str] = (),
    splits: Sequence[int] = (),
    dense_from: int = operators.NEVER,
    activation: str = "none",
) -> Tensor:
    """Multiply with a packed weight; its arrays may be followed by a bias and a residual."""
    count = len(array_names(format, values))
    bias, residual = [*operands[count:], None, None][:2]
    kind = getattr(torch, out)
    y = operators.linear_operator(format)(
        x, list(operands[:count]), bias, residual, activation, M, K, values, kind, dense_from, None,
        compiled.as_text(kernels, splits),
    )  # fmt: skip
    assert isinstance(y, Tensor)
    return y
