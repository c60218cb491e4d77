"""``sparsec inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sparsec.cli.console import console, print_json, table, text
from sparsec.cli.options import PATH, json_option, verbose_option
from sparsec.quantities import si


@click.command("inspect")
@click.argument("path", type=PATH)
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
    for step in result.get("passes", ()):
        notes = ", ".join(f"{key} {value:g}" for key, value in step["notes"].items())
        out.print(text(f"{step['name']}: {notes or 'no notes'}"))
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
        show_groups(result["groups"], result["frozen"])
    else:
        for item in result["frozen"]:
            out.print(f"frozen  {text(item['value'])}: {text(item['reason'])}", style="dim")
    if why and not explained:
        out.print("a model has no kernels yet: --why is for artifacts")


def timed(record: dict[str, Any]) -> str:
    """Return a sentence on where the times of an artifact's layers come from."""
    entries = record["entries"]
    threads = sorted({entry["threads"] for entry in entries})
    how = "/".join(sorted({entry["source"] for entry in entries}))
    where = ", ".join(f"{key} {value}" for key, value in record["machine"].items())
    return f"{len(entries)} {how} times of single layers, threads {threads}: {where}"


def show_groups(groups: list[dict[str, Any]], frozen: list[dict[str, Any]]) -> None:
    """Print what a structural pass chooses among, along the network, and what it cannot touch, why."""
    out = console()
    numbers = ("units", "a unit: MACs", "parameters")
    rows = table("group", "units", "kind", *numbers[1:], "coupled with", right=numbers)
    for group in groups:
        others = group["makers"][1:]
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        kind = "/".join(group["kinds"]) or "channel"
        saves = (si(group["saves"][key]) for key in ("macs", "params"))
        rows.add_row(text(group["name"]), str(group["units"]), kind, *saves, text(shown))
    if groups:
        out.print(rows)
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for item in frozen:
        by_reason.setdefault(item["reason"], []).append(item)
    for reason, items in sorted(by_reason.items(), key=lambda pair: -len(pair[1])):
        names = ", ".join(item["value"] for item in items[:3])
        more = f" and {len(items) - 3} more" if len(items) > 3 else ""
        out.print(f"frozen  {text(names)}{more}: {text(reason)}", style="dim")
    units = sum(group["units"] for group in groups)
    out.print(
        f"groups {len(groups)}, units {units}; frozen: groups {len(frozen)}, "
        f"units {sum(item['units'] for item in frozen)}"
    )


def _ms(layer: dict[str, Any], key: str) -> str:
    seconds = layer.get(key)
    return "-" if seconds is None else f"{1e3 * seconds:.3f}"
