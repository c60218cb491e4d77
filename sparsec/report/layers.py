"""The layers in words: what stayed dense and why, and the table of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sparsec.ir.codes import Code
from sparsec.quantities import milliseconds
from sparsec.report.html import Html, element, join, name, table
from sparsec.report.reasons import SENTENCES, SPARSE

_NAMES_SHOWN = 4

Layer = dict[str, Any]


def times_are(manifest: dict[str, Any]) -> str:
    """Return how the times of the layers were obtained."""
    measured = {Code.MEASURED_FASTER, Code.MEASURED_SLOWER}
    timed = [row["code"] for row in manifest["layers"] if "sparse_seconds" in row]
    return "measured" if timed and measured.issuperset(timed) else "modelled, not measured"


def kept_dense(layers: Sequence[Layer]) -> Html:
    """Return the layers without a sparse kernel, grouped by code, most frequent first."""
    groups: dict[str, list[Layer]] = {}
    for row in layers:
        if row["code"] not in SPARSE:
            groups.setdefault(row["code"], []).append(row)
    count = sum(map(len, groups.values()))
    sparse = len(layers) - count
    summary = element(
        "p", f"{count} of {len(layers)} layers stayed dense; {sparse} run a kernel for their zeros."
    )
    parts: list[Html] = [summary]
    for code, rows in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        parts += [
            element("h3", f"{len(rows)} x ", element("code", code)),
            element("p", SENTENCES.get(code)),
            reasons((row["reason"], row["name"]) for row in rows),
        ]
    return join(*parts)


def reasons(pairs: Iterable[tuple[str, str]]) -> Html:
    """Return a list of reasons, each once, with the names it applies to."""
    names: dict[str, list[str]] = {}
    for reason, owner in pairs:
        names.setdefault(reason, []).append(owner)
    entries = sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))
    return element("ul", *(element("li", reason, ": ", _names(who)) for reason, who in entries))


def _names(names: Sequence[str]) -> Html:
    """Return the first few names; the others unfold."""
    listed = [part for each in names[:_NAMES_SHOWN] for part in (", ", name(each))][1:]
    rest = names[_NAMES_SHOWN:]
    if not rest:
        return join(*listed)
    others = [part for each in rest for part in (", ", name(each))][1:]
    return join(
        *listed,
        element("details", element("summary", f"and {len(rest)} more"), element("div", *others)),
    )


def all_layers(layers: Sequence[Layer]) -> Html:
    """Return the table with a row for each layer."""
    head: tuple[str, ...] = ("layer", "op", "shape", "pattern", "sparsity")
    timed = any("dense_seconds" in row or "sparse_seconds" in row for row in layers)
    if timed:
        head += ("dense ms", "sparse ms")
    head += ("kernel", "reason")
    rows: list[tuple[str | None, ...]] = []
    for row in layers:
        cells: tuple[str | None, ...] = (
            name(row["name"]),
            row["op"],
            "x".join(map(str, row["shape"])),
            row["pattern"],
            f"{row['sparsity']:.3f}",
        )
        if timed:
            cells += (
                milliseconds(row.get("dense_seconds")),
                milliseconds(row.get("sparse_seconds")),
            )
        rows.append((*cells, name(row["kernel"]), row["reason"]))
    numbers = ("shape", "sparsity", "dense ms", "sparse ms")
    return element("div", table(head, rows, numbers=numbers), class_="layers")
