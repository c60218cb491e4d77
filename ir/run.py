"""Running a graph in ONNX Runtime: sessions, and errors that say which operator it lacks."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from sparsec.ir.errors import CalibrationError, ModelImportError, SparsecError, UnsupportedOpError

ort.set_default_logger_severity(4)  # what matters is raised; the rest would garble stderr

Feeds: TypeAlias = Mapping[str, NDArray[Any]]
"""One complete input of a model: an array for every graph input, by name."""

_IN_MEMORY = 64 << 20  # bytes; larger models go through a file, so that they are mapped, not copied

_MISSING = re.compile(
    r"(?:Could not find an implementation for|No Op registered for|No opset import for domain)"
    r"[^A-Za-z]*(?P<op>[\w.]+)(?:\(\d+\))?(?:.*?node with name '(?P<node>[^']*)')?"
)


def new_session(
    model: Path | bytes,
    *,
    threads: int | None = 1,
    optimise: bool = True,
    libraries: Sequence[Path] = (),
    low_memory: bool = False,
    error: type[SparsecError] = ModelImportError,
) -> ort.InferenceSession:
    """Open a model in ONNX Runtime on the CPU.

    Parameters
    ----------
    model : Path or bytes
        A file, or a serialised ``onnx.ModelProto`` without external data.
    threads : int, optional
        Threads inside an operator; None leaves the choice to the runtime.
    optimise : bool
        Whether the runtime may rewrite the graph. Off for references.
    libraries : sequence of Path
        Custom-operator libraries to register.
    low_memory : bool
        Do not keep a second, packed copy of the weights: slower, for runs that are not timed.
    error : type of SparsecError
        What to raise if the runtime refuses the model.

    Raises
    ------
    UnsupportedOpError
        If the runtime has no kernel for an operator; it is named.
    SparsecError
        Of type ``error``.
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
    source = model if isinstance(model, bytes) else str(model)
    where = "the model" if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as reason:  # the runtime's exception types are private
        raise _explained(reason, where, error) from reason


def _explained(reason: Exception, where: str, error: type[SparsecError]) -> SparsecError:
    text = " ".join(str(reason).split())
    if match := _MISSING.search(text):
        node = f" (node {match['node']!r})" if match["node"] else ""
        return UnsupportedOpError(
            f"{where}: ONNX Runtime has no kernel for the operator {match['op']}{node}, so the "
            "model cannot be run here; compile it where that operator is registered",
            where=match["node"] or match["op"],
        )
    return error(f"{where}: ONNX Runtime cannot load it: {text}", where=where)


@contextlib.contextmanager
def open_model(model: ir.Model | Path, *, optimise: bool = False) -> Iterator[ort.InferenceSession]:
    """Yield a session for a model that is run a few times and not timed; memory stays small.

    Parameters
    ----------
    model : onnx_ir.Model or Path
        A large graph is saved to a temporary folder with its data beside it, which is then mapped.
    optimise : bool
        Whether the runtime may rewrite the graph.

    Raises
    ------
    UnsupportedOpError
        If the runtime has no kernel for an operator.
    ModelImportError
        If the runtime refuses the model.
    """
    if isinstance(model, Path):
        yield new_session(model, optimise=optimise, low_memory=True)
    elif _size(model) <= _IN_MEMORY:
        proto = ir.to_proto(model)
        yield new_session(proto.SerializeToString(), optimise=optimise, low_memory=True)
    else:
        with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model, path, external_data="model.onnx.data")
            yield new_session(path, optimise=optimise, low_memory=True)


def _size(model: ir.Model) -> int:
    """Return the bytes of all initializers."""
    graphs = (model.graph, *model.graph.subgraphs())
    values = (value for graph in graphs for value in graph.initializers.values())
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def run_session(
    session: ort.InferenceSession, feeds: Feeds, outputs: Sequence[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Return the outputs by name.

    Raises
    ------
    CalibrationError
        If the runtime cannot run the model on these feeds.
    """
    names = list(outputs or (output.name for output in session.get_outputs()))
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as reason:  # the runtime's exception types are private
        text = " ".join(str(reason).split())
        raise CalibrationError(
            f"the model cannot be run on these inputs: {text}; give inputs that it accepts"
        ) from reason


def run_model(
    model: ir.Model | Path,
    feeds: Feeds,
    outputs: Sequence[str] | None = None,
    *,
    optimise: bool = False,
) -> dict[str, NDArray[Any]]:
    """Run a model once.

    Parameters
    ----------
    model : onnx_ir.Model or Path
    feeds : mapping of str to array
    outputs : sequence of str, optional
        Names of the graph outputs wanted; all if not given.
    optimise : bool
        Whether the runtime may rewrite the graph.

    Returns
    -------
    dict of str to array

    Raises
    ------
    UnsupportedOpError
        If the runtime has no kernel for an operator.
    ModelImportError
        If the runtime refuses the model.
    CalibrationError
        If the model cannot be run on these feeds.
    """
    with open_model(model, optimise=optimise) as session:
        return run_session(session, feeds, outputs)
