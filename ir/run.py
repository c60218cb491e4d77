"""Running graphs in ONNX Runtime: from a file or from memory, with errors that name the operator.

A graph whose tensors are memory-mapped is handed over without copying them: only its structure is
serialised, and the runtime maps the same data file.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from sparsec.ir.errors import (
    CalibrationError,
    ModelImportError,
    SparsecError,
    UnsupportedOpError,
)

Feeds: TypeAlias = Mapping[str, NDArray[Any]]

# Seconds. Idle workers of the runtime spin for so many turns, not for a time: 60 ms on some processors.
_LONGEST_SPIN = 0.5

# A serialised model must stay below 2 GiB; beyond half of that it goes through a file.
_MAX_IN_MEMORY_BYTES = 1 << 30

ort.set_default_logger_severity(4)  # what matters is raised; the rest would garble stderr

# What the runtime says when it has no kernel, or does not know the operator at all.
_MISSING = re.compile(
    r"(?:Could not find an implementation for|No Op registered for)\s+(?P<op>[\w.:]+)"
    r"(?:\(\d+\) node with name '(?P<node>[^']*)')?"
    r"|(?P<unknown>[\w.:]+)\(-?\d+\) is not a registered function/op"
)


def session_options(
    *,
    threads: int | None = 1,
    optimise: bool = True,
    libraries: Sequence[Path] = (),
    low_memory: bool = False,
    exact: bool = False,
) -> ort.SessionOptions:
    """Return options for a session on the CPU.

    Parameters
    ----------
    threads : int, optional
        Threads inside an operator; None leaves the choice to the runtime.
    optimise : bool
        Whether the runtime may rewrite the graph. Off for references.
    libraries : sequence of Path
        Custom-operator libraries to register.
    low_memory : bool
        Keep no second, packed copy of the weights and no arena: for runs that are not timed. They
        are exact, too.
    exact : bool
        Multiply in the types that the graph states. Otherwise the runtime rounds what meets a weight
        behind DequantizeLinear to 8 bits, which is off by half a percent.
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
    if exact or low_memory:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # float32
    for library in libraries:
        options.register_custom_ops_library(str(library))
    return options


def new_session(
    model: Path | ir.Model, options: ort.SessionOptions, where: str = ""
) -> ort.InferenceSession:
    """Open a model, from a file or from memory; messages call it ``where`` if that is given.

    Raises
    ------
    UnsupportedOpError
        If the runtime has no kernel for an operator; it is named.
    ModelImportError
        If the runtime refuses the model for another reason.
    """
    if isinstance(model, Path):
        return open_session(str(model), options, where or str(model))
    where = where or model.graph.name or "the graph"
    folder = _common_folder(model)
    if folder is not None and in_memory_bytes(model) <= _MAX_IN_MEMORY_BYTES:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, folder)
        return open_session(ir.to_proto(model).SerializeToString(), options, where)
    with tempfile.TemporaryDirectory(prefix="sparsec-") as name:
        path = Path(name) / "model.onnx"
        ir.save(model, path, external_data="model.onnx.data")
        return open_session(str(path), options, where)


def wait_for_idle_workers() -> None:
    """Return when this process uses no processor, or after half a second.

    The workers of a session spin for a while after its run, on the processors that the next
    contestant's need.
    """
    end = time.perf_counter() + _LONGEST_SPIN
    rests = 0  # in a row: a worker that another process keeps from the processor does not rest
    while rests < 3 and time.perf_counter() < end:
        used, start = time.process_time(), time.perf_counter()
        time.sleep(0.005)
        rests = 0 if time.process_time() - used > 0.1 * (time.perf_counter() - start) else rests + 1


def in_memory_bytes(model: ir.Model) -> int:
    """Return the size of all tensors that are not in a data file."""
    return sum(t.nbytes for t in _tensors(model) if not isinstance(t, ir.ExternalTensor))


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield every initializer, those of If and Loop bodies included."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value


def _common_folder(model: ir.Model) -> str | None:
    """Return the folder that all data files lie in; None if there are several."""
    folders = {
        str(Path(tensor.base_dir).resolve())
        for tensor in _tensors(model)
        if isinstance(tensor, ir.ExternalTensor)
    }
    return None if len(folders) > 1 else next(iter(folders), ".")


def open_session(
    source: str | bytes, options: ort.SessionOptions, where: str
) -> ort.InferenceSession:
    """Open a serialised model; messages call it ``where``. Raises as :func:`new_session`."""
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exception types are private
        raise _explained(error, where) from error


def _explained(error: Exception, where: str) -> SparsecError:
    text = " ".join(str(error).split())
    if match := _MISSING.search(text):
        operator = match["op"] or match["unknown"]
        node = f" (node {match['node']!r})" if match["node"] else ""
        if operator.startswith("sparsec"):
            return UnsupportedOpError(
                f"{where}: this is the graph of an artifact (its {operator} is ours); give the model "
                "that it was compiled from",
                where=match["node"] or operator,
            )
        return UnsupportedOpError(
            f"{where}: ONNX Runtime has no kernel for the operator {operator}{node} on values of its "
            "types, so the model cannot be run here; convert it to float32 or float16 if it is in "
            "bfloat16, else compile it where that operator is registered",
            where=match["node"] or operator,
        )
    return ModelImportError(f"{where}: ONNX Runtime cannot load it: {text}", where=where)


def run_session(
    session: ort.InferenceSession, feeds: Feeds, names: Sequence[str] | None = None
) -> list[Any]:
    """Return some outputs of a session, or all of them, in order.

    Raises
    ------
    CalibrationError
        If the model cannot be run on these feeds.
    """
    try:
        return list(session.run(names, dict(feeds)))
    except Exception as error:  # the runtime's exception types are private
        text = " ".join(str(error).split())
        raise CalibrationError(
            f"the model cannot be run on these inputs: {text}; give it others with --calib"
        ) from error


def _array(feed: Any) -> Any:
    """Return a tensor of torch as an array, and everything else, as a list for a sequence, as it is."""
    return np.asarray(feed) if hasattr(feed, "__array__") else feed


class OrtRunner:
    """Runs a model in ONNX Runtime; see :func:`session_options`."""

    def __init__(
        self,
        model: Path | ir.Model,
        *,
        threads: int | None = 1,
        optimise: bool = True,
        libraries: Sequence[Path] = (),
        low_memory: bool = False,
        exact: bool = False,
        where: str = "",
    ) -> None:
        options = session_options(
            threads=threads,
            optimise=optimise,
            libraries=libraries,
            low_memory=low_memory,
            exact=exact,
        )
        self.session = new_session(model, options, where)
        self._names = [output.name for output in self.session.get_outputs()]

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Return every output by name.

        Raises
        ------
        CalibrationError
            If the model cannot be run on these feeds.
        """
        outputs = run_session(self.session, {name: _array(feed) for name, feed in feeds.items()})
        return dict(zip(self._names, outputs, strict=True))
