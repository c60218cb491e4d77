"""``sparsec inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sparsec.cli.console import console, print_json, table, text
from sparsec.cli.options import json_option, verbose_option
from sparsec.quantities import si


@click.command("inspect")
@click.argument("path", type=click.Path())
@click.option("--groups", is_flag=True, help="List the pruning groups.")
@click.option("--why", is_flag=True, help="Say for every layer why it runs as it does.")
@json_option
@verbose_option
def command(path: str, groups: bool, why: bool, as_json: bool, verbose: bool) -> int:
    """Show what is in PATH, a model or an artifact."""
    from sparsec.inspection import inspect_path

    result = inspect_path(Path(path), groups=groups)
    if as_json:
        print_json(result)
    else:
        show(result, why)
    return 0


def show(result: dict[str, Any], why: bool) -> None:
    """Print the description of a model or an artifact."""
    out = console()
    operators = ", ".join(f"{name} {count}" for name, count in result["ops"].items())
    out.print(f"{result['kind']}: {text(operators)}")
    out.print(
        f"parameters {si(result['params'])}, nonzero {si(result['nonzero'])}, "
        f"multiply-accumulates {si(result['macs'])}"
    )
    columns = ["layer", "op", "shape", "pattern", "sparsity"]
    explained = why and result["kind"] == "artifact"
    if explained:
        columns += ["dense ms", "sparse ms", "kernel", "code", "reason"]
    rows = table(*columns, right=("sparsity", "dense ms", "sparse ms"))
    for layer in result["layers"]:
        cells = [
            text(layer["name"]),
            text(layer["op"]),
            "x".join(map(str, layer["shape"])),
            text(layer["pattern"]),
            f"{layer['sparsity']:.3f}",
        ]
        if explained:
            cells += [_ms(layer, "dense_seconds"), _ms(layer, "sparse_seconds")]
            cells += [text(layer["kernel"]), text(layer["code"]), text(layer["reason"])]
        rows.add_row(*cells)
    out.print(rows)
    if explained and (record := result.get("record")) and record["entries"]:
        out.print(text(timed(record)), style="dim")
    if "groups" in result:
        show_groups(result["groups"])
    for item in result["frozen"]:
        out.print(f"frozen  {text(item['value'])}: {text(item['reason'])}", style="dim")
    if "groups" in result:
        count = len(result["groups"])
        out.print(f"pruning groups: {count or 'none, as no pass of this version removes units'}")
    if why and not explained:
        out.print("a model has no kernels yet: --why is for artifacts")


def timed(record: dict[str, Any]) -> str:
    """Return a sentence on where the times of an artifact's layers come from."""
    entries = record["entries"]
    threads = sorted({entry["threads"] for entry in entries})
    how = "/".join(sorted({entry["source"] for entry in entries}))
    where = ", ".join(f"{key} {value}" for key, value in record["machine"].items())
    return f"{len(entries)} {how} times of single layers, threads {threads}: {where}"


def show_groups(groups: list[dict[str, Any]]) -> None:
    """Print the pruning groups, most units first: what a structural pass chooses among."""
    out = console()
    out.print(f"groups {len(groups)}, units {sum(group['units'] for group in groups)}")
    rows = table("group", "units", "kind", "coupled with", "tensors", right=("units", "tensors"))
    for group in groups:
        others = group["makers"][1:]
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        kind = "/".join(group["kinds"]) or "channel"
        cells = [str(group["units"]), kind, text(shown), str(len(group["members"]))]
        rows.add_row(text(group["name"]), *cells)
    out.print(rows)


def _ms(layer: dict[str, Any], key: str) -> str:
    seconds = layer.get(key)
    return "-" if seconds is None else f"{1e3 * seconds:.3f}"
