"""The nodes of a lowered graph as calls of the operators of torch, for the FX importer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsec.backends.cuda import operators
from sparsec.backends.cuda.rewrite import DOMAIN
from sparsec.ir.fx.registry import op


@op("NM24MatMul", domain=DOMAIN)
def nm24_matmul(
    x: Tensor,
    vals: Tensor,
    meta: Tensor,
    bias: Tensor | None = None,
    *,
    M: int,  # noqa: N803
    K: int,  # noqa: N803
    dtype: str,
    out: str,
    kernels: Sequence[str] = (),
    dense_from: int = operators.NEVER,
) -> Tensor:
    """Multiply with a packed 2:4 weight."""
    kind = getattr(torch, out)
    y = operators.linear_operator("nm24")(
        x, [vals, meta], bias, M, K, dtype, kind, dense_from, None, ",".join(kernels)
    )
    assert isinstance(y, Tensor)
    return y
