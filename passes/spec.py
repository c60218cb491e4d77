"""Reading a pass SPEC: ``name`` or ``name:key=value,key=value``.

The options of a pass are the fields of its dataclass; their annotations say how a text is read.
Lists are joined by ``+``. Short names stand for a SPEC of their own and take further options:
``nm24:criterion=magnitude`` is ``nm:n=2,m=4,criterion=magnitude``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from sparsec.ir.errors import PassConfigError, did_you_mean
from sparsec.ir.registry import Registry
from sparsec.passes.base import Pass, check_pass

passes: Registry[type[Pass]] = Registry(
    "pass",
    "sparsec.passes",
    {
        "nm": "sparsec.passes.nm:NMPass",
        "unstructured": "sparsec.passes.unstructured:UnstructuredPass",
        "block": "sparsec.passes.block:BlockPass",
        "channel": "sparsec.passes.channel.channel:ChannelPass",
        "prune-exact": "sparsec.passes.channel.exact:PruneExactPass",
        "heads": "sparsec.passes.channel.heads:HeadsPass",
        "ffn": "sparsec.passes.channel.ffn:FeedForwardPass",
        "fold-constants": "sparsec.passes.cleanup.fold_constants:FoldConstantsPass",
        "fold-bn": "sparsec.passes.cleanup.fold_bn:FoldBatchNormPass",
        "identities": "sparsec.passes.cleanup.identities:IdentitiesPass",
        "dead-code": "sparsec.passes.cleanup.dead_code:DeadCodePass",
    },
    check=check_pass,
    error=PassConfigError,
)


def parse_spec(spec: str) -> Pass:
    """Build a pass from its SPEC.

    Raises
    ------
    PassConfigError
        If the pass or an option is unknown, given twice, or cannot be read.

    Examples
    --------
    >>> parse_spec("nm24:exclude=head+stem").options()["exclude"]
    ['head', 'stem']
    """
    name, _, text = spec.partition(":")
    name, preset = _expand(name)
    text = ",".join(part for part in (preset, text) if part)
    given: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise PassConfigError(f"{spec}: {item!r} is no option; write key=value", where=spec)
        if key in given:
            raise PassConfigError(f"{spec}: the option {key!r} is given twice", where=spec)
        given[key] = value
    return build_pass(name, given)


def build_pass(name: str, options: Mapping[str, Any]) -> Pass:
    """Build a pass from its name and options; texts are read as the option's type says.

    Raises
    ------
    PassConfigError
    """
    full, preset = _expand(name)
    if preset:
        return build_pass(full, {**parse_spec(name).options(), **options})
    cls = passes.get(full)
    kinds = option_types(cls)
    values = {}
    for key, value in options.items():
        if key not in kinds:
            hint = did_you_mean(str(key), kinds)  # a recipe may hold anything
            raise PassConfigError(f"{name}: unknown option {key!r}; {hint}", where=name)
        values[key] = _read(name, key, value, kinds[key])
    missing = [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # checked when registered
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in values
    ]
    if missing:
        raise PassConfigError(f"{name}: needs {', '.join(missing)}", where=name)
    return cls(**values)


def option_types(cls: type[Pass]) -> dict[str, Any]:
    """Return the type of every option of a pass."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _expand(name: str) -> tuple[str, str]:
    """Return the pass that ``name`` means, and the options that it implies if it is a short name.

    The passes of plug-ins are asked last, so that a broken one does not disturb what is built in.
    """
    if name in passes:
        return name, ""
    plugins_last = sorted(passes, key=lambda each: passes.entries()[each].distribution != "sparsec")
    for each in plugins_last:
        if expansion := passes.get(each).aliases.get(name):
            full, _, preset = expansion.partition(":")
            return full, preset
    known = [*passes, *aliases()]
    raise PassConfigError(f"unknown pass {name!r}; {did_you_mean(name, known)}", where=name)


def aliases() -> dict[str, str]:
    """Return every short name with the SPEC that it stands for."""
    return {alias: spec for name in passes for alias, spec in passes.get(name).aliases.items()}


def _read(name: str, key: str, value: Any, kind: Any) -> Any:
    """Return ``value`` as the type ``kind``: from text, or checked if it came from a recipe."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):  # it may be left open
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
        if value is None or value == "auto":
            return None
    try:
        if kind is bool:
            return _BOOLS[str(value).lower()]
        if kind in (int, float):
            return kind(value) if isinstance(value, str) else kind(_number(value, kind))
        if kind is str:
            return str(value)
        if typing.get_origin(kind) is tuple:
            items = value.split("+") if isinstance(value, str) else list(value)
            (inner, *_) = typing.get_args(kind)
            return tuple(_read(name, key, item, inner) for item in items)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        expected = getattr(kind, "__name__", str(kind))
        raise PassConfigError(
            f"{name}: {key}={value!r} cannot be read as {expected}", where=name
        ) from error
    raise PassConfigError(f"{name}: the option {key!r} has the unsupported type {kind}", where=name)


_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _number(value: Any, kind: type) -> Any:
    """Refuse what would be read as a number only by accident."""
    if isinstance(value, bool) or (kind is int and int(value) != value):
        raise ValueError(value)
    return value
