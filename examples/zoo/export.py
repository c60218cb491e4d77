"""Write a torch module as ONNX: the one place of the zoo where torch becomes a graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

OPSET = 20
MAX_INLINE_BYTES = 1 << 30  # a larger model keeps its weights in a file beside it


def export(
    module: torch.nn.Module,
    args: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    path: Path,
    dynamic_shapes: Mapping[str, Any] | None = None,
) -> None:
    """Write ``module`` as an ONNX file of opset 20.

    The exporter's optimiser stays off: it would rename folded weights, untie shared ones and fold
    BatchNorm, and the parameter names would no longer be those of the module.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode.
    args : mapping of input name to tensor
        Example inputs, in the order and with the names of ``forward``.
    outputs : sequence of str
        Names for the outputs.
    path : Path
        File to write. Weights of more than 1 GiB go to ``path.data`` beside it.
    dynamic_shapes : mapping, optional
        As for :func:`torch.export.export`.
    """
    # The exporter logs one warning for each torchvision operator when torchvision is absent.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter trips over deprecations of its own dependencies; none is ours to act on.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            # Copies: one tensor given for two inputs would silently make them one in the graph.
            kwargs={name: value.clone() for name, value in args.items()},
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            dynamic_shapes=dynamic_shapes,
            input_names=list(args),
            output_names=list(outputs),
            verbose=False,
        )
    size = sum(each.numel() * each.element_size() for each in module.state_dict().values())
    program.save(path, external_data=size > MAX_INLINE_BYTES)
