"""How the result came about: passes, verification, kernels, machine, tools, recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from sparsec.quantities import noise, options_given, si
from sparsec.report.html import Html, element, join, name, table
from sparsec.report.layers import reasons


def passes(steps: Sequence[Mapping[str, Any]]) -> Html:
    """Return every pass with its options, what it changed, and what it left alone and why."""
    if not steps:
        return element("p", "No pass was asked for.")
    parts: list[Html] = []
    for number, step in enumerate(steps, 1):
        options = ", ".join(options_given(step["options"]))
        changed, skipped = step["changed"], step["skipped"]
        parts += [
            element("h3", f"{number}. ", element("code", step["name"])),
            element("p", options, class_="soft small"),
            element("p", f"Changed {len(changed)} layers, left {len(skipped)} alone."),
            *(element("p", f"{key} {value:g}") for key, value in step["notes"].items()),
        ]
        if skipped:
            parts.append(reasons((item["reason"], item["site"]) for item in skipped))
    return join(*parts)


def verification(manifest: Mapping[str, Any]) -> Html:
    """Return what the artifact was compared with, and how far apart they are."""
    verify = manifest["verify"]
    how = (
        "as it is, on the machine that compiled it"
        if verify["with"] == "device"
        else "no such device there: its packed weights were unpacked and run in stock operators, "
        "which proves the packing but not the arithmetic of the kernels"
    )
    certificates = len(manifest["certificates"])
    return definitions(
        {
            "result": f"{'passed' if verify['passed'] else 'FAILED'}: largest difference "
            f"{verify['max_rel']:.1e} of the output's scale ({verify['max_abs']:.1e} absolute), "
            f"tolerance {verify['tolerance']:g}{noise(verify)}, {verify['samples']} samples",
            "against": "the pruned model in stock operators, same weights",
            "run": how,
            "certificates": f"{certificates}" if certificates else "none: no structure was removed",
        }
    )


def kernels(entries: Sequence[Mapping[str, Any]]) -> Html:
    """Return the compiled kernels that lie in the artifact."""
    head = ("kernel", "file", "architecture", "warps", "shared memory")
    rows: list[tuple[str | None, ...]] = [
        (
            name(entry["name"]),
            name(entry["file"]),
            name(str(entry["sm"] if "sm" in entry else entry.get("arch", "-"))),
            str(entry["num_warps"]),
            si(entry["shared_bytes"], "B"),
        )
        for entry in entries
    ]
    return element("div", table(head, rows, numbers=head[2:]), class_="kernels")


def environment(manifest: Mapping[str, Any]) -> Html:
    """Return machine, tools and source."""
    source, latency = manifest["source"], manifest["latency"]
    facts: dict[str, str] = {"source": str(source["name"])}
    if source["sha256"]:
        facts["source sha256"] = source["sha256"]
    if latency:
        machine = latency["machine"]
        facts["machine"] = f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['system']}"
        facts["instruction sets"] = ", ".join(machine["features"]) or "-"
    facts["tools"] = ", ".join(f"{tool} {version}" for tool, version in manifest["tools"].items())
    facts["runs with"] = f"ONNX Runtime {manifest['min_ort']} or newer"
    return definitions(facts)


def recipe(data: Mapping[str, Any]) -> Html:
    """Return the recipe as a file that ``--recipe`` reads."""
    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=False, width=90)
    lines = [part for line in text.splitlines() for part in (Html("\n"), line)][1:]
    return element("pre", *lines)


def definitions(facts: Mapping[str, str]) -> Html:
    """Return terms with what is to be said of each."""
    pairs = (join(element("dt", key), element("dd", value)) for key, value in facts.items())
    return element("dl", *pairs)
