"""``sparsec passes``."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import click

from sparsec.cli.console import console, print_json, table, text
from sparsec.cli.options import json_option, verbose_option


@click.command("passes")
@click.argument("name", required=False)
@json_option
@verbose_option
def command(name: str | None, as_json: bool, verbose: bool) -> int:
    """List the passes, or show NAME with its options."""
    from sparsec.passes.spec import aliases, parse_spec, passes

    if name is not None:
        base = aliases().get(name, name).partition(":")[0]
        if base not in passes:
            parse_spec(name)  # raises the error that names the closest pass
        described = describe(base)
        if as_json:
            print_json(described)
        else:
            _show_one(described)
        return 0
    listed = [describe(item) for item in passes]
    if as_json:
        print_json({"passes": listed})
        return 0
    rows = table("pass", "", "what it does")
    for entry in listed:
        rows.add_row(entry["name"], "exact" if entry["exact"] else "", text(entry["summary"]))
        for alias, spec in entry["aliases"].items():
            rows.add_row(f"  {alias}", "", text(f"short for {spec}"))
    console().print(rows)
    return 0


def describe(name: str) -> dict[str, Any]:
    """Return what is known of a pass, all of it from its class."""
    from sparsec.passes.spec import option_types, passes

    cls = passes.get(name)
    doc = inspect.cleandoc(cls.__doc__ or "")
    types = option_types(cls)
    return {
        "name": name,
        "summary": doc.splitlines()[0],
        "exact": cls.exact,
        "aliases": dict(cls.aliases),
        "options": [
            {
                "name": field.name,
                "type": _type_name(types[field.name]),
                "default": None if field.default is dataclasses.MISSING else _plain(field.default),
            }
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        ],
        "doc": doc,
        "distribution": passes.entries()[name].distribution,
    }


def _type_name(kind: Any) -> str:
    return (
        getattr(kind, "__name__", "")
        if kind in (int, float, str, bool)
        else str(kind).replace("typing.", "")
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _show_one(entry: dict[str, Any]) -> None:
    out = console()
    out.print(entry["doc"], markup=False)
    rows = table("option", "type", "default")
    for option in entry["options"]:
        rows.add_row(option["name"], text(option["type"]), text(option["default"]))
    out.print(rows)
    for alias, spec in entry["aliases"].items():
        out.print(f"{alias} is short for {text(spec)}")
