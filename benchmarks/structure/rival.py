"""Torch-Pruning on the same models, cut to the same widths; nothing if it is not installed."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.zoo import real
from sparsec.ir.cleanup import clean_up
from sparsec.ir.errors import UnsupportedOpError
from sparsec.ir.load import load_model
from sparsec.ir.run import Feeds

Pair = tuple[NDArray[Any], NDArray[Any]]


def version() -> str | None:
    if importlib.util.find_spec("torch_pruning") is None:
        return None
    return importlib.metadata.version("torch-pruning")


def rows(
    name: str,
    widths: Mapping[str, int],
    calibration: Mapping[int, list[Feeds]],
    feeds: list[Feeds],
    whole: tuple[list[Feeds], NDArray[Any]] | None,
) -> Iterator[tuple[str, list[tuple[NDArray[Any], Pair | None]]]]:
    """Yield each method, with what the pruned model returns for every seed of the calibration."""
    if version() is None:
        return
    import torch_pruning as tp

    methods = {
        "L1": (tp.importance.GroupMagnitudeImportance(p=1), False),
        "L2": (tp.importance.GroupMagnitudeImportance(p=2), False),
        "Taylor": (tp.importance.GroupTaylorImportance(), False),
    }
    if name == "effnet_lite0":
        methods["BN scale"] = (tp.importance.BNScaleImportance(), False)
        methods["L2, BN recalibrated"] = (tp.importance.GroupMagnitudeImportance(p=2), True)
        methods["Taylor, BN recalibrated"] = (tp.importance.GroupTaylorImportance(), True)
    for method, (importance, recalibrated) in methods.items():
        depends = recalibrated or method.startswith("Taylor")
        results = []
        for samples in calibration.values():
            if depends or not results:
                model = pruned(name, widths, importance, samples, method.startswith("Taylor"))
                if recalibrated:
                    recalibrate(model, samples)
                pair = None if whole is None else (run(model, whole[0]), whole[1])
                results.append((run(model, feeds), pair))
            else:
                results.append(results[0])
        yield method, results


def pruned(
    name: str, widths: Mapping[str, int], importance: Any, samples: list[Feeds], gradients: bool
) -> Any:
    """Return the model cut to ``widths``, by the names of the layers in our graph."""
    import torch
    import torch_pruning as tp

    model = module(name)
    wanted = {layer_of(model, group): width for group, width in widths.items()}
    x = batch(samples)
    ratios = {layer: 1 - (keep + 0.01) / layer.out_channels for layer, keep in wanted.items()}
    pruner = tp.pruner.BasePruner(
        model,
        x[:1],
        importance=importance,
        pruning_ratio=0.0,
        pruning_ratio_dict=ratios,
        ignored_layers=[
            layer
            for layer in model.modules()
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))
            and layer not in wanted
            and getattr(layer, "groups", 1) == 1  # depthwise ones go with what they read
        ],
    )
    if gradients:
        for start in range(0, len(x), 16):
            y = model(x[start : start + 16])
            logits = y if name == "effnet_lite0" else torch.log(y.clamp_min(1e-12))
            torch.nn.functional.cross_entropy(logits, y.argmax(dim=1), reduction="sum").backward()
    pruner.step()
    for layer, keep in wanted.items():
        assert layer.out_channels == keep, (layer, keep)
    return model.eval()


def recalibrate(model: Any, samples: list[Feeds]) -> None:
    """Let every BatchNorm take its statistics from the samples."""
    import torch

    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for part in batch(samples).split(32):
            model(part)
    for norm in norms:
        norm.eval()


def run(model: Any, feeds: list[Feeds]) -> NDArray[Any]:
    import torch

    with torch.no_grad():
        return np.concatenate([model(part).numpy() for part in batch(feeds).split(25)])


def batch(feeds: list[Feeds]) -> Any:
    import torch

    return torch.from_numpy(np.concatenate([next(iter(feed.values())) for feed in feeds]))


def module(name: str) -> Any:
    """Return the model as an ordinary torch module."""
    if name == "effnet_lite0":
        return copy.deepcopy(real.load_torch(name).module).eval()
    return from_graph(name)


def layer_of(model: Any, group: str) -> Any:
    """Return the module that a node of our graph is called after."""
    path = group.removesuffix("/Conv")
    modules = dict(model.named_modules())
    return modules[path] if path in modules else model.by_name[group]


def from_graph(name: str) -> Any:
    """Return a plain ResNet graph (Conv, Relu, Add, pooling, MatMul) as a module of layers."""
    import torch
    from torch import nn

    graph = load_model(real.path(name))
    clean_up(graph)
    nodes = list(graph.graph)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by_name = {}
            self.layers = nn.ModuleDict()
            for number, node in enumerate(nodes):
                if node.op_type != "Conv":
                    continue
                w, b = (
                    torch.from_numpy(np.array(value.const_value.numpy()))
                    for value in node.inputs[1:3]
                )
                pads = list(node.attributes.get_ints("pads") or (0, 0, 0, 0))
                conv = nn.Conv2d(w.shape[1], w.shape[0], tuple(w.shape[2:]),
                                 stride=tuple(node.attributes.get_ints("strides") or (1, 1)))  # fmt: skip
                conv.weight.data, conv.bias.data = w, b
                conv.pads = (pads[1], pads[3], pads[0], pads[2])
                self.layers[str(number)] = conv
                self.by_name[node.name] = conv

        def forward(self, x: Any) -> Any:
            values = {graph.graph.inputs[0].name: x}
            for number, node in enumerate(nodes):
                arrays = [
                    values[v.name]
                    if v.name in values
                    else torch.from_numpy(np.array(v.const_value.numpy()))
                    for v in node.inputs
                    if node.op_type != "Conv" or v is node.inputs[0]
                ]
                values[node.outputs[0].name] = self.step(number, node, arrays)
            return values[graph.graph.outputs[0].name]

        def step(self, number: int, node: Any, arrays: list[Any]) -> Any:
            ints = node.attributes.get_ints
            match node.op_type:
                case "Conv":
                    conv = self.layers[str(number)]
                    return conv(nn.functional.pad(arrays[0], conv.pads))
                case "Relu":
                    return torch.relu(arrays[0])
                case "Add":
                    return arrays[0] + arrays[1]
                case "MatMul":
                    return arrays[0] @ arrays[1]
                case "Transpose":
                    return arrays[0].permute(*ints("perm"))
                case "Softmax":
                    return torch.softmax(arrays[0], -1)
                case "Reshape" | "Flatten" | "Squeeze":
                    return arrays[0].flatten(1)
                case "MaxPool":
                    top, left, bottom, right = ints("pads") or (0, 0, 0, 0)
                    x = nn.functional.pad(arrays[0], (left, right, top, bottom), value=-torch.inf)
                    return nn.functional.max_pool2d(
                        x, list(ints("kernel_shape")), list(ints("strides"))
                    )
                case "AveragePool":
                    return nn.functional.avg_pool2d(arrays[0], list(ints("kernel_shape")))
                case "GlobalAveragePool" | "ReduceMean":
                    return arrays[0].mean((2, 3), keepdim=True)
                case other:
                    raise UnsupportedOpError(
                        f"{node.name}: {other} has no form here; the networks of this benchmark need none",
                        where=node.name or "",
                    )

    return Net().eval()
