"""Changing the working precision of an imported module."""

from __future__ import annotations

import copy

import torch


def retyped(gm: torch.fx.GraphModule, dtype: torch.dtype) -> torch.fx.GraphModule:
    """Return a copy that computes in ``dtype`` wherever the original computes in floating point.

    Parameters, float buffers and the float types named in calls (Cast, ConstantOfShape) all move;
    8-bit floats are storage formats and stay.
    """
    result = copy.deepcopy(gm)
    for module in result.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if _moves(tensor.dtype):
                tensor.data = tensor.data.to(dtype)
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.kwargs = {
                    name: dtype if isinstance(v, torch.dtype) and _moves(v) else v
                    for name, v in node.kwargs.items()
                }
            module.recompile()
    return result


def _moves(dtype: torch.dtype) -> bool:
    return bool(dtype.is_floating_point and dtype.itemsize > 1)
