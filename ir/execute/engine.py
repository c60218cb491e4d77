"""What runs a segment: ONNX Runtime, or anything else that can run a small ONNX model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from sparsec.ir.errors import CalibrationError
from sparsec.ir.execute.segment import Segment
from sparsec.ir.run import Feeds, open_session, session_options

RunSegment: TypeAlias = Callable[[Feeds], list[Any]]
"""Given what the segment reads, without its weights, returns its outputs in their order."""


class Engine(Protocol):
    """Something that can run segments."""

    def open(self, segment: Segment) -> RunSegment:
        """Make a segment ready to run; the result is dropped before the next one is opened."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class OrtEngine:
    """Runs segments in ONNX Runtime.

    Parameters
    ----------
    threads : int, optional
        Threads inside an operator; None leaves the choice to the runtime.
    libraries : sequence of Path
        Custom-operator libraries.
    """

    threads: int | None = None
    libraries: Sequence[Path] = ()

    def open(self, segment: Segment) -> RunSegment:
        """Open a session.

        Raises
        ------
        UnsupportedOpError
            If the runtime has no kernel for an operator; it is named.
        """
        options = session_options(threads=self.threads, libraries=self.libraries, low_memory=True)
        session = open_session(segment.proto.SerializeToString(), options, "a part of the graph")

        def run(feeds: Feeds) -> list[Any]:
            try:
                return list(session.run(None, {**feeds, **segment.weights}))
            except Exception as error:  # the runtime's exception types are private
                text = " ".join(str(error).split())
                raise CalibrationError(
                    f"a calibration sample cannot be run through the graph: {text}"
                ) from error

        return run
