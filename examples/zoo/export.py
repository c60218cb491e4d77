"""Write a torch module as ONNX: the one place of the zoo where torch becomes a graph."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

OPSET = 20
MAX_INLINE_BYTES = 1 << 28  # a larger model keeps its weights in a file beside it


@dataclasses.dataclass(frozen=True, slots=True)
class TorchModel:
    """A module with all that an exporter needs to know.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode.
    args : mapping of input name to tensor
        Example inputs in the order of ``forward``; the names are those of the graph.
    outputs : tuple of str
        Names for the outputs.
    dynamic_shapes : mapping of input name to its dynamic axes
        Each as for :func:`torch.export.export`; an input that is absent is static.
    """

    module: torch.nn.Module
    args: Mapping[str, torch.Tensor]
    outputs: tuple[str, ...]
    dynamic_shapes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def export(model: TorchModel, path: Path) -> None:
    """Write ``model`` as an ONNX file of opset 20.

    The exporter's optimiser stays off: it would rename folded weights, untie shared ones and fold
    BatchNorm, and the parameter names would no longer be those of the module. Weights of more than
    256 MiB go to a file beside ``path``.
    """
    # The exporter logs one warning for each torchvision operator when torchvision is absent.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter trips over deprecations of its own dependencies; none is ours to act on.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.module,
            # Copies: one tensor given for two inputs would silently make them one in the graph.
            args=tuple(value.clone() for value in model.args.values()),
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            dynamic_shapes=tuple(model.dynamic_shapes.get(name) for name in model.args),
            input_names=list(model.args),
            output_names=list(model.outputs),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    weights = model.module.state_dict().values()
    size = sum(each.numel() * each.element_size() for each in weights)
    program.save(path, external_data=size > MAX_INLINE_BYTES)
