"""Numbers and options as people read them, the same on the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def si(value: float | None, unit: str = "") -> str:
    """Return a number with a prefix.

    Examples
    --------
    >>> si(22700000)
    '22.7 M'
    >>> si(512, "B")
    '512 B'
    """
    if value is None:
        return "-"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:g} {unit}".strip()


def change(before: float | None, after: float | None) -> str:
    """Return the relative change in percent.

    Examples
    --------
    >>> change(200, 100)
    '-50.0 %'
    """
    if before is None or after is None or not before:
        return "-"
    if before == after:
        return "unchanged"
    return f"{100 * (after - before) / before:+.1f} %"


def milliseconds(seconds: float | None) -> str:
    """Return a time in ms with three significant digits.

    Examples
    --------
    >>> milliseconds(0.0123456)
    '12.3'
    >>> milliseconds(0.0000123456)
    '0.0123'
    """
    if seconds is None:
        return "-"
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def noise(verify: Mapping[str, Any]) -> str:
    """Return the words behind a tolerance that was widened for an output that float32 cannot tell.

    Examples
    --------
    >>> noise({"noise": 0.002})
    ' (float32 noise of an output: 2.0e-03)'
    """
    return f" (float32 noise of an output: {verify['noise']:.1e})" if "noise" in verify else ""


def options_given(options: Mapping[str, Any]) -> list[str]:
    """Return the options of a pass as in a SPEC, those that were left open omitted.

    Examples
    --------
    >>> options_given({"sparsity": 0.9, "exclude": ["head", "stem"], "ops": [], "round": None})
    ['sparsity=0.9', 'exclude=head+stem']
    """
    given = {key: value for key, value in options.items() if value is not None and value != []}
    texts = ("+".join(map(str, v)) if isinstance(v, list) else str(v) for v in given.values())
    return [f"{key}={text}" for key, text in zip(given, texts, strict=True)]
