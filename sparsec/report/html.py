"""Building HTML so that text cannot become markup.

A plain ``str`` is always text and escaped; only what these functions return is markup. There is no
third way to get a string into the page.
"""

from __future__ import annotations

import html
from typing import TypeAlias

from sparsec.printable import printable

_VOID = frozenset({"meta", "br", "rect", "line"})


class Html(str):
    """Markup: text that is already escaped."""

    __slots__ = ()


Child: TypeAlias = "str | None"


def text(value: object) -> Html:
    """Return ``value`` as text of the page, hidden characters spelled out."""
    return Html(html.escape(printable(value), quote=True))


def element(tag: str, *children: Child, **attributes: str | int | float | None) -> Html:
    """Return an element; children that are no :class:`Html` are escaped, None is left out.

    A trailing underscore of an attribute is dropped and others become hyphens: ``class_``,
    ``http_equiv``.

    Examples
    --------
    >>> element("td", "a < b", class_="number")
    '<td class="number">a &lt; b</td>'
    """
    names = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Html(f"<{tag}{names}>" if tag in ("meta", "br") else f"<{tag}{names}/>")
    return Html(f"<{tag}{names}>{join(*children)}</{tag}>")


def join(*children: Child) -> Html:
    """Return children one after the other."""
    return Html("".join(c if isinstance(c, Html) else text(c) for c in children if c is not None))


def name(value: object) -> Html:
    """Return a name from a model: in its own direction, broken where it must be."""
    return element("bdi", str(value), class_="name")


def table(
    head: tuple[str, ...], rows: list[tuple[Child, ...]], numbers: tuple[str, ...] = ()
) -> Html:
    """Return a table; the columns named in ``numbers`` are aligned right."""
    kinds = ["number" if title in numbers else None for title in head]
    header = (
        element("th", title, scope="col", class_=kind)
        for title, kind in zip(head, kinds, strict=True)
    )
    body = (
        element(
            "tr",
            *(element("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)),
        )
        for row in rows
    )
    inner = element("table", element("thead", element("tr", *header)), element("tbody", *body))
    return element("div", inner, class_="scroll")


def section(title: str, *children: Child) -> Html:
    """Return a titled section."""
    return element("section", element("h2", title), *children)
