"""``SparseLinear``: a linear layer whose weight is stored packed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsec.backends.cuda import operators
from sparsec.backends.cuda.cost import dense_from
from sparsec.backends.cuda.torch_formats import array_names, multiplied_in
from sparsec.ir.errors import ShapeError, UsageError, did_you_mean

PREFILLS = ("decompress", "cusparselt")


@dataclasses.dataclass(frozen=True, slots=True)
class Dispatch:
    """Which way a layer goes for how many rows of x. Kept with the weight; nothing is tuned in use.

    Parameters
    ----------
    dense_from : int
        Rows of x from which the packed kernel gives way.
    prefill : str
        To what: ``"decompress"`` rebuilds the weight in scratch memory and multiplies densely,
        ``"cusparselt"`` uses a second packed copy of it, in the form of that library.
    source : str
        ``"modelled"`` or ``"measured"``: what the numbers rest on.
    """

    dense_from: int
    prefill: str = "decompress"
    source: str = "modelled"

    def __post_init__(self) -> None:
        if self.prefill not in PREFILLS:
            raise UsageError(f"prefill: {did_you_mean(self.prefill, PREFILLS)}")
        if not 1 <= self.dense_from <= operators.NEVER:
            raise UsageError(
                f"dense_from: needed 1 to {operators.NEVER} rows of x, got {self.dense_from}"
            )


def modelled_dispatch(format: str, shape: tuple[int, int], packed_bytes: int) -> Dispatch:
    """Return the record that rests on bytes alone, see :func:`sparsec.backends.cuda.cost.dense_from`.

    Examples
    --------
    >>> modelled_dispatch("nm24", (4096, 4096), 4096 * 4096 * 9 // 8).dense_from
    257
    """
    return Dispatch(dense_from(format, shape, packed_bytes) or operators.NEVER)


def buffer_names(format: str, values: str) -> tuple[str, ...]:
    """Return what the arrays of a format are called as buffers: no name of a format meets one of torch.

    Examples
    --------
    >>> buffer_names("nm24", "float16")
    ('weight_vals', 'weight_meta')
    """
    return tuple(f"weight_{name}" for name in array_names(format, values))


class SparseLinear(nn.Module):  # type: ignore[misc]  # torch has no types here
    """``x @ W.T + bias`` with W packed: what is not zero, and where it stands.

    x may have any float type. It is brought to the type of the stored values, products are summed in
    float32, and the result has the type of x, or that of autocast.

    The packed arrays (``weight_`` and the name that the format gives them) and the bias (always float32)
    are buffers; ``state_dict`` holds nothing else. The weight is a constant: gradients reach x alone.

    Parameters
    ----------
    shape : (int, int)
        ``(out_features, in_features)``.
    format : str
        Name of the packed format.
    packed : sequence of Tensor
        In the order of the format's arrays.
    bias : Tensor, optional
        [out_features].
    values : str
        Type of the stored values: ``"float16"``, ``"bfloat16"``, ``"float8_e4m3fn"``, ``"int8"``.
    pattern : str
        The pattern that the zeros follow.
    dispatch : Dispatch
    """

    bias: Tensor | None
    prefill_weight: Tensor | None

    def __init__(
        self,
        shape: tuple[int, int],
        format: str,
        packed: Sequence[Tensor],
        bias: Tensor | None = None,
        *,
        values: str,
        pattern: str,
        dispatch: Dispatch,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.format, self.values, self.pattern = format, values, pattern
        self.dispatch = dispatch
        self._arrays = buffer_names(format, values)
        for name, array in zip(self._arrays, packed, strict=True):
            self.register_buffer(name, array)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self.register_buffer("prefill_weight", None, persistent=False)

    @property
    def packed(self) -> list[Tensor]:
        """The packed arrays, in the format's order."""
        return [getattr(self, name) for name in self._arrays]

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed arrays."""
        return sum(array.nbytes for array in self.packed)

    @property
    def weight(self) -> Tensor:
        """W, dense, in the type that it is multiplied in: rebuilt at every access."""
        unpack = operators.unpack_operator(self.format)
        shape = self.out_features, self.in_features
        dense = unpack(self.packed, *shape, self.values, self.multiplied_in)
        assert isinstance(dense, Tensor)
        return dense

    @property
    def multiplied_in(self) -> torch.dtype:
        """The type that x is brought to: that of the values, float16 for 8-bit ones."""
        return multiplied_in(self.values)

    def forward(
        self, input: Tensor, *, activation: str = "none", residual: Tensor | None = None
    ) -> Tensor:
        """Return ``activation(input @ W.T + bias) + residual``, rounded once.

        Parameters
        ----------
        input : float [..., in_features]
        activation : str
            ``"none"``, ``"relu"``, ``"silu"``, ``"gelu"`` or ``"gelu_tanh"``.
        residual : float [..., out_features], optional

        Returns
        -------
        float [..., out_features]

        Raises
        ------
        ShapeError
            If the input has another number of features, or the residual another shape.
        UsageError
            If there is no such activation, or the input has no float type.
        """
        x = input
        if not x.is_floating_point():
            raise UsageError(f"input: need a float type, got {x.dtype}")
        if x.shape[-1] != self.in_features:
            raise ShapeError(f"input: need [..., {self.in_features}], got {list(x.shape)}")
        values = self.multiplied_in
        kind = x.device.type
        out = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        direct = out if out in (values, torch.float32) else torch.float32
        y = operators.linear_operator(self.format)(
            x.float() if x.dtype in (torch.float32, torch.float64) else x.to(values),
            self.packed,
            self.bias,
            None if residual is None else residual.to(direct),
            activation,
            self.out_features,
            self.in_features,
            self.values,
            direct,
            self.dispatch.dense_from,
            self.prefill_weight,
            "",
        )
        assert isinstance(y, Tensor)
        return y.to(out)

    def prepare(self) -> None:
        """Make what the dispatch record asks for and is not stored: call on the final device.

        Raises
        ------
        UnsupportedTargetError
            If it asks for cuSPARSELt and there is none here.
        """
        self.prefill_weight = None
        if self.dispatch.prefill == "cusparselt" and self.packed[0].is_cuda:
            self.prefill_weight = operators.cusparselt_weight(self.weight)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, format={self.format}, pattern={self.pattern}, "
            f"values={self.values}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the buffers; ``half()`` and ``to(dtype)`` leave the types of the format as they are."""
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            after = self._buffers[name]
            if after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self
