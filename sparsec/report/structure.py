"""The picture of the structure: how wide every pruning group was and is, along the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsec.ir.codes import Code
from sparsec.report.html import Html, element, join, name, table

_HEIGHT = 130  # pixels of the widest group
_LEAST = 2.0  # pixels of a bar that is there at all
_ROOM = 900  # pixels that the picture may take before it scrolls
_SLOT, _THIN = 18.0, 4.0  # pixels of a group, at most and at least

Group = Mapping[str, Any]


def structure(steps: Sequence[Mapping[str, Any]]) -> Html | None:
    """Return the picture of every pass that removed structure; None if there is none.

    Parameters
    ----------
    steps : sequence of dict
        ``passes`` of the manifest; those with ``groups`` are shown.
    """
    parts: list[Html] = []
    for number, step in enumerate(steps, 1):
        if groups := step.get("groups"):
            parts += [
                element("h3", f"{number}. ", element("code", step["name"])),
                element("p", _summary(groups), class_="soft small"),
                _legend(),
                element("div", picture(groups), class_="scroll"),
                _table(groups),
            ]
    return join(*parts) if parts else None


def picture(groups: Sequence[Group]) -> Html:
    """Return the bars, the first of the network on the left.

    A bar's height is the square root of its units, so that a few heads are seen beside thousands of
    hidden units; what is under the pointer is said in numbers.
    """
    slot = max(_THIN, min(_SLOT, _ROOM / len(groups)))
    most = max(group["units"] for group in groups)
    bars = []
    for index, group in enumerate(groups):
        left, width = index * slot, slot * 0.75
        heights = [_height(group[key], most) for key in ("units", "kept")]
        before = "frozen" if _is_frozen(group) else "dense"
        rects = [_bar(before, left, width, heights[0])]
        if not _is_frozen(group):
            rects.append(_bar("sparse", left, width, heights[1]))
        # What the pointer finds is the whole height, not a bar of two pixels.
        hit = element("rect", class_="hit", x=_px(left), y=0, width=_px(slot), height=_HEIGHT)
        bars.append(element("g", element("title", _words(group)), *rects, hit))
    return element(
        "svg",
        *bars,
        class_="widths",
        width=_px(len(groups) * slot),
        height=_HEIGHT,
        role="img",
        aria_label=f"Widths of {len(groups)} pruning groups before and after; the table has them all",
    )


def _height(units: int, most: int) -> float:
    return float(max(_LEAST, _HEIGHT * (units / most) ** 0.5)) if units else 0.0


def _bar(kind: str, left: float, width: float, height: float) -> Html:
    return element(
        "rect",
        class_=kind,
        x=_px(left),
        y=_px(_HEIGHT - height),
        width=_px(width),
        height=_px(height),
    )


def _px(value: float) -> str:
    return f"{value:.1f}"


def _is_frozen(group: Group) -> bool:
    return bool(group["code"] == Code.BARRIER)


def _words(group: Group) -> str:
    change = (
        f"{group['units']} units"
        if group["kept"] == group["units"]
        else f"{group['units']} → {group['kept']} units"
    )
    return f"{group['name']}: {change}" + (f"; {group['reason']}" if group["reason"] else "")


def _summary(groups: Sequence[Group]) -> str:
    frozen = sum(map(_is_frozen, groups))
    pruned = sum(group["kept"] < group["units"] for group in groups)
    units = sum(group["units"] for group in groups if not _is_frozen(group))
    kept = sum(group["kept"] for group in groups if not _is_frozen(group))
    return (
        f"{len(groups)} groups along the network: {pruned} got narrower, {frozen} are frozen, "
        f"{len(groups) - pruned - frozen} were left as they are. Units that could go: {units}, kept: {kept}."
    )


def _legend() -> Html:
    kinds = (
        ("dense", "before"),
        ("sparse", "after"),
        ("frozen", "frozen: the reason is in the table"),
    )
    swatches = (
        element(
            "span",
            element("svg", element("rect", class_=kind, width="100%", height="100%")),
            f"{meaning}",
        )
        for kind, meaning in kinds
    )
    return element("div", *swatches, class_="legend")


def _table(groups: Sequence[Group]) -> Html:
    rows: list[tuple[str | None, ...]] = [
        (name(g["name"]), str(g["units"]), str(g["kept"]), g["reason"] or "") for g in groups
    ]
    head = ("group", "before", "after", "why no unit went")
    return element(
        "details",
        element("summary", "Every group"),
        element("div", table(head, rows, numbers=head[1:3]), class_="layers"),
    )
