"""Giving memory back: pages of mapped tensors, and what the C library keeps of freed memory."""

from __future__ import annotations

import ctypes
import gc

import onnx_ir as ir


def release(tensor: object) -> None:
    """Give the pages of a memory-mapped tensor back; it is mapped again when it is next read.

    Tensors that are not mapped are left alone.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return
    try:
        tensor.release()
    except BufferError:  # an array still reads the pages: they go with it
        tensor.raw = None


def release_all(model: ir.Model) -> None:
    """Release every memory-mapped tensor of a model, bodies included."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            release(value.const_value)


def return_to_system() -> None:
    """Return freed memory to the system: what a closed session held would stay with the process.

    Weights of a few megabytes come from the C library's heap, which keeps what is freed.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
