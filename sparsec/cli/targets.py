"""``sparsec targets``."""

from __future__ import annotations

from typing import Any

import click

from sparsec.cli.console import console, print_json, table, text
from sparsec.cli.options import json_option, verbose_option


@click.command("targets")
@click.argument("name", required=False)
@json_option
@verbose_option
def command(name: str | None, as_json: bool, verbose: bool) -> int:
    """List the targets, or show NAME."""
    from sparsec.backends.targets import targets

    if name is not None:
        entry = describe(name)
        if as_json:
            print_json(entry)
        else:
            for key, value in entry.items():
                console().print(f"{key:10} {text(value)}")
        return 0
    listed = [describe(item) for item in targets]
    if as_json:
        print_json({"targets": listed})
        return 0
    rows = table("target", "status", "patterns that pay", "what it is")
    for entry in listed:
        status = entry["status"] if entry["available"] else f"{entry['status']}, not here"
        rows.add_row(
            entry["name"], status, ", ".join(entry["patterns"]) or "-", text(entry["title"])
        )
    console().print(rows)
    return 0


def describe(name: str) -> dict[str, Any]:
    """Return what is known of a target, and whether it can be compiled for here."""
    from sparsec.backends.targets import backends, targets
    from sparsec.ir.target import Status

    target = targets.get(name)
    status, reason = target.status, "not built yet"
    if status is not Status.PLANNED:
        backend = backends.get(target.backend)()
        target = backend.here(target)
        status, reason = backend.status(target), backend.why_not(target) or ""
    return {
        "name": target.name,
        "title": target.title,
        "status": str(status),
        "available": not reason,
        "reason": reason or None,
        "backend": target.backend or None,
        "patterns": list(target.patterns),
        "features": sorted(target.features),
        "width": target.width,
    }
