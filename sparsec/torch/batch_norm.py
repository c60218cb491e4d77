"""BatchNormalization that learns again: an imported graph computes inference only."""

from __future__ import annotations

import operator

import torch
from torch import fx

_NAMES = ("weight", "bias", "running_mean", "running_var")


class BatchNorm(torch.nn.modules.batchnorm._BatchNorm):  # type: ignore[misc]
    """Torch's own batch normalisation, of any rank."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass


def revive_batch_norm(module: fx.GraphModule) -> list[str]:
    """Put a layer in place of every call whose parameters are those of one torch layer, in place.

    Others keep their stored statistics in training, too.

    Returns
    -------
    list of str
        Names of the layers.
    """
    revived = []
    for node in list(module.graph.nodes):
        origin = node.meta.get("sparsec.origin")
        if node.op != "call_function" or getattr(origin, "op_type", "") != "BatchNormalization":
            continue
        if node.target is operator.getitem or node.kwargs.get("training_mode", 0):
            continue
        path = _layer(node)
        if path is None:
            continue
        _replace(module, node, path)
        revived.append(path)
    if revived:
        module.graph.eliminate_dead_code()
        module.recompile()
    return revived


def _layer(node: fx.Node) -> str | None:
    """Return the path of the layer whose parameters a call reads, if it alone does."""
    parameters = node.args[1:5]
    if len(parameters) < 4:
        return None
    paths = []
    for value, name in zip(parameters, _NAMES, strict=True):
        if not isinstance(value, fx.Node) or value.op != "get_attr" or len(value.users) > 1:
            return None
        path, _, own = str(value.target).rpartition(".")
        if own != name or not path:
            return None
        paths.append(path)
    return paths[0] if len(set(paths)) == 1 else None


def _replace(module: fx.GraphModule, node: fx.Node, path: str) -> None:
    old = module.get_submodule(path)
    # ONNX weighs the old value. None, the mean of all batches, is exported as if no new one counted.
    momentum = 1 - float(node.kwargs.get("momentum", 0.9)) or None
    layer = BatchNorm(old.weight.numel(), node.kwargs.get("epsilon", 1e-5), momentum)
    for name in _NAMES:
        setattr(layer, name, getattr(old, name))
    layer.train(module.training)
    parent, _, own = path.rpartition(".")
    setattr(module.get_submodule(parent), own, layer)
    with module.graph.inserting_before(node):
        call = module.graph.call_module(path, (node.args[0],))
    for user in list(node.users):
        assert user.target is operator.getitem
        assert user.args[1] == 0
        call.meta = dict(user.meta)
        user.replace_all_uses_with(call)
