"""``sparsec doctor``."""

from __future__ import annotations

import sys
from typing import Any

import click

from sparsec.cli.console import console, print_json, table, text
from sparsec.cli.options import json_option, verbose_option


@click.command("doctor")
@json_option
@verbose_option
def command(as_json: bool, verbose: bool) -> int:
    """Say what this machine can do, what is missing, and how to get it."""
    result = examine()
    if as_json:
        print_json(result)
        return 0
    out = console()
    machine = result["machine"]
    features = ", ".join(machine["features"]) or "no kernels"
    out.print(f"{text(machine['cpu'])}, {machine['cpus']} CPUs, {features}")
    rows = table("", "part", "finding", "way out")
    for check in result["checks"]:
        mark = "ok" if check["ok"] else "--"
        rows.add_row(mark, check["name"], text(check["finding"]), text(check["way_out"] or ""))
    out.print(rows)
    return 0


def examine() -> dict[str, Any]:
    """Return the machine and one entry for each part that something depends on."""
    from sparsec.backends.targets import backends, targets
    from sparsec.ir.target import Status
    from sparsec.machine import fingerprint
    from sparsec.manifest import tool_versions

    versions = tool_versions()
    checks = [_check("python", True, sys.version.split()[0], None)]
    for name, extra in (("onnxruntime", None), ("torch", "torch"), ("triton", "cuda")):
        found = versions.get(name)
        way_out = None if found or extra is None else f"pip install sparsec[{extra}]"
        checks.append(_check(name, bool(found), found or "not installed", way_out))
    for name in targets:
        target = targets.get(name)
        if target.status is Status.PLANNED:
            continue
        backend = backends.get(target.backend)()
        reason = backend.why_not(target)
        finding = reason or str(backend.status(target))
        checks.append(_check(f"target {name}", not reason, finding, None))
    return {"machine": fingerprint(), "checks": checks}


def _check(name: str, ok: bool, finding: str, way_out: str | None) -> dict[str, Any]:
    return {"name": name, "ok": ok, "finding": finding, "way_out": way_out}
