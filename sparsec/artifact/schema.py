"""The manifest's schema, field by field, and the few checks that it is written in.

A check takes a value and the path to it, and yields one sentence for everything wrong. Unknown keys
are allowed: within a format version fields may be added, never changed or taken away.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

Check: TypeAlias = Callable[[Any, str], Iterator[str]]

# The largest whole number that every reader of JSON in use can hold in a machine integer.
_MAX_COUNT = 2**63 - 1


def _rule(needed: str, fits: Callable[[Any], bool]) -> Check:
    """Return a check of one value by a predicate."""

    def check(value: Any, at: str) -> Iterator[str]:
        if not fits(value):
            yield f"{at} must be {needed}, got {reprlib.repr(value)}"

    return check


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MAX_COUNT


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


text = _rule("a text", lambda value: isinstance(value, str))
boolean = _rule("true or false", lambda value: isinstance(value, bool))
count = _rule("a whole number from 0", lambda value: _is_whole(value) and value >= 0)
number = _rule("a finite number", _is_number)
amount = _rule("a number from 0", lambda value: _is_number(value) and value >= 0)
fraction = _rule("a number in 0..1", lambda value: _is_number(value) and 0 <= value <= 1)
cosine = _rule("a number in -1..1", lambda value: _is_number(value) and -1 <= value <= 1)
sha256 = _rule("64 lower-case hexadecimal digits", _is_sha256)
size = _rule(
    "a size, a name or null",
    lambda value: value is None or isinstance(value, str) or (_is_whole(value) and value >= 0),
)
free = _rule("an object", lambda value: isinstance(value, dict))


def one_of(*values: object) -> Check:
    """Return a check that accepts only ``values``, type included: 1 is not true."""
    return _rule(
        " or ".join(map(repr, values)),
        lambda value: any(type(value) is type(each) and value == each for each in values),
    )


def nullable(check: Check) -> Check:
    """Return a check that also accepts null."""

    def either(value: Any, at: str) -> Iterator[str]:
        if value is not None:
            yield from check(value, at)

    return either


def items(check: Check, length: int | None = None) -> Check:
    """Return a check of a list, each of its items, and its length if one is given."""

    def each(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            needed = "a list" if length is None else f"a list of {length}"
            yield f"{at} must be {needed}, got {reprlib.repr(value)}"
            return
        for index, item in enumerate(value):
            yield from check(item, f"{at}[{index}]")

    return each


def mapping(check: Check) -> Check:
    """Return a check of an object with any keys and values of one kind."""

    def each(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{at} must be an object, got {reprlib.repr(value)}"
            return
        for key, item in value.items():
            yield from check(item, f"{at}[{reprlib.repr(key)}]")

    return each


def record(fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Return a check of an object with known keys; those in ``optional`` may be absent."""
    optional = optional or {}

    def each(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{at or 'the manifest'} must be an object, got {reprlib.repr(value)}"
            return
        for key, check in (*fields.items(), *optional.items()):
            place = f"{at}.{key}" if at else key
            if key in value:
                yield from check(value[key], place)
            elif key in fields:
                yield f"{place} is missing"

    return each


_VALUE = record({"name": text, "dtype": text, "shape": nullable(items(size))})
_TOTALS = record({"params": count, "nonzero": count, "bytes": count, "macs": count})
_STEP = record(
    {
        "name": text,
        "options": free,
        "changed": items(text),
        "skipped": items(record({"site": text, "code": text, "reason": text})),
        "notes": mapping(number),
    },
    {
        "groups": items(
            record(
                {
                    "name": text,
                    "units": count,
                    "kept": count,
                    "code": nullable(text),
                    "reason": nullable(text),
                }
            )
        )
    },
)
_LAYER = record(
    {
        "name": text,
        "op": text,
        "shape": items(count, length=2),
        "pattern": text,
        "sparsity": fraction,
        "kernel": text,
        "code": text,
        "reason": text,
    },
    {"dense_seconds": amount, "sparse_seconds": amount},
)
_MACHINE = record(
    {
        "cpu": text,
        "cpus": count,
        "features": items(text),
        "system": text,
        "onnxruntime": text,
    }
)
_LATENCY = record(
    {
        "dense_ms": amount,
        "sparse_ms": amount,
        "speedup": amount,
        "speedup_p10": amount,
        "speedup_p90": amount,
        "rounds": count,
        "threads": count,
        "machine": _MACHINE,
    }
)
_RECORD = record(
    {
        "machine": free,
        "entries": items(
            record(
                {
                    "op": text,
                    "shape": items(count),
                    "pattern": text,
                    "sparsity": fraction,
                    "kernel": text,
                    "threads": count,
                    "seconds": amount,
                    "source": one_of("measured", "modelled"),
                }
            )
        ),
    }
)
_KERNEL = record(
    {"name": text, "file": text, "num_warps": count, "shared_bytes": count},
    {"dtype": text, "sm": count, "arch": text, "ptx": text, "amdgcn": text, "source": text},
)
_FILES_OF_KERNEL = ("file", "ptx", "amdgcn", "source")
_RECIPE = record(
    {
        "sparsec": count,
        "target": text,
        "seed": count,
        "calib": nullable(text),
        "eval": nullable(text),
        "goals": items(text),
        "passes": items(mapping(free)),
    }
)

MANIFEST = record(
    {
        "format": text,
        "format_version": count,
        "sparsec": text,
        "tools": mapping(text),
        "min_ort": text,
        "target": text,
        "backend": text,
        "source": record(
            {
                "name": text,
                "sha256": nullable(sha256),
                "bytes": nullable(count),
                "data": mapping(sha256),
            }
        ),
        "recipe": _RECIPE,
        "inputs": items(_VALUE),
        "outputs": items(_VALUE),
        "passes": items(_STEP),
        "layers": items(_LAYER),
        "kernels": items(_KERNEL),
        "certificates": items(
            record({"file": text, "pass": text, "groups": count, "units": count})
        ),
        "lowering_notes": items(text),
        "verify": record(
            {
                "passed": one_of(True),
                "samples": count,
                "max_abs": amount,
                "max_rel": amount,
                "tolerance": amount,
                "with": one_of("device", "emulated"),
            },
            {"varied": boolean, "noise": amount},
        ),
        "fidelity": record({"cosine": nullable(cosine), "agreement": nullable(fraction)}),
        "accuracy": nullable(
            record({"before": mapping(number), "after": mapping(number)}, {"data": text})
        ),
        "before": _TOTALS,
        "after": _TOTALS,
        "latency": nullable(_LATENCY),
        "goals": items(
            record(
                {
                    "goal": text,
                    "before": nullable(number),
                    "after": nullable(number),
                    "met": nullable(boolean),
                }
            )
        ),
        "notes": items(text),
        "exit_code": one_of(0, 5),
        "files": mapping(record({"sha256": sha256, "bytes": count})),
    },
    {"record": _RECORD},
)


def complaint_of(check: Check, value: Any) -> str | None:
    """Return the first thing that ``check`` finds wrong, or None."""
    return next(check(value, ""), None)


def complaint(manifest: Mapping[str, Any]) -> str | None:
    """Return the first thing wrong with a manifest, or None.

    Parameters
    ----------
    manifest : dict
        As parsed from JSON.
    """
    if wrong := next(MANIFEST(manifest, ""), None):
        return wrong
    accuracy = manifest["accuracy"]
    if accuracy is not None and accuracy["before"].keys() != accuracy["after"].keys():
        return "accuracy.before and accuracy.after must have the same metrics"
    for index, kernel in enumerate(manifest["kernels"]):
        for key in _FILES_OF_KERNEL:
            if key in kernel and kernel[key] not in manifest["files"]:
                return f"kernels[{index}].{key} must be listed under files, got {kernel[key]!r}"
    for index, entry in enumerate(manifest["certificates"]):
        if entry["file"] not in manifest["files"]:
            return f"certificates[{index}].file must be listed under files, got {entry['file']!r}"
    return None
