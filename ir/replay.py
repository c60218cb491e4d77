"""Replaying a certificate: weights are made up, both graphs run, and what they return is compared."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.certificate import Certificate, Weights, filled
from sparsec.ir.edits import Removal, shrunk, zeroed
from sparsec.ir.errors import SparsecError, VerifyError
from sparsec.ir.feeds import random_feeds
from sparsec.ir.memory import return_to_system
from sparsec.ir.noise import differences, forgiven, is_float, rounded_anew
from sparsec.ir.run import Feeds, OrtRunner

TOLERANCE = 1e-5  # of the largest |y| of an output, in float32
_EXACT_TOLERANCE = 1e-10  # the same in float64, which decides where float32 cannot
_LEAST_EFFECT = 1e-3
_LARGE = 1 << 28  # bytes
_GAINS = (1.0, 0.3, 0.1, 0.01)  # a deep graph may overflow with weights of the usual size


def random_weights(
    certificate: Certificate, seed: int, gain: float = 1.0
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Make up the parameters of the dense graph, one after the other: they may fill the memory.

    Matrices are uniform around zero, scaled to keep activations in range; vectors are uniform in
    0.5..1.5, since they may be variances or divisors; integers are small.
    """
    for number, (name, value) in enumerate(sorted(certificate.parameters.items())):
        rng = np.random.Generator(np.random.SFC64([seed, number]))
        assert value.shape is not None
        assert value.dtype is not None
        shape = tuple(int(size) for size in value.shape.numpy())
        dtype = np.dtype(value.dtype.numpy())
        if not value.dtype.is_floating_point():
            yield name, rng.integers(0, 8, shape).astype(dtype)
            continue
        array = rng.random(shape, np.float32)
        if sum(size > 1 for size in shape) < 2:
            array += np.float32(0.5)
        else:
            fan = np.prod(shape[1:]) if len(shape) > 2 else np.sqrt(np.prod(shape))
            array -= np.float32(0.5)
            array *= np.float32(gain * np.sqrt(12 / fan))  # variance 1 / fan
        yield name, array.astype(dtype, copy=False)


def parameters_of(certificate: Certificate, before: ir.Model) -> dict[str, NDArray[Any]]:
    """Return the parameters that the dense graph itself has, to be given to :func:`replay`."""
    values = before.graph.initializers
    tensors = {name: values[name].const_value for name in certificate.parameters}
    return {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}


def replay(
    certificate: Certificate,
    *,
    seed: int = 0,
    weights: Weights | None = None,
    feeds: Feeds | None = None,
) -> float:
    """Run both graphs and return how far they are apart, in units of the output's scale.

    Parameters
    ----------
    certificate : Certificate
    seed : int
        Of the weights and inputs that are made up.
    weights : mapping of str to array, optional
        Parameters of the dense graph, instead of made-up ones.
    feeds : mapping of str to array, optional
        Inputs, instead of made-up ones.

    Raises
    ------
    VerifyError
        If they differ by more than the tolerance, or cannot be compared.
    """
    if weights is not None:
        given = weights
        return _Trial.of(certificate, lambda: given.items(), seed, feeds).checked()
    fallback: _Trial | None = None
    for gain in _GAINS:
        made = functools.partial(random_weights, certificate, seed, gain)
        trial = _Trial.of(certificate, made, seed, feeds)
        if not trial.is_finite:
            continue
        # An output that does not see the units at all (saturated, say) would prove nothing.
        if trial.effect() >= _LEAST_EFFECT:
            return trial.checked()
        fallback = fallback or trial
    if fallback is None:
        raise VerifyError(
            f"the certificate of {certificate.applied} cannot be replayed: the dense graph returns no "
            "finite numbers with random weights; a weight that is divided by its own norm, as by "
            "weight_norm, cannot be removed so: remove the parametrization first",
            where=certificate.applied,
        )
    return fallback.checked()


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class _Trial:
    """What both graphs return on one input, with the same weights.

    The weights of a large model fill the memory, so there is one copy at a time: each run makes
    them anew.
    """

    certificate: Certificate
    weights: Callable[[], Iterable[tuple[str, NDArray[Any]]]]
    feeds: Feeds
    expected: Mapping[str, NDArray[Any]]
    got: Mapping[str, NDArray[Any]]

    @classmethod
    def of(
        cls,
        certificate: Certificate,
        weights: Callable[[], Iterable[tuple[str, NDArray[Any]]]],
        seed: int,
        feeds: Feeds | None,
    ) -> _Trial:
        """Run the dense graph with its units zeroed, and the shrunk one."""
        removal = certificate.removal
        masked = _masked(removal, weights())
        if feeds is None:
            (every,) = random_feeds(certificate.dense, seed=seed, given=masked).feeds
            feeds = {name: array for name, array in every.items() if name not in masked}
            del every  # it holds the weights
        expected = _outputs(certificate.dense, masked, feeds)
        _forget(masked)
        small = {name: shrunk(a, removal.tensors.get(name, {})) for name, a in weights()}
        got = _outputs(certificate.shrunk, small, feeds)
        _forget(small)
        return cls(certificate, weights, feeds, expected, got)

    @property
    def is_finite(self) -> bool:
        """Whether the dense graph returns ordinary numbers."""
        return all(np.isfinite(a).all() for a in self.expected.values() if is_float(a))

    def effect(self) -> float:
        """Return how much the units that go matter to the output."""
        weights = dict(self.weights())
        full = _outputs(self.certificate.dense, weights, self.feeds)
        _forget(weights)
        return relative_difference(full, self.expected)

    def noise(self) -> dict[str, float]:
        """Return how much every output moves if the weights are rounded anew, and if it is fused."""
        rng = np.random.default_rng(0)
        masked = _masked(self.certificate.removal, self.weights())
        fused = _outputs(self.certificate.dense, masked, self.feeds, optimise=True)
        for name, array in masked.items():
            if is_float(array):
                masked[name] = rounded_anew(array, rng)
        moved = differences(_outputs(self.certificate.dense, masked, self.feeds), self.expected)
        other = differences(fused, self.expected)
        return {name: max(moved[name], other[name]) for name in moved}

    def _is_rounding(self, apart: Mapping[str, float]) -> bool:
        """Whether differences above the tolerance are those of float32, as float64 tells."""
        exact = self.apart_in_float64()
        if exact is not None:
            return exact <= _EXACT_TOLERANCE
        noise = self.noise()
        return all(a <= max(TOLERANCE, forgiven(noise[name])) for name, a in apart.items())

    def apart_in_float64(self) -> float | None:
        """Return the difference in float64; None where torch or one of its operators is missing."""
        masked = _masked(self.certificate.removal, self.weights())
        if sum(array.nbytes for array in masked.values()) > _LARGE:
            return None  # twice its size, several times over
        try:
            import torch

            from sparsec.ir.fx import FxExecutor

            def run(graph: ir.Model, weights: Weights) -> dict[str, NDArray[Any]]:
                executor = FxExecutor(filled(graph, weights), dtype=torch.float64)
                return executor.run(self.feeds)

            expected = run(self.certificate.dense, masked)
            axes = self.certificate.removal.tensors
            small = {name: shrunk(a, axes.get(name, {})) for name, a in self.weights()}
            return relative_difference(run(self.certificate.shrunk, small), expected)
        except (ImportError, SparsecError):
            return None

    def checked(self) -> float:
        """Return the difference if it is rounding."""
        each = differences(self.got, self.expected)
        apart = max(each.values(), default=0.0)
        if not (apart <= TOLERANCE or self._is_rounding(each)):
            who = self.certificate.applied
            raise VerifyError(
                f"the certificate of {who} fails: the shrunk graph differs from the dense one with its "
                f"units zeroed by {apart:.2g} of the output's scale, tolerance {TOLERANCE:g}",
                where=who,
            )
        return apart


def _forget(weights: dict[str, NDArray[Any]]) -> None:
    """Drop weights before others are made; those of large models go back to the system at once."""
    large = sum(array.nbytes for array in weights.values()) > _LARGE
    weights.clear()
    if large:
        return_to_system()


def _masked(
    removal: Removal, weights: Iterable[tuple[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """Return weights with the units that go zeroed."""
    kept = removal.never_zero
    return {
        name: array if name in kept else zeroed(array, removal.tensors.get(name, {}))
        for name, array in weights
    }


def _outputs(
    graph: ir.Model, weights: Weights, feeds: Feeds, optimise: bool = False
) -> dict[str, NDArray[Any]]:
    """Run a skeleton. Weights are fed as inputs, which the runtime does not copy."""
    if optimise or any(array.dtype.kind == "V" for array in weights.values()):
        # Only constants can be fused; and there are types that cannot be fed from Python.
        return OrtRunner(filled(graph, weights), optimise=optimise, low_memory=True).run(feeds)
    return OrtRunner(graph, optimise=False, low_memory=True).run({**weights, **feeds})


def relative_difference(
    outputs: Mapping[str, NDArray[Any]], reference: Mapping[str, NDArray[Any]]
) -> float:
    """Return the largest ``|a - b|`` over the largest ``|b|``, of the worst output; inf if unlike.

    Examples
    --------
    >>> relative_difference({"y": np.array([1.0, 3.0])}, {"y": np.array([1.0, 4.0])})
    0.25
    """
    return max(differences(outputs, reference).values(), default=0.0)
