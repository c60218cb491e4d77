"""The chart of the layers: times side by side where they are known, zeros where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsec.quantities import milliseconds
from sparsec.report.html import Html, element, join, name
from sparsec.report.reasons import SPARSE

# More bars than this say less than the table below them.
MAX_BARS = 40

Layer = dict[str, Any]


def layer_chart(layers: Sequence[Layer], how: str) -> Html:
    """Return the chart of ``layers``.

    Parameters
    ----------
    layers : sequence of dict
        Rows of the manifest.
    how : str
        How times were obtained: ``measured here`` or ``modelled, not measured``.
    """
    timed = [row for row in layers if "dense_seconds" in row and "sparse_seconds" in row]
    if timed:
        chosen = _largest(timed, lambda row: float(row["dense_seconds"]))
        longest = max(max(row["dense_seconds"], row["sparse_seconds"]) for row in chosen)
        bars = [bar for row in chosen for bar in _times(row, longest)]
        legend = [
            _key("dense", f"dense, ms ({how})"),
            _key("sparse", f"sparse, ms ({how})"),
        ]
        if any(row["code"] not in SPARSE for row in chosen):
            legend.append(_key("unused", "sparse, not used: dense was kept"))
        shown = timed
    else:
        chosen = _largest(layers, _weights)
        bars = [bar for row in chosen for bar in _zeros(row)]
        legend = [_key("sparse", "fraction of the weights that is zero")]
        shown = list(layers)
    note = None
    if len(chosen) < len(shown):
        note = element(
            "p",
            f"The {len(chosen)} {'slowest' if timed else 'largest'} of {len(shown)} layers; "
            "the table below has all.",
            class_="soft small",
        )
    return join(
        element("div", *legend, class_="legend"), element("div", *bars, class_="chart"), note
    )


def _largest(layers: Sequence[Layer], key: Any) -> list[Layer]:
    """Return the largest layers, in the order of the graph."""
    ranked = sorted(range(len(layers)), key=lambda index: (-key(layers[index]), index))
    return [layers[index] for index in sorted(ranked[:MAX_BARS])]


def _weights(row: Layer) -> int:
    rows, columns = row["shape"]
    return int(rows * columns)


def _times(row: Layer, longest: float) -> tuple[Html, Html, Html]:
    dense, sparse = row["dense_seconds"], row["sparse_seconds"]
    kind = "sparse" if row["code"] in SPARSE else "unused"
    return (
        name(row["name"]),
        element("svg", _bar("dense", dense, longest, 1), _bar(kind, sparse, longest, 9)),
        element("span", f"{milliseconds(dense)} → {milliseconds(sparse)}", class_="number"),
    )


def _zeros(row: Layer) -> tuple[Html, Html, Html]:
    return (
        name(row["name"]),
        element("svg", _bar("rail", 1, 1, 5), _bar("sparse", row["sparsity"], 1, 5)),
        element("span", f"{row['sparsity']:.2f}", class_="number"),
    )


def _bar(kind: str, value: float, full: float, top: int) -> Html:
    width = 100 * value / full if full else 0.0
    return element("rect", class_=kind, x=0, y=top, width=f"{width:.2f}%", height=7, rx=1.5)


def _key(kind: str, meaning: str) -> Html:
    swatch = element("svg", element("rect", class_=kind, width="100%", height="100%", rx=2))
    return element("span", swatch, meaning)
