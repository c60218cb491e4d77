"""Structural passes on a torch module: what comes back is a smaller module that trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from sparsec.ir.run import Feeds
    from sparsec.passes.base import Pass


def prune(
    module: torch.nn.Module,
    example_inputs: tuple[Any, ...],
    passes: Sequence[str | Pass],
    *,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    calib: Sequence[Feeds] | None = None,
    keep_batch_norm: bool = True,
    seed: int = 0,
) -> torch.fx.GraphModule:
    """Remove structure from a module, and return what is left as a module to be trained.

    Every removal is replayed before the module is returned, as in :func:`sparsec.compile`.

    Parameters
    ----------
    module : torch.nn.Module
        Left as it is.
    example_inputs : tuple
        Positional arguments of ``forward``.
    passes : sequence of SPEC or Pass
        ``["channel:sparsity=0.5"]``; see ``sparsec passes``.
    dynamic_shapes : optional
        As ``torch.export.export`` takes it. Training needs a dynamic batch.
    calib : sequence of feeds, optional
        For passes that need data: each a mapping of input name to array.
    keep_batch_norm : bool
        Whether BatchNormalization stays, with statistics that training moves; else it is folded
        into the layer before it.
    seed : int

    Returns
    -------
    torch.fx.GraphModule
        In evaluation mode. Parameters have the names that they have in ``module``; those that are
        computed from several (a folded normalisation) are called after the first. It takes the
        inputs by position and returns the tensor, or a tuple of all tensors, that ``module``
        returns. ``meta["sparsec.steps"]`` lists what every pass did, as
        ``compile --json`` does.

    Raises
    ------
    ModelImportError
        If torch is missing, or cannot export the module.
    PassError, VerifyError
        If a pass fails, or a removal does not do what it should.
    UnsupportedOpError
        If the graph has an operator that torch has no form of.

    Examples
    --------
    >>> import torch
    >>> layers = [torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)]
    >>> batch = {0: torch.export.Dim("batch")}
    >>> small = prune(torch.nn.Sequential(*layers), (torch.rand(2, 4),), ["channel:sparsity=0.5"],
    ...               dynamic_shapes=(batch,))
    >>> {name: tuple(value.shape) for name, value in small.named_parameters()}
    {'0.weight': (8, 4), '0.bias': (8,), '2.weight': (2, 8), '2.bias': (2,)}
    """
    # Here, not above: a machine that only runs sparse layers has no onnx_ir.
    from sparsec.ir.fx import to_fx
    from sparsec.ir.load_torch import model_from_module
    from sparsec.passes.base import PassContext
    from sparsec.passes.calibration.calibration import Calibration
    from sparsec.passes.pipeline import Pipeline
    from sparsec.torch.batch_norm import revive_batch_norm
    from sparsec.torch.layers import listed

    passes = listed("passes", passes)
    model = model_from_module(module, example_inputs, dynamic_shapes)
    context = PassContext(seed=seed, calibration=None if calib is None else Calibration(calib))
    steps = Pipeline.parse(passes).run(model, context, keep_batch_norm=keep_batch_norm)
    smaller = to_fx(model)
    revive_batch_norm(smaller)
    smaller.meta["sparsec.steps"] = [step.to_json() for step in steps]
    return smaller
