"""A graph for inputs of known shapes: shape arithmetic done, constants folded, ready to be captured.

What an FX module of a graph does in Python and on the host while it runs (shapes, small constants that
travel to the device) has no place in a CUDA graph. Traced with the shapes known, nothing of it is left
but calls on device tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

# What gives another result each time may not be computed once and for all.
_RANDOM = torch.Tag.nondeterministic_seeded


def specialise(module: fx.GraphModule, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """Return ``module`` for the shapes, types and device of ``inputs``; its outputs are a tuple.

    Raises
    ------
    Exception
        Whatever torch raises if the path through the graph depends on data, not on shapes.
    """

    def outputs(*args: Tensor) -> tuple[Tensor, ...]:
        result = module(*args)
        return result if isinstance(result, tuple) else (result,)

    traced = make_fx(outputs, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    fold_constants(traced)
    return traced


def fold_constants(module: fx.GraphModule) -> None:
    """Replace what does not depend on inputs by its value, in place."""
    values: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node] = _attribute(module, str(node.target))
        elif node.op == "call_function" and _foldable(node, values):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
    for count, (node, value) in enumerate(values.items()):
        used = [user for user in node.users if user not in values]
        if node.op == "get_attr" or not used or not isinstance(value, Tensor):
            continue
        name = f"_folded_{count}"
        module.register_buffer(name, value, persistent=False)
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(name), used.__contains__)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    _drop_unused_tensors(module)
    module.recompile()


def _foldable(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    target = node.target
    if _RANDOM in getattr(target, "tags", ()) or getattr(target, "_schema", None) is None:
        return False
    return not target._schema.is_mutable and all(each in values for each in node.all_input_nodes)


def _attribute(module: torch.nn.Module, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _drop_unused_tensors(module: fx.GraphModule) -> None:
    """Forget weights that only folded nodes read."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for held in (module._parameters, module._buffers):
        for name in [name for name in held if name not in used]:
            del held[name]
    for name in [n for n, v in vars(module).items() if isinstance(v, Tensor) and n not in used]:
        delattr(module, name)
