"""How far two runs of a model are apart: exactly, for proofs, and in meaning, for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]

TOLERANCE = {"float32": 1e-4, "float16": 2e-2}


@dataclasses.dataclass(slots=True)
class Difference:
    """The largest difference seen over samples and outputs.

    Parameters
    ----------
    max_abs : float
        Largest ``|a - b|``.
    max_rel : float
        Largest, over outputs, of ``max |a - b| / max |b|``: relative to the scale of the output, so
        that an element near zero does not count more than it means.
    samples : int
    by_output : mapping of str to float
        ``max_rel`` of every output.
    ranges : mapping of str to (float, float)
        The least and the largest number that each output of the reference held.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    samples: int = 0
    by_output: dict[str, float] = dataclasses.field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def between(cls, samples: Sequence[Outputs], references: Sequence[Outputs]) -> Difference:
        """Return the difference of what two runs returned for the same inputs, sample by sample."""
        difference = cls()
        for outputs, reference in zip(samples, references, strict=True):
            difference.add(outputs, reference)
        return difference

    @property
    def varied(self) -> bool:
        """Whether any output of the reference held two different numbers: else nothing is shown."""
        return any(low < high for low, high in self.ranges.values())

    def add(self, outputs: Outputs, reference: Outputs) -> None:
        """Compare one sample; what cannot be compared counts as infinitely far apart."""
        self.samples += 1
        for name, expected in reference.items():
            got = outputs.get(name)
            absolute, relative = (np.inf, np.inf) if got is None else _difference(got, expected)
            self.max_abs = max(self.max_abs, absolute)
            self.max_rel = max(self.max_rel, relative)
            self.by_output[name] = max(self.by_output.get(name, 0.0), relative)
            self._extend(name, np.asarray(expected))

    def _extend(self, name: str, expected: NDArray[Any]) -> None:
        numbers = expected.astype(np.float64) if _is_number(expected) else np.empty(0)
        if (numbers := numbers[np.isfinite(numbers)]).size:
            low, high = self.ranges.get(name, (np.inf, -np.inf))
            self.ranges[name] = min(low, float(numbers.min())), max(high, float(numbers.max()))


def _difference(got: Any, expected: Any) -> tuple[float, float]:
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        return np.inf, np.inf
    if not expected.size:
        return 0.0, 0.0
    if not (_is_number(got) and _is_number(expected)):
        return (0.0, 0.0) if bool(np.all(got == expected)) else (np.inf, np.inf)
    a, b = got.astype(np.float64), expected.astype(np.float64)
    odd = ~np.isfinite(a)
    if not np.array_equal(odd, ~np.isfinite(b)) or not np.array_equal(
        a[odd], b[odd], equal_nan=True
    ):
        return np.inf, np.inf
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return 0.0, 0.0
    absolute = float(np.abs(a[both] - b[both]).max())
    scale = float(np.abs(b[both]).max())
    return absolute, 0.0 if absolute == 0 else absolute / scale if scale else np.inf


def _is_number(array: NDArray[Any]) -> bool:
    return bool(np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_)


@dataclasses.dataclass(slots=True)
class Fidelity:
    """How much of the original model's behaviour is left.

    ``cosine`` is the mean cosine between outputs, ``agreement`` the fraction of positions where the
    largest entry along the last axis is the same; None where no output has such an axis.
    """

    cosines: list[float] = dataclasses.field(default_factory=list)
    same: int = 0
    positions: int = 0

    @classmethod
    def between(cls, samples: Sequence[Outputs], originals: Sequence[Outputs]) -> Fidelity:
        """Return the fidelity of what two runs returned for the same inputs, sample by sample."""
        fidelity = cls()
        for outputs, original in zip(samples, originals, strict=True):
            fidelity.add(outputs, original)
        return fidelity

    def add(self, outputs: Outputs, original: Outputs) -> None:
        """Take in one sample."""
        for name, expected in original.items():
            got = outputs.get(name)
            if got is None or np.shape(got) != np.shape(expected) or not np.size(expected):
                continue
            a, b = np.asarray(got), np.asarray(expected)
            if not (np.issubdtype(a.dtype, np.floating) and np.issubdtype(b.dtype, np.floating)):
                continue
            if not np.isfinite(b).any():  # nothing to be like
                continue
            self.cosines.append(cosine(a, b))
            if b.ndim and b.shape[-1] > 1:
                equal = a.argmax(axis=-1) == b.argmax(axis=-1)
                self.same += int(np.count_nonzero(equal))
                self.positions += equal.size

    def to_json(self) -> dict[str, float | None]:
        """Return ``{"cosine", "agreement"}``."""
        return {
            "cosine": float(np.mean(self.cosines)) if self.cosines else None,
            "agreement": self.same / self.positions if self.positions else None,
        }


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the cosine of the angle between two arrays seen as vectors, finite entries only.

    Examples
    --------
    >>> cosine(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    1.0
    """
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    if scale == 0:
        return 1.0 if not x.any() and not y.any() else 0.0
    return float(np.clip(x @ y / scale, -1.0, 1.0))


CONSTANT = (
    "every output is one and the same number, or none that is finite, on these inputs, so that verification "
    "shows nothing; "
    "give inputs that the model was made for with --calib"
)
POOR_COSINE = 0.9


def fidelity_warning(manifest: Mapping[str, Any]) -> str | None:
    """Return a warning when the compiled model has little to do with the original any more."""
    value = manifest["fidelity"].get("cosine")
    if value is None or value >= POOR_COSINE:
        return None
    ways = "prune less, exclude sensitive layers, or fine-tune"
    if manifest["recipe"]["calib"] is None:
        ways = f"give calibration data (--calib), {ways}"
    return (
        f"the outputs have a cosine of only {value:.2f} to the original model's: one-shot pruning "
        f"cost much of its function; {ways}"
    )
