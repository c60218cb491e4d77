"""What became of each layer: one row for a person, a script, and the report alike."""

from __future__ import annotations

import dataclasses
from typing import Any

from sparsec.ir.codes import Code


@dataclasses.dataclass(slots=True)
class LayerRow:
    """One weight site after lowering.

    Parameters
    ----------
    name : str
        The site's name: its node's name in the written graph.
    op : str
        ONNX operator type.
    shape : tuple of int
        ``(out, reduction)`` of the weight seen as a matrix.
    pattern : str
        ``dense``, ``unstructured``, ``2:4``, ``block:4x1``, ``channel``.
    sparsity : float
        Fraction of zeros, 0..1.
    kernel : str
        Microkernel or library that runs the layer; ``onnxruntime`` for the dense fallback.
    code : Code
    reason : str
        Sentence for people.
    dense_seconds, sparse_seconds : float, optional
        Measured or modelled time of one call; absent where neither is known.
    """

    name: str
    op: str
    shape: tuple[int, int]
    pattern: str
    sparsity: float
    kernel: str
    code: Code
    reason: str
    dense_seconds: float | None = None
    sparse_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON-able data, times included only where they are known."""
        row = dataclasses.asdict(self)
        row["shape"] = list(self.shape)
        row["code"] = str(self.code)
        return {key: value for key, value in row.items() if value is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class CostEntry:
    """One measured or modelled time: what was run, with which kernel, and how long a call took."""

    op: str
    shape: tuple[int, ...]  # (M, K, N), then whatever the operator adds
    pattern: str
    sparsity: float
    kernel: str
    threads: int
    seconds: float
    source: str  # "measured" or "modelled"


@dataclasses.dataclass(slots=True)
class CostRecord:
    """Times of layers on one target; backends fill it, passes and reports read it.

    Parameters
    ----------
    machine : mapping
        What the times were taken on, or are modelled for: texts and whole numbers.
    """

    target: str
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)
    entries: list[CostEntry] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the record as manifests store it."""
        entries = [{**dataclasses.asdict(e), "shape": list(e.shape)} for e in self.entries]
        return {"machine": self.machine, "entries": entries}
