"""Runs a lowered graph in torch: on a CUDA device as CUDA graphs, elsewhere to check it.

Shapes that come once run call by call. When they come again, a program is made for them and kept: traced,
folded and, on CUDA, captured. Nothing is measured or chosen then; all choices are in the artifact.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from sparsec.backends.cuda import fx_operators as _operators  # noqa: F401  (registers them)
from sparsec.backends.cuda.program import specialise
from sparsec.ir.errors import CalibrationError, SparsecError
from sparsec.ir.fx import to_fx

Arrays = Mapping[str, NDArray[Any]]
Key = tuple[tuple[tuple[int, ...], torch.dtype], ...]

Call = Callable[[Sequence[Tensor]], Sequence[Tensor]]

MAX_PROGRAMS = 16
_MAX_SEEN = 4096  # sets of shapes that are remembered
_CAPTURES = threading.Lock()


@dataclasses.dataclass(slots=True)
class Program:
    """What runs for inputs of one set of shapes.

    Parameters
    ----------
    call : callable
        Input tensors to output tensors.
    how : str
        ``"captured"`` in a CUDA graph, ``"traced"``, or ``"eager"``.
    reason : str
        Why it is not captured, if it is not.
    """

    call: Call
    how: str
    reason: str = ""


class TorchRunner:
    """Runs a graph on NumPy feeds.

    Parameters
    ----------
    model : onnx_ir.Model
        Lowered; its nodes ``sparsec::*`` become the operators of :mod:`sparsec.backends.cuda.operators`.
    device : str
        ``"cuda"`` or ``"cpu"``.

    Raises
    ------
    UnsupportedOpError
        If the graph has operators without a torch form.
    """

    def __init__(self, model: ir.Model, device: str) -> None:
        self.device = torch.device(device)
        # The device that is current now, not at each call.
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.module = to_fx(model).to(self.device)
        self.inputs: tuple[str, ...] = self.module.meta["sparsec.inputs"]
        self.outputs: tuple[str, ...] = self.module.meta["sparsec.outputs"]
        self.programs: collections.OrderedDict[Key, Program] = collections.OrderedDict()
        self._seen: collections.OrderedDict[Key, None] = collections.OrderedDict()
        # All captures of torch share a stream, and no other session may synchronise meanwhile.
        self._lock = _CAPTURES if self.device.type == "cuda" else threading.Lock()

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Return every output by name.

        Raises
        ------
        CalibrationError
            If torch cannot run the graph on these inputs.
        """
        tensors = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in self.inputs]
        key = tuple((tuple(each.shape), each.dtype) for each in tensors)
        with self._lock, torch.no_grad(), self._on_device():
            try:
                results = self._call_for(key, tensors)(tensors)
                return {
                    name: _array(result) for name, result in zip(self.outputs, results, strict=True)
                }
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                raise CalibrationError(f"torch cannot run the graph: {error}") from error

    def _call_for(self, key: Key, tensors: Sequence[Tensor]) -> Call:
        """Return what runs inputs like these; the program unused for longest gives way to a new one.

        A past that grows by a token a step never has the same shape twice: making a program for each
        would take longer than running it.
        """
        if key not in self.programs:
            if key not in self._seen:
                self._seen[key] = None
                if len(self._seen) > _MAX_SEEN:
                    self._seen.popitem(last=False)
                return self._eager
            self.programs[key] = self._make(tensors)
            if len(self.programs) > MAX_PROGRAMS:
                self.programs.popitem(last=False)
        self.programs.move_to_end(key)
        return self.programs[key].call

    def _make(self, tensors: Sequence[Tensor]) -> Program:
        static = [each.to(self.device).clone() for each in tensors]
        try:
            traced = specialise(self.module, static)
        except Exception as error:  # torch has many ways to say that shapes are not all it takes
            reason = f"its path depends on data: {type(error).__name__}: {error}".splitlines()[0]
            return Program(self._eager, "eager", reason)
        if self.device.type != "cuda":
            return Program(lambda inputs: traced(*inputs), "traced", "only CUDA has graphs")
        return captured(traced, static)

    def _eager(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        result = self.module(*(each.to(self.device) for each in inputs))
        return result if isinstance(result, tuple) else (result,)

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        """Let operators that make tensors from nothing make them on the device, and streams be its own."""
        with contextlib.ExitStack() as stack:
            if self.device.type == "cuda":
                stack.enter_context(torch.cuda.device(self.device))
            if self.device.type != "cpu":
                stack.enter_context(self.device)
            yield


def captured(traced: fx.GraphModule, static: Sequence[Tensor]) -> Program:
    """Return ``traced`` as a CUDA graph that reads ``static``; in turn, if it cannot be captured.

    Parameters
    ----------
    static : sequence of Tensor
        Inputs on the device, whose memory every replay reads.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries make their workspaces, Triton its code
        for _ in range(2):
            traced(*static)
    torch.cuda.current_stream().wait_stream(stream)
    before = torch.cuda.current_stream()
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads of a server may allocate meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = traced(*static)
    except (RuntimeError, SparsecError) as error:
        torch.cuda.set_stream(before)  # a capture that fails leaves its own one current
        torch.cuda.synchronize()
        reason = f"not capturable: {error}".splitlines()[0]
        return Program(
            lambda inputs: traced(*(i.to(static[0].device) for i in inputs)), "traced", reason
        )

    outputs: Sequence[Tensor] = results

    def replay(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        for mine, given in zip(static, inputs, strict=True):
            mine.copy_(given)
        graph.replay()
        return outputs

    return Program(replay, "captured")


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return np.array(wide.numpy())
