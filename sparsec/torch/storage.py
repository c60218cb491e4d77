"""``save`` and ``load``: a module with sparse layers as one safetensors file. No pickle.

The file holds the state dict, each tensor once, and a JSON text in its metadata under ``"sparsec"``::

    {"version": 1,
     "layers": {"model.fc": {"format": "nm24", "shape": [out, in], "values": "float16",
                             "pattern": "2:4", "bias": true, "dispatch": {...}}},
     "shared": {"lm_head.weight": "embed_tokens.weight"}}

``docs/formats/torch.md`` specifies it. A reader of safetensors that knows nothing of SparseC sees the
packed arrays under their names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsec.backends.cuda import formats, torch_formats
from sparsec.ir.errors import ArtifactError, PatternError, ShapeError, UsageError
from sparsec.torch.layers import end_fused_paths, linear_layers
from sparsec.torch.linear import Dispatch, SparseLinear, buffer_names
from sparsec.torch.sparsify import sparse_layers

KEY = "sparsec"
VERSION = 1
_MAX_TEXT = 64 << 20


def save(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights of ``module`` and what its sparse layers are to a safetensors file.

    The file is complete or absent: it is written beside its name and renamed.

    Raises
    ------
    UsageError
        If the module has no sparse layer.
    ArtifactError
        If the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    layers = {name: _describe(layer) for name, layer in sparse_layers(module)}
    if not layers:
        raise UsageError("the module has no sparse layer; call sparsec.torch.sparsify_ first")
    tensors, shared = _distinct(module)
    about = {"version": VERSION, "layers": layers, "shared": shared}
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        save_file(tensors, scratch, metadata={KEY: json.dumps(about, sort_keys=True)})
        os.replace(scratch, target)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{target}: cannot be written: {error}; nothing was left behind", where=str(target)
        ) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def load(
    path: str | os.PathLike[str],
    module: nn.Module,
    *,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Read a file that :func:`save` wrote into a dense module of the same architecture, in place.

    Nothing in the file is trusted: names, shapes and types are compared with the module, the packed
    data with what their decoders can read. If anything is wrong, the module is as it was.

    Parameters
    ----------
    path : path
    module : nn.Module
        Its own weights are not read: it may be on the meta device. Buffers that a state dict does
        not hold must be real.
    device : str or torch.device
        Where the weights are put.

    Returns
    -------
    nn.Module
        ``module``.

    Raises
    ------
    ArtifactError
        If the file is damaged, or is not of this module.
    """
    file = Path(path)
    tensors, about = _read(file, str(device))
    for alias, name in about["shared"].items():
        if name not in tensors or alias in tensors:
            raise _damaged(file, f"{alias!r} is to be {name!r}, which is not there")
        tensors[alias] = tensors[name]
    linear = {
        place: layer for layer in linear_layers(module) for place in _names_of(module, layer.module)
    }
    replacements = {}
    for name, entry in about["layers"].items():
        if name not in linear:
            raise ArtifactError(
                f"{file}: has a sparse layer {name!r}, the module has no linear layer of that name: "
                "give it the architecture that was saved",
                where=name,
            )
        replacements[name] = _build(file, name, entry, tensors, tuple(linear[name].matrix.shape))
        if (replacements[name].bias is None) != (linear[name].bias is None):
            has, own = ("no", "a") if replacements[name].bias is None else ("a", "no")
            raise ArtifactError(
                f"{file}: {name!r} has {has} bias, the module's layer has {own} bias: give it the "
                "architecture that was saved",
                where=name,
            )
    _check_rest(file, module, replacements, tensors)
    _install(module, replacements)
    tied = _tied(module)
    module.load_state_dict(tensors, strict=True, assign=True)
    for first, *others in tied:  # each name was given a parameter of its own
        for name in others:
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, module.get_parameter(first))
    for layer in replacements.values():
        layer.prepare()
    return module


def _describe(layer: SparseLinear) -> dict[str, Any]:
    return {
        "format": layer.format,
        "shape": [layer.out_features, layer.in_features],
        "values": layer.values,
        "pattern": layer.pattern,
        "bias": layer.bias is not None,
        "dispatch": dataclasses.asdict(layer.dispatch),
    }


def _distinct(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return every tensor of the state dict once, and which further names it has."""
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise UsageError(
                f"the state dict holds {name!r}, which is no tensor and cannot be saved safely"
            )
        where = tensor.data_ptr() if tensor.numel() else id(tensor)
        key = (where, tensor.dtype, tuple(tensor.shape), tensor.stride(), str(tensor.device))
        if key in first:
            shared[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor.detach().contiguous().clone()
    return tensors, shared


def _read(file: Path, device: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise ArtifactError(f"{file}: no such file", where=str(file))
    try:
        with safe_open(file, framework="pt", device=device) as content:
            text = (content.metadata() or {}).get(KEY, "")
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{file}: not readable as safetensors: {error}", where=str(file)
        ) from error
    if not text:
        raise ArtifactError(
            f"{file}: holds no sparse layers; a dense file is read by load_state_dict",
            where=str(file),
        )
    if len(text) > _MAX_TEXT:
        raise _damaged(file, f"its description has {len(text)} characters")
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, "its description is no JSON") from error
    version = about.get("version") if isinstance(about, dict) else None
    if type(version) is not int or version < 1:
        raise _damaged(file, "its description has no version")
    if version > VERSION:
        raise ArtifactError(
            f"{file}: written in version {version}, this SparseC reads up to {VERSION}; install a "
            "newer one",
            where=str(file),
        )
    layers, shared = about.get("layers"), about.get("shared")
    if not isinstance(layers, dict) or not isinstance(shared, dict):
        raise _damaged(file, "its description has no layers or no shared names")
    if not all(isinstance(name, str) for name in shared.values()):
        raise _damaged(file, "a shared name is no text")
    return tensors, about


def _build(
    file: Path, name: str, entry: Any, tensors: Mapping[str, Tensor], needed: tuple[int, ...]
) -> SparseLinear:
    """Return the sparse layer that an entry describes, its data checked."""
    try:
        form, values = entry["format"], entry["values"]
        shape = (entry["shape"][0], entry["shape"][1])
        pattern, has_bias = entry["pattern"], entry["bias"]
        dispatch = Dispatch(**entry["dispatch"])
    except (KeyError, TypeError, IndexError, UsageError) as error:
        raise _damaged(file, f"the description of {name!r} is incomplete: {error}") from error
    known = form in formats.names() and values in torch_formats.form_of(form).values
    if not known or not isinstance(pattern, str) or not isinstance(has_bias, bool):
        raise _damaged(file, f"the description of {name!r} is not of the known form")
    if shape != needed:
        raise ArtifactError(
            f"{file}: {name!r} is {list(shape)}, the module's is {list(needed)}", where=name
        )
    try:
        packed = [tensors[f"{name}.{array}"] for array in buffer_names(form, values)]
        bias = tensors[f"{name}.bias"] if has_bias else None
    except KeyError as error:
        raise _damaged(file, f"{error.args[0]!r} is missing") from error
    try:
        torch_formats.check(form, packed, shape, values)
    except (ShapeError, PatternError) as error:
        raise _damaged(file, f"{name!r}: {error.message}") from error
    if bias is not None and (bias.dtype != torch.float32 or tuple(bias.shape) != shape[:1]):
        raise _damaged(file, f"{name}.bias: need float32 [{shape[0]}], got {bias.dtype}")
    return SparseLinear(
        shape, form, packed, bias, values=values, pattern=pattern, dispatch=dispatch
    )


def _check_rest(
    file: Path,
    module: nn.Module,
    replacements: Mapping[str, SparseLinear],
    tensors: Mapping[str, Tensor],
) -> None:
    """Compare names and shapes of everything else, before anything is changed."""
    inside = tuple(f"{name}." for name in replacements)
    needed = {k: v for k, v in module.state_dict().items() if not k.startswith(inside)}
    given = {k: v for k, v in tensors.items() if not k.startswith(inside)}
    own = {f"{name}.{key}" for name, layer in replacements.items() for key in layer.state_dict()}
    stray = sorted((tensors.keys() - given.keys() - own) | (given.keys() - needed.keys()))
    missing = sorted(needed.keys() - given.keys())
    if stray or missing:
        raise ArtifactError(
            f"{file}: not of this module: missing {missing[:3]}, not expected {stray[:3]}",
            where=str(file),
        )
    for name, tensor in given.items():
        if tensor.shape != needed[name].shape:
            raise ArtifactError(
                f"{file}: {name!r} is {list(tensor.shape)}, the module's is "
                f"{list(needed[name].shape)}",
                where=name,
            )


def _install(module: nn.Module, replacements: Mapping[str, SparseLinear]) -> None:
    for layer in linear_layers(module):
        names = [name for name in _names_of(module, layer.module) if name in replacements]
        if names:
            sparse = replacements[names[0]]
            sparse.train(layer.module.training)
            layer.replace(sparse)
    end_fused_paths(module)


def _tied(module: nn.Module) -> list[list[str]]:
    """Return the names of parameters that are one."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [each for each in names.values() if len(each) > 1]


def _names_of(root: nn.Module, module: nn.Module) -> list[str]:
    return [n for n, each in root.named_modules(remove_duplicate=False) if each is module]


def _damaged(file: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{file}: damaged: {what}; save it again", where=str(file))
