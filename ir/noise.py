"""How much float32 itself can tell: the noise of one graph's outputs.

Two correct ways to compute the same graph differ. Normally by a millionth of the output's scale; but
an output can be ill-conditioned (what is left of a cancellation), or the runtime can resolve it coarsely:
ONNX Runtime returns a Sigmoid in steps of 3e-8 with an error of up to 1.2e-7, so where it is near zero
its relative error has no bound. A comparison must not take that for a wrong graph. Noise is therefore
measured, on a graph that is known to be right, and only as much as is measured is forgiven.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.run import Feeds, OrtRunner

# What is forgiven: so many times the noise, and never more than so many times the most.
FACTOR, MOST = 4.0, 2e-3

_NUDGES = 3
_SMALL = 16  # elements; what is no larger bounds, scales or says a size, and is not rounded anew

Outputs = Mapping[str, NDArray[Any]]


def is_float(array: NDArray[Any]) -> bool:
    """Whether an array holds floating-point numbers."""
    return bool(np.issubdtype(array.dtype, np.floating))


def difference(got: NDArray[Any] | None, expected: NDArray[Any]) -> float:
    """Return the largest ``|a - b|`` over the largest ``|b|`` of one output; inf if they are unlike.

    Examples
    --------
    >>> difference(np.array([1.0, 3.0]), np.array([1.0, 4.0]))
    0.25
    """
    if got is None or got.shape != expected.shape:
        return float("inf")
    if got.size == 0 or np.array_equal(got, expected, equal_nan=is_float(expected)):
        return 0.0
    if not is_float(expected):
        return float("inf")
    with np.errstate(invalid="ignore"):  # inf - inf: not finite, so infinitely far apart
        apart = np.abs(got.astype(np.float64) - expected.astype(np.float64)).max()
    scale = np.abs(expected.astype(np.float64)).max()
    return float(apart / scale) if scale and np.isfinite(apart) else float("inf")


def differences(outputs: Outputs, reference: Outputs) -> dict[str, float]:
    """Return the difference of every output of the reference."""
    return {name: difference(outputs.get(name), array) for name, array in reference.items()}


def rounded_anew(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Return numbers each of which is moved by no more than a unit in the last place."""
    steps = rng.integers(-1, 2, array.shape, np.int8) * np.finfo(array.dtype).eps
    return np.asarray((array * (1 + steps)).astype(array.dtype))


def forgiven(noise: float) -> float:
    """Return how far apart two runs may be, given the noise; what has no bound forgives nothing.

    Examples
    --------
    >>> forgiven(1e-3), forgiven(0.5), forgiven(float("inf"))
    (0.004, 0.008, 0.0)
    """
    return FACTOR * min(noise, MOST) if np.isfinite(noise) else 0.0


def noise_of(
    model: ir.Model, feeds: Sequence[Feeds], expected: Sequence[Outputs]
) -> dict[str, float]:
    """Measure the noise of every output of a graph, as a fraction of its scale.

    It is run with the runtime's own optimisations, and a few times with its weights and inputs rounded
    anew. Those of fewer bits than float32 are left as they are: a unit of theirs is no noise.

    Parameters
    ----------
    model : onnx_ir.Model
        It is not changed.
    feeds : sequence of mappings
    expected : sequence of mappings
        What the runtime returns for each of them without optimisations.

    Returns
    -------
    dict of str to float
        The most that was seen over the feeds; inf where a run gives no finite number.
    """
    found = {name: 0.0 for outputs in expected for name in outputs}

    def compare(runner: OrtRunner, inputs: Sequence[Feeds]) -> None:
        for feed, right in zip(inputs, expected, strict=True):
            for name, apart in differences(runner.run(feed), right).items():
                found[name] = max(found[name], apart)

    compare(OrtRunner(model, low_memory=True), feeds)
    for seed in range(_NUDGES):
        rng = np.random.default_rng(seed)
        nudged = model.clone()
        for value in nudged.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and _is_wide(np.dtype(tensor.dtype.numpy()), tensor.size):
                value.const_value = ir.tensor(rounded_anew(tensor.numpy(), rng), name=value.name)
        runner = OrtRunner(nudged, optimise=False, low_memory=True)
        compare(runner, [{name: _nudged(a, rng) for name, a in feed.items()} for feed in feeds])
    return found


def _nudged(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    return rounded_anew(array, rng) if _is_wide(array.dtype, array.size) else array


def _is_wide(dtype: np.dtype[Any], size: int) -> bool:
    return size > _SMALL and dtype in (np.float32, np.float64)
