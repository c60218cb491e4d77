"""``sparsify_``: swap the linear layers of a module for sparse ones, in place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsec.backends.cuda import formats, torch_formats
from sparsec.backends.cuda.operators import NEVER
from sparsec.backends.cuda.torch_formats import VALUES
from sparsec.ir.codes import Code
from sparsec.ir.errors import PatternError, ShapeError, UsageError, did_you_mean
from sparsec.ir.layers import LayerRow
from sparsec.ir.patterns import Pattern, parse_pattern
from sparsec.torch.layers import (
    LinearLayer,
    end_fused_paths,
    like_linear,
    linear_layers,
    listed,
    obstacle,
    readers,
)
from sparsec.torch.linear import Dispatch, SparseLinear, modelled_dispatch

DENSE = "dense"


@dataclasses.dataclass(slots=True)
class SparsifyReport:
    """What became of every linear layer.

    Parameters
    ----------
    layers : list of LayerRow
        In the order of the module; ``kernel`` is the packed format, or ``dense``.
    dense_bytes, stored_bytes : int
        Of all weights of linear layers, before and after; shared ones count once.
    """

    layers: list[LayerRow]
    dense_bytes: int
    stored_bytes: int

    @property
    def replaced(self) -> list[str]:
        """Names of the layers that are sparse now."""
        return [row.name for row in self.layers if row.kernel != DENSE]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-able data."""
        return {
            "layers": [row.to_json() for row in self.layers],
            "dense_bytes": self.dense_bytes,
            "stored_bytes": self.stored_bytes,
        }

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.layers), default=0)
        lines = [
            f"{row.name:{width}s}  {row.shape[0]:>6d}x{row.shape[1]:<6d} {row.pattern:12s} "
            f"{row.sparsity:.2f}  {row.kernel:8s} {row.reason}"
            for row in self.layers
        ]
        lines.append(
            f"{len(self.replaced)} of {len(self.layers)} linear layers are sparse; their weights take "
            f"{self.stored_bytes / 1e6:.1f} MB, {self.dense_bytes / 1e6:.1f} MB before"
        )
        return "\n".join(lines)


@dataclasses.dataclass(slots=True)
class _Pruned:
    """A weight after the passes: the matrix and its pattern, or why it stays dense."""

    matrix: NDArray[np.float32] | None
    pattern: Pattern | None
    code: Code = Code.DENSE
    reason: str = ""


def sparsify_(
    module: nn.Module,
    pattern: str = "2:4",
    *,
    sparsity: float | None = None,
    criterion: str | None = "magnitude",
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    passes: Sequence[Any] | None = None,
    values: str | None = None,
    format: str | None = None,
    dispatch: Dispatch | None = None,
    calib: Sequence[Any] | None = None,
    call: Callable[[nn.Module, Any], object] | None = None,
    seed: int = 0,
) -> SparsifyReport:
    """Prune the linear layers of ``module`` and replace them by :class:`SparseLinear`, in place.

    Layers that do not take the pattern stay as they are, with the reason in the report. If anything
    fails, the module is as it was. Which weights go is decided by the passes of a compilation.

    Parameters
    ----------
    module : nn.Module
        Any module with ``nn.Linear`` or Hugging Face's ``Conv1D`` inside. Weights that several layers
        share are pruned and stored once; one that an embedding shares stays dense.
    pattern : str
        ``"2:4"``, another N:M, ``"unstructured"``, ``"block:8x1"``.
    sparsity : float, optional
        Fraction of zeros, 0..1, for patterns that leave it open.
    criterion : str, optional
        Name of a registered criterion; None keeps the zeros that are there, and nothing is pruned.
    include, exclude : iterable of str
        Regular expressions on the paths of layers.
    passes : sequence of str or Pass, optional
        In place of ``pattern``, ``sparsity``, ``criterion``, ``include`` and ``exclude``: SPECs of
        passes, as on the command line: ``["nm24:criterion=wanda,exclude=lm_head"]``.
    values : str, optional
        ``"float16"``, ``"bfloat16"``, or 8-bit with scales: ``"float8_e4m3fn"``, ``"int8"``. By default
        the type of the weight, float16 for a float32 one.
    format : str, optional
        Packed format; the first that takes the pattern by default.
    dispatch : Dispatch, optional
        For all layers; modelled from the bytes of each by default. :func:`sparsec.torch.tune` measures.
    calib : sequence, optional
        Samples for criteria that need data: mappings are passed by keyword, tuples by position. The
        module runs once a sample, on weights as they are now ("parallel" order).
    call : callable, optional
        ``(module, sample)``, where the module is to be run in another way.

    Returns
    -------
    SparsifyReport

    Raises
    ------
    SparsecError
        For unknown patterns, criteria, options and formats.
    """
    if type(module) is nn.Linear:
        raise UsageError(
            "sparsify_ replaces layers inside a module, got a single Linear; wrap it: "
            "nn.Sequential(linear)"
        )
    for name, parameter in module.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise UsageError(f"the parameter {name!r} has no shape yet: run the module once")
    if values is not None and values not in VALUES:
        raise UsageError(f"values: {did_you_mean(values, VALUES)}")
    if format is not None and format not in formats.names():
        raise UsageError(f"format: {did_you_mean(format, formats.names())}")
    include, exclude = listed("include", include), listed("exclude", exclude)
    if passes is not None:
        passes = listed("passes", passes)
    if calib is not None:
        calib = _samples(calib)
    layers = linear_layers(module)
    by_weight, rows = _open_layers(module, layers)
    firsts = [sharing[0] for sharing in by_weight]
    if criterion is None and passes is None:
        known = parse_pattern(pattern)
        wanted = {"include": include, "exclude": exclude}
        pruned = {layer.name: _as_it_is(layer, known, **wanted) for layer in firsts}
    else:
        options: dict[str, Any] = {
            "criterion": criterion,
            "include": include,
            "exclude": exclude,
        }
        if sparsity is not None:
            options["sparsity"] = sparsity
        pruned = _prune(module, firsts, pattern, options, passes, calib, call, seed)

    replacements: list[tuple[LinearLayer, SparseLinear]] = []
    for sharing in by_weight:
        packed, row = _pack(sharing[0], pruned[sharing[0].name], values, format, dispatch)
        for layer in sharing:
            rows[layer.name] = dataclasses.replace(row, name=layer.name, op=_kind(layer))
            if packed is not None:
                replacements.append((layer, _with_bias(packed, layer)))
    report = _report(module, layers, rows, replacements)
    for layer, sparse in replacements:
        sparse.train(layer.module.training)
        layer.replace(sparse)
    end_fused_paths(module)
    return report


def _samples(calib: Any) -> Sequence[Any]:
    if isinstance(calib, (str, Mapping, Tensor)) or not isinstance(calib, Iterable):
        raise UsageError(
            f"calib: needed a list of samples, got {type(calib).__name__}; write [sample]"
        )
    samples = calib if isinstance(calib, Sequence) else list(calib)
    if not len(samples):
        raise UsageError("calib: needed at least one sample, got none")
    return samples


def _open_layers(
    module: nn.Module, layers: Sequence[LinearLayer]
) -> tuple[list[list[LinearLayer]], dict[str, LayerRow]]:
    """Return the layers that can be replaced, those of one weight together, and rows of the others."""
    held = readers(module)
    by_weight: dict[int, list[LinearLayer]] = {}
    rows = {}
    for layer in layers:
        if why := obstacle(layer, held):
            rows[layer.name] = _dense_row(layer, *why)
        else:
            by_weight.setdefault(id(layer.parameter), []).append(layer)
    return list(by_weight.values()), rows


def _prune(
    module: nn.Module,
    layers: Sequence[LinearLayer],
    pattern: str,
    options: dict[str, Any],
    specs: Sequence[Any] | None,
    calib: Sequence[Any] | None,
    call: Callable[[nn.Module, Any], object] | None,
    seed: int,
) -> dict[str, _Pruned]:
    """Run the passes; weights that do not compete go one by one, so that few are copied at a time."""
    from sparsec.passes.pipeline import Pipeline
    from sparsec.torch.masking import independent, pipeline_for, run_passes

    pipeline = Pipeline.parse(specs) if specs is not None else pipeline_for(pattern, options)
    alone = calib is None and independent(pipeline)
    result: dict[str, _Pruned] = {}
    for group in [[layer] for layer in layers] if alone else [list(layers)]:
        matrices, patterns, steps = run_passes(
            group, pipeline, module=module, calib=calib, call=call, seed=seed
        )
        why = {item.site: item for step in steps for item in step.result.skipped}
        for layer in group:
            name = layer.name
            if name in patterns:
                result[name] = _Pruned(matrices[name], parse_pattern(patterns[name]))
            elif name in why:
                result[name] = _Pruned(None, None, why[name].code, why[name].reason)
            else:
                result[name] = _Pruned(None, None, Code.DENSE, "no pass prunes it")
    return result


def _as_it_is(
    layer: LinearLayer, pattern: Pattern, include: Sequence[str], exclude: Sequence[str]
) -> _Pruned:
    if include and not any(re.search(each, layer.name) for each in include):
        return _Pruned(None, None, Code.EXCLUDED, "no include pattern matches")
    for each in exclude:
        if re.search(each, layer.name):
            return _Pruned(None, None, Code.EXCLUDED, f"the exclude pattern {each!r} matches")
    matrix = layer.matrix.to("cpu", torch.float32).contiguous().numpy()
    try:
        pattern.check(matrix, layer.name)
    except PatternError as error:
        return _Pruned(None, None, Code.DENSE, error.message)
    return _Pruned(matrix, pattern)


def _pack(
    layer: LinearLayer,
    pruned: _Pruned,
    values: str | None,
    format: str | None,
    dispatch: Dispatch | None,
) -> tuple[SparseLinear | None, LayerRow]:
    """Return the packed layer without its bias, and its row; None if it stays dense."""
    if pruned.matrix is None or pruned.pattern is None:
        return None, _dense_row(layer, pruned.code, pruned.reason)
    shape = (int(layer.matrix.shape[0]), int(layer.matrix.shape[1]))
    own = str(layer.parameter.dtype).removeprefix("torch.")
    values = values or (own if own in VALUES else "float16")
    name = format or torch_formats.format_for(pruned.pattern, values)
    if name is None:
        reason = f"no packed format holds {pruned.pattern} in {values}"
        return None, _dense_row(layer, Code.NO_KERNEL, reason)
    if refused := torch_formats.refusal(name, pruned.pattern, values):
        return None, _dense_row(layer, Code.NO_KERNEL, f"it is {pruned.pattern}, and {refused}")
    try:
        packed_on_cpu = torch_formats.pack(name, torch.from_numpy(pruned.matrix), values)
    except (ShapeError, PatternError) as error:  # a shape or a number that the format cannot hold
        return None, _dense_row(layer, Code.NO_KERNEL, error.message)
    arrays = [array.to(layer.parameter.device) for array in packed_on_cpu]
    stored = sum(array.nbytes for array in arrays)
    if stored >= layer.parameter.nbytes:
        reason = f"packed it takes {stored} bytes, dense {layer.parameter.nbytes}"
        return None, _dense_row(layer, Code.NO_KERNEL, reason)
    packed = SparseLinear(
        shape,
        name,
        arrays,
        values=values,
        pattern=str(pruned.pattern),
        dispatch=dispatch or modelled_dispatch(name, shape, stored),
    )
    reason = f"{stored / pruned.matrix.size:.3f} bytes a weight"
    if packed.dispatch.dense_from != NEVER:
        reason += f", dense from {packed.dispatch.dense_from} rows ({packed.dispatch.source})"
    zeros = 1.0 - int(np.count_nonzero(pruned.matrix)) / pruned.matrix.size
    kind, pattern = _kind(layer), str(pruned.pattern)
    return packed, LayerRow(layer.name, kind, shape, pattern, zeros, name, Code.MODELLED, reason)


def _with_bias(packed: SparseLinear, layer: LinearLayer) -> SparseLinear:
    """Return a layer on the same packed arrays with the bias of ``layer``."""
    return SparseLinear(
        (packed.out_features, packed.in_features),
        packed.format,
        packed.packed,
        layer.bias,
        values=packed.values,
        pattern=packed.pattern,
        dispatch=packed.dispatch,
    )


def _dense_row(layer: LinearLayer, code: Code, reason: str) -> LayerRow:
    shape = (int(layer.matrix.shape[0]), int(layer.matrix.shape[1]))
    zeros = 0.0
    if not layer.parameter.is_meta and layer.parameter.numel():
        zeros = 1.0 - int(torch.count_nonzero(layer.parameter)) / layer.parameter.numel()
    return LayerRow(layer.name, _kind(layer), shape, DENSE, zeros, DENSE, code, reason)


def _kind(layer: LinearLayer) -> str:
    return "Conv1D" if layer.transposed else "Linear"


def _report(
    module: nn.Module,
    layers: Sequence[LinearLayer],
    rows: dict[str, LayerRow],
    replacements: Sequence[tuple[LinearLayer, SparseLinear]],
) -> SparsifyReport:
    table = [rows[layer.name] for layer in layers]
    for name, derived in like_linear(module):
        weight = derived.weight
        assert isinstance(weight, Tensor)
        layer = LinearLayer(name, derived, weight, False, [])
        reason = f"a {type(derived).__name__} derives from Linear and may compute something else"
        table.append(_dense_row(layer, Code.NO_KERNEL, reason))
    new = {id(layer.parameter): sparse.packed_bytes for layer, sparse in replacements}
    old = {id(layer.parameter): layer.parameter.nbytes for layer in layers}
    stored = sum(new.get(key, size) for key, size in old.items())
    return SparsifyReport(table, sum(old.values()), stored)


def sparse_layers(module: nn.Module) -> Iterator[tuple[str, SparseLinear]]:
    """Yield the sparse layers of a module with all their names, shared ones under each."""
    for name, each in module.named_modules(remove_duplicate=False):
        if isinstance(each, SparseLinear):
            yield name, each
