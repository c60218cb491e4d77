"""How the operand of an operator is seen as a matrix [out, reduction].

Matrix forms (row = one output)::

    Conv    w [O, C/g, *kernel]   ->  [O, kernel * C/g]   channels fastest: N:M groups are channels
    Gemm    B [K, N] or [N, K]    ->  [N, K]              (A, when the constant is there: [M, K])
    MatMul  B [*b, K, N]          ->  [b * N, K]          (A [*b, M, K]: [b * M, K])
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

STANDARD_DOMAIN = ("", "ai.onnx")


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """How an operand becomes a matrix: transpose by ``perm``, then reshape to ``shape``.

    Parameters
    ----------
    perm : tuple of int
        Axes of the operand; those of the rows first, then those of the reduction.
    row_axes : int
        How many leading axes of ``perm`` are rows.
    run : int
        Consecutive reduction elements that differ in the last reduction axis only: what an N:M
        group or a block may span. For a convolution the channels of one group.
    groups : int
        Equal parts of the rows that read different inputs: ``group`` of a convolution, the matrices
        of a batched MatMul.
    """

    perm: tuple[int, ...]
    row_axes: int
    run: int
    groups: int = 1

    @property
    def reduction_axis(self) -> int:
        """Axis of the operand along which the fastest reduction index runs."""
        return self.perm[-1]


def matrix_layout(node: ir.Node, index: int, shape: tuple[int, ...]) -> Layout | None:
    """Return how ``node`` reads a constant of ``shape`` at input ``index`` as a matrix.

    None if it does not read it as a weight. This is the only place that knows which axes of which
    operator are outputs and which are summed over.
    """
    if node.domain not in STANDARD_DOMAIN:
        return None
    rank = len(shape)
    match node.op_type:
        case "Conv" if index == 1 and rank >= 3:
            groups = node.attributes.get_int("group", 1) or 1
            return Layout((0, *range(2, rank), 1), 1, shape[1], groups)
        case "Gemm" if index < 2 and rank == 2:
            transposed = bool(node.attributes.get_int("transA" if index == 0 else "transB", 0))
            rows_first = transposed == (index == 1)
            perm = (0, 1) if rows_first else (1, 0)
            return Layout(perm, 1, shape[perm[-1]])
        case "MatMul" if index < 2 and rank >= 2:
            batch = tuple(range(rank - 2))
            last = (rank - 2, rank - 1) if index == 0 else (rank - 1, rank - 2)
            groups = int(np.prod(shape[:-2]))
            return Layout((*batch, *last), rank - 1, shape[last[-1]], groups)
    return None
