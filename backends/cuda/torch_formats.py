"""Packed formats on torch tensors: what the operators need to know of each one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sparsec.backends.cuda.nm24 import NM24Matrix
from sparsec.ir.errors import ShapeError
from sparsec.ir.patterns import NM, Pattern


class TorchFormat(Protocol):
    """A packed format whose arrays are torch tensors."""

    name: str
    arrays: tuple[str, ...]

    def pack(self, dense: Tensor) -> list[Tensor]:
        """Pack 16-bit [M, K] into tensors on the CPU, in the order of ``arrays``."""
        ...

    def unpack(self, packed: Sequence[Tensor], M: int, K: int, dtype: torch.dtype) -> Tensor:  # noqa: N803
        """Return W [M, K] on the device of ``packed``."""
        ...

    def launch(
        self,
        x: Tensor,
        packed: Sequence[Tensor],
        bias: Tensor | None,
        y: Tensor,
        kernels: Sequence[str],
    ) -> None:
        """Write ``x @ W.T + bias`` to y, on the device."""
        ...


class NM24Format:
    name = "nm24"
    arrays = ("vals", "meta")

    def refusal(self, pattern: Pattern, shape: tuple[int, int]) -> str | None:
        return None if pattern == NM(2, 4) else "nm24 holds 2:4"

    def pack(self, dense: Tensor) -> list[Tensor]:
        bits = dense.contiguous().view(torch.int16).numpy().view(np.float16)
        packed = NM24Matrix.pack(bits)
        return [torch.from_numpy(packed.vals), torch.from_numpy(packed.meta)]

    def unpack(self, packed: Sequence[Tensor], M: int, K: int, dtype: torch.dtype) -> Tensor:  # noqa: N803
        vals, meta = packed
        matrix = NM24Matrix(vals.numpy(), meta.numpy(), K, "float16")
        return torch.from_numpy(matrix.unpack().view(np.int16)).view(dtype)

    def check(self, packed: Sequence[Tensor], M: int, K: int) -> None:  # noqa: N803
        vals, meta = (array.numpy() for array in packed)
        NM24Matrix(vals, meta, K, "float16").check()
        if len(vals) != M:
            raise ShapeError(f"vals: need {M} rows, got {len(vals)}")

    def launch(self, x, packed, bias, y, kernels) -> None:
        from sparsec.backends.cuda.launch import nm24_linear

        nm24_linear(x, *packed, bias, out=y)


FORMATS: dict[str, TorchFormat] = {form.name: form for form in (NM24Format(),)}


def format_for(pattern: Pattern) -> TorchFormat | None:
    """Return the first format that holds ``pattern``."""
    return next((f for f in FORMATS.values() if f.refusal(pattern, (0, 0)) is None), None)
