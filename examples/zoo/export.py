"""Write a torch module as ONNX: the one place of the zoo where torch becomes a graph."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from sparsec.ir.load import load_model

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

    @property
    def axes(self) -> tuple[Any, ...]:
        """The dynamic axes of all arguments; torch wants those of ``*args`` in a tuple of their own."""
        each = tuple(self.dynamic_shapes.get(name) for name in self.args)
        kinds = [p.kind for p in inspect.signature(self.module.forward).parameters.values()]
        if inspect.Parameter.VAR_POSITIONAL not in kinds:
            return each
        named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        return (*each[:named], each[named:])


def export(model: TorchModel, path: Path) -> None:
    """Write ``model`` as an ONNX file, through the importer that users of torch modules go through.

    Weights of more than 256 MiB go to a file beside ``path``.
    """
    graph = load_model(
        model.module,
        # Copies: one tensor given for two inputs would silently make them one in the graph.
        example_inputs=tuple(value.clone() for value in model.args.values()),
        dynamic_shapes=model.axes,
    )
    for value, name in zip(graph.graph.inputs, model.args, strict=True):
        value.name = name
    for value, name in zip(graph.graph.outputs, model.outputs, strict=True):
        value.name = name
    weights = model.module.state_dict().values()
    size = sum(each.numel() * each.element_size() for each in weights)
    ir.save(graph, path, external_data=f"{path.name}.data" if size > MAX_INLINE_BYTES else None)
