"""A roofline of one layer on a GPU: what the choice between formats and dense rests on, unmeasured.

A product takes as long as its slowest part: reading the operands, multiplying, issuing the
instructions that decode, or getting started. The peak rates are the vendor's (``Target.limits``), no
kernel reaches them, and the same share is missed on all sides. So the times order alternatives; they
predict nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from sparsec.backends.cuda import formats
from sparsec.backends.cuda.formats.values import value_bytes
from sparsec.backends.cuda.native import NATIVE
from sparsec.backends.cuda.variants import BLOCK, FORMATS, MAX_N

# Launch, ramp and one trip to memory. Smaller layers are bound by it whatever they read; a rule of
# thumb, not a measurement.
_FLOOR_SECONDS = 4e-6
_HALF = 2  # bytes of a 16-bit float

# Thread instructions for an element of W in the main loop, 16 rows of x, counted in the code compiled
# for sm_90 and held by a test: 16-bit values, 8-bit values. For blocks, for a stored element.
INSTRUCTIONS = {
    "nm24": (5.4, 5.4),
    "nm1_4": (3.6, 5.5),
    "nm2_4": (7.4, 7.4),
    "nm2_8": (3.7, 6.0),
    "nm4_8": (7.1, 8.4),
    "nm8_16": (7.8, 9.4),
    "bm32": (14.0, 21.0),
    "block8x1": (11.0, 17.0),
    "block16x1": (6.5, 12.0),
    "nm24_sp": (0.65, 1.25),
    "nm14_sp": (1.4, 1.8),
}
# The same for lps, for a stored element and for any element: the line above what is counted from 50 % to
# 90 % of zeros that is nowhere far from it.
_SCATTER = ((4.6, 1.33), (5.7, 1.35))


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """Modelled seconds of one call, dense in 16 bits and packed, for N rows of x."""

    format: str
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
        return f"{packed:.1f} us packed as {self.format}, {dense:.1f} us dense"


def estimate(
    form: str,
    shape: tuple[int, int],
    sparsity: float,
    rows: int,
    limits: Mapping[str, float],
    values: str = "float16",
) -> Estimate:
    """Return the modelled times of ``y[N, M] = x[N, K] @ W[M, K].T``.

    Parameters
    ----------
    form : str
        Packed format.
    shape : (M, K)
    sparsity : float
        Share of the elements that are not stored: for blocks, of those in blocks of zeros.
    rows : int
        N. Above ``MAX_N`` the packed weight is decompressed to scratch and multiplied densely.
    limits : mapping
        ``"bandwidth"`` in bytes/s, ``"flops"`` in flop/s, ``"issue"`` in thread instructions/s.
    values : str
        Type of the stored values.

    Examples
    --------
    >>> a100 = {"bandwidth": 2.0e12, "flops": 312e12, "issue": 19.5e12}
    >>> decode = estimate("nm24", (11008, 4096), 0.5, 16, a100)
    >>> round(decode.dense_seconds / decode.packed_seconds, 2)
    1.77
    >>> estimate("nm24", (11008, 4096), 0.5, 512, a100).packed_loses
    True
    >>> estimate("bm32", (11008, 4096), 0.5, 16, a100 | {"bandwidth": 4.3e12}).packed_loses
    True
    """
    out, reduction = shape
    activations = _HALF * rows * (out + reduction)
    dense_bytes = _HALF * out * reduction
    multiply = 2 * out * reduction * rows / limits["flops"]

    def seconds(weight_bytes: float) -> float:
        read = (weight_bytes + activations) / limits["bandwidth"]
        return max(read, multiply, _FLOOR_SECONDS)

    packed = formats.get(form).expected_bytes(shape, sparsity, values)
    dense_seconds = seconds(dense_bytes)
    if rows > MAX_N:
        decompress = (packed + dense_bytes) / limits["bandwidth"]
        return Estimate(form, rows, dense_seconds, dense_seconds + decompress)
    decoded = out * reduction * (1 - sparsity if form in BLOCK else 1.0)
    decode = decoded * instructions(form, sparsity, values) / limits["issue"]
    return Estimate(form, rows, dense_seconds, max(seconds(packed), decode))


def instructions(form: str, sparsity: float, values: str = "float16") -> float:
    """Return the thread instructions that a kernel is taken to spend on an element of W.

    On a stored one for blocks. Counted for 16 rows of x, and taken for all.

    Examples
    --------
    >>> instructions("nm24", 0.5), round(instructions("lps", 0.9), 2)
    (5.4, 1.79)
    """
    narrow = value_bytes(values) == 1
    if form == "lps":
        stored, any_element = _SCATTER[narrow]
        return stored * (1 - sparsity) + any_element
    return INSTRUCTIONS[form][narrow]


def dense_from(form: str, shape: tuple[int, int], packed_bytes: float) -> int | None:
    """Return from how many rows of x on rebuilding the weight costs less than reading it packed.

    The packed kernel reads the weight once for every ``MAX_N`` rows; the other way reads it packed,
    writes it in 16 bits, and reads that. None if no kernel unpacks the format.

    Examples
    --------
    >>> dense_from("nm24", (4096, 4096), 4096 * 4096 * 9 / 8)
    257
    """
    if form not in FORMATS + NATIVE:
        return None
    dense_bytes = _HALF * shape[0] * shape[1]
    return MAX_N * int((packed_bytes + 2 * dense_bytes) // packed_bytes) + 1
