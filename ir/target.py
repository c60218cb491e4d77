"""Targets: the machines that a model is compiled for."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping


class Status(enum.StrEnum):
    """How much can be said about speed on a target, from where we stand."""

    MEASURED = "measured here"
    MODELLED = "modelled"
    EMITTED = "emitted only"
    PLANNED = "planned"


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """One machine, or one kind of output, that can be compiled for.

    Parameters
    ----------
    name : str
        As typed after ``--target``.
    title : str
        One line for people.
    backend : str
        Name of the backend that lowers for it; empty for a planned target.
    status : Status
    features : frozenset of str
        What kernels may require: ``"avx2"``, ``"sm80"``.
    patterns : tuple of str
        Patterns that some kernel of the target can profit from: ``"2:4"``, ``"unstructured"``.
    width : int
        Channels that its kernels work on at once: a layer whose width is no multiple of it costs what
        the next multiple costs, or more.
    limits : mapping of str to float
        Facts for the cost model: bytes/s, flop/s. Empty where none is needed.
    """

    name: str
    title: str
    backend: str
    status: Status
    features: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()
    width: int = 8
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
