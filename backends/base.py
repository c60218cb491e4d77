"""What a backend is: from a pruned graph to one that a target runs faster, and back.

A backend changes only layers that profit; the dense fallback is always legal and always reported.
It must also be able to undo itself (:meth:`Backend.densify`), reading nothing but what it packed: that
is how an artifact is verified without the model it came from.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.ir.layers import CostRecord, LayerRow
from sparsec.ir.target import Status, Target

Feeds = Mapping[str, NDArray[Any]]


class Runner(Protocol):
    """Something that runs a lowered graph."""

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Return every output by name."""
        ...


@dataclasses.dataclass(slots=True)
class LowerContext:
    """What a backend may know while it lowers.

    Parameters
    ----------
    feeds : sequence of feeds
        Complete inputs of the model: what layers are timed on and shapes are taken from.
    threads : int
        Threads that times are taken with.
    cache : Path, optional
        Directory for tuning records.
    seed : int
        Of everything random.
    progress : callable
        Given a sentence and the fraction done, 0..1.
    """

    feeds: Sequence[Feeds]
    threads: int = 1
    cache: Path | None = None
    seed: int = 0
    progress: Callable[[str, float], None] = lambda text, done: None


@dataclasses.dataclass(slots=True)
class Lowered:
    """A lowered graph and everything that must lie beside it.

    Parameters
    ----------
    model : onnx_ir.Model
        The graph of the artifact. Large tensors become external data when it is written.
    layers : list of LayerRow
        One row for every weight site of the graph, in graph order.
    files : mapping of str to bytes or Path
        Further files, by their path inside the artifact: libraries, plans, cubins.
    kernels : list of dict
        GPU kernels with their launch data, as the manifest stores them.
    weights : mapping of str to array
        Tensors of ``weights.safetensors``; empty if the target needs none.
    record : CostRecord, optional
        The times that decided.
    notes : list of str
        Sentences for the report.
    """

    model: ir.Model
    layers: list[LayerRow]
    files: dict[str, bytes | Path] = dataclasses.field(default_factory=dict)
    kernels: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    weights: dict[str, NDArray[np.generic]] = dataclasses.field(default_factory=dict)
    record: CostRecord | None = None
    notes: list[str] = dataclasses.field(default_factory=list)


class Backend(abc.ABC):
    """Lowers graphs for the targets that name it."""

    name: ClassVar[str]

    @abc.abstractmethod
    def why_not(self, target: Target) -> str | None:
        """Return why nothing can be lowered for ``target`` here, with the way out; None if it can."""

    def status(self, target: Target) -> Status:
        """Return how much can be said about speed on ``target`` from this very machine."""
        return target.status

    def here(self, target: Target) -> Target:
        """Return ``target`` with what only this machine can say of it."""
        return target

    @abc.abstractmethod
    def lower(self, model: ir.Model, target: Target, context: LowerContext) -> Lowered:
        """Replace the layers that profit; ``model`` is the caller's copy and may be changed.

        The graph that comes in is masked: zeros are where the patterns put them, every operator is a
        stock one. Input and output names and shapes must not change.
        """

    @abc.abstractmethod
    def densify(self, model: ir.Model, root: Path) -> ir.Model:
        """Return a lowered graph in stock operators again, from the packed data alone.

        Parameters
        ----------
        model : onnx_ir.Model
            As read from the artifact at ``root``; it may be changed.
        """

    def reference(self, model: ir.Model, layers: Sequence[Mapping[str, Any]]) -> ir.Model | None:
        """Return what the lowered graph is compared with; None if that is the masked graph itself.

        A backend that computes in fewer bits rounds the masked graph at the same places here. Then
        the comparison finds a wrong lowering, and the fidelity shows what rounding costs.

        Parameters
        ----------
        model : onnx_ir.Model
            The masked graph; it may be changed.
        layers : sequence of mapping
            The layer table of the manifest.
        """
        return None

    @abc.abstractmethod
    def runner(
        self, root: Path, manifest: Mapping[str, Any], threads: int | None, *, exact: bool = False
    ) -> Runner:
        """Return what runs the artifact at ``root`` on this machine.

        Parameters
        ----------
        root : Path
        manifest : dict
        threads : int, optional
            None leaves the choice to the backend.
        exact : bool
            For a comparison: what runs stock operators must not round more than they say, as the
            runtime may on its own account where speed counts.

        Raises
        ------
        UnsupportedTargetError
            If this machine cannot run it.
        """

    def stand_in(
        self, root: Path, manifest: Mapping[str, Any], threads: int | None
    ) -> Runner | None:
        """Return what computes the same from the same packed bytes where the device is absent.

        None if there is nothing better than stock operators. It is for checking, never for timing.
        """
        return None

    def emulator(
        self, root: Path, manifest: Mapping[str, Any], threads: int | None
    ) -> Runner | None:
        """Return what runs the artifact's own graph and packed data on this CPU, for a user who asks.

        The stand-in, if a backend has nothing closer to its device. None if there is nothing at all.
        """
        return self.stand_in(root, manifest, threads)
