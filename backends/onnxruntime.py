"""ONNX Runtime as a runner: sessions, and errors that say which operator it lacks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from sparsec.backends.base import Feeds
from sparsec.ir.errors import ArtifactError, SparsecError, UnsupportedOpError

ort.set_default_logger_severity(4)  # what matters is raised; the rest would garble stderr

_MISSING = re.compile(
    r"(?:Could not find an implementation for|No Op registered for|No opset import for domain)"
    r"[^A-Za-z]*(?P<op>[\w.]+)(?:\(\d+\))?(?:.*?node with name '(?P<node>[^']*)')?"
)


def new_session(
    path: Path,
    *,
    threads: int | None = 1,
    optimise: bool = True,
    libraries: Sequence[Path] = (),
    low_memory: bool = False,
) -> ort.InferenceSession:
    """Open a model in ONNX Runtime on the CPU.

    Parameters
    ----------
    path : Path
    threads : int, optional
        Threads inside an operator; None leaves the choice to the runtime.
    optimise : bool
        Whether the runtime may rewrite the graph. Off for references.
    libraries : sequence of Path
        Custom-operator libraries to register.
    low_memory : bool
        Do not keep a second, packed copy of the weights: slower, for runs that are not timed.

    Raises
    ------
    UnsupportedOpError
        If the runtime has no kernel for an operator; it is named.
    ArtifactError
        If the runtime refuses the model for another reason.
    """
    options = ort.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if low_memory:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
    for library in libraries:
        options.register_custom_ops_library(str(library))
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exception types are private
        raise _explained(error, path) from error


def _explained(error: Exception, path: Path) -> SparsecError:
    text = " ".join(str(error).split())
    if match := _MISSING.search(text):
        node = f" (node {match['node']!r})" if match["node"] else ""
        return UnsupportedOpError(
            f"{path}: ONNX Runtime has no kernel for the operator {match['op']}{node}, so the model "
            "cannot be run here; compile it where that operator is registered",
            where=match["node"] or match["op"],
        )
    return ArtifactError(f"{path}: ONNX Runtime cannot load it: {text}", where=str(path))


class OrtRunner:
    """Runs a model file in ONNX Runtime."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = 1,
        optimise: bool = True,
        libraries: Sequence[Path] = (),
        low_memory: bool = False,
    ) -> None:
        self.session = new_session(
            path, threads=threads, optimise=optimise, libraries=libraries, low_memory=low_memory
        )
        self._names = [output.name for output in self.session.get_outputs()]

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Return every output by name."""
        return dict(zip(self._names, self.session.run(None, dict(feeds)), strict=True))
