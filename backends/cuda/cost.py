"""A roofline of one layer on a GPU: what the choice between packed and dense rests on, unmeasured.

A product takes as long as its slowest part: reading the operands, multiplying, or getting started.
The peak rates are the vendor's (``Target.limits``), no kernel reaches them, and the same share is
missed on both sides. So the times order alternatives; they predict nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from sparsec.backends.cuda.formats.nm24 import packed_bytes
from sparsec.backends.cuda.variants import MAX_N

# Launch, ramp and one trip to memory. Smaller layers are bound by it whatever they read; a rule of
# thumb, not a measurement.
_FLOOR_SECONDS = 4e-6
_HALF = 2  # bytes of a 16-bit float


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """Modelled seconds of one call, dense in 16 bits and packed, for N rows of x."""

    rows: int
    dense_seconds: float
    packed_seconds: float

    @property
    def packed_loses(self) -> bool:
        """Whether the model says that the packed kernel is the slower one; a tie is no loss."""
        return self.packed_seconds > self.dense_seconds

    def __str__(self) -> str:
        packed, dense = 1e6 * self.packed_seconds, 1e6 * self.dense_seconds
        if packed == dense:
            return f"{packed:.1f} us, the launch floor, packed or dense; packing saves bytes only"
        return f"{packed:.1f} us packed, {dense:.1f} us dense"


def estimate(shape: tuple[int, int], rows: int, limits: Mapping[str, float]) -> Estimate:
    """Return the modelled times of ``y[N, M] = x[N, K] @ W[M, K].T``.

    Parameters
    ----------
    shape : (M, K)
    rows : int
        N. Above ``MAX_N`` the packed weight is decompressed to scratch and multiplied densely.
    limits : mapping
        ``"bandwidth"`` in bytes/s and ``"flops"`` in flop/s.

    Examples
    --------
    >>> a100 = {"bandwidth": 2.0e12, "flops": 312e12}
    >>> decode = estimate((11008, 4096), 16, a100)
    >>> round(decode.dense_seconds / decode.packed_seconds, 2)
    1.77
    >>> estimate((11008, 4096), 512, a100).packed_loses
    True
    """
    out, reduction = shape
    activations = _HALF * rows * (out + reduction)
    dense_bytes = _HALF * out * reduction
    multiply = 2 * out * reduction * rows / limits["flops"]

    def seconds(weight_bytes: int) -> float:
        read = (weight_bytes + activations) / limits["bandwidth"]
        return max(read, multiply, _FLOOR_SECONDS)

    packed = packed_bytes(out, reduction)
    dense_seconds = seconds(dense_bytes)
    if rows <= MAX_N:
        return Estimate(rows, dense_seconds, seconds(packed))
    decompress = (packed + dense_bytes) / limits["bandwidth"]
    return Estimate(rows, dense_seconds, dense_seconds + decompress)
