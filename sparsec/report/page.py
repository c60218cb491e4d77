"""The page: the verdict first, then the numbers, the layers, and how they came about."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from sparsec.compare import fidelity_warning
from sparsec.quantities import change, si
from sparsec.report.chart import layer_chart
from sparsec.report.details import (
    environment,
    kernels,
    passes,
    recipe,
    verification,
)
from sparsec.report.html import Html, element, join, name, section, table
from sparsec.report.layers import all_layers, kept_dense, times_are
from sparsec.report.structure import structure
from sparsec.report.style import CSS

Manifest = dict[str, Any]

_ROWS = (
    ("parameters", "params", ""),
    ("nonzero parameters", "nonzero", ""),
    ("bytes to deploy", "bytes", "B"),
    ("multiply-accumulates", "macs", ""),
)


def render(manifest: Manifest) -> str:
    """Return the page for a manifest; equal manifests give equal pages.

    Parameters
    ----------
    manifest : dict
        Complete but for ``files``.
    """
    digest = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"{manifest['source']['name']} for {manifest['target']}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{title} - SparseC"),
        element("style", Html(CSS)),
    )
    body = element("body", element("main", *_sections(manifest)))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _sections(manifest: Manifest) -> list[Html]:
    parts = [
        _header(manifest),
        section("Before and after", _totals(manifest), _goals(manifest), _notes(manifest)),
    ]
    if (picture := structure(manifest["passes"])) is not None:
        parts.append(section("Structure", picture))
    if layers := manifest["layers"]:
        if any("dense_seconds" in row or row["sparsity"] > 0 for row in layers):
            parts.append(section("Layers", layer_chart(layers, times_are(manifest))))
        parts.append(section("What stayed dense, and why", kept_dense(layers)))
    parts += [
        section("Passes", passes(manifest["passes"])),
        section("Verification", verification(manifest)),
    ]
    if layers:
        parts.append(section("Every layer", all_layers(layers)))
    if manifest["kernels"]:
        parts.append(section("Kernels", kernels(manifest["kernels"])))
    parts += [
        section("Made with", environment(manifest)),
        section("Recipe", recipe(manifest["recipe"])),
        element(
            "footer",
            f"SparseC {manifest['sparsec']}. This page is made from manifest.json beside it, which "
            "holds every number in full.",
        ),
    ]
    return parts


def _header(manifest: Manifest) -> Html:
    kind, words = verdict(manifest)
    warning = fidelity_warning(manifest)
    return element(
        "header",
        element("p", "Sparse model for ", name(manifest["target"]), class_="kind"),
        element("h1", element("bdi", manifest["source"]["name"] or "unnamed model")),
        element("span", words, class_=f"verdict {kind}"),
        element("p", "Warning: ", warning, class_="alert") if warning else None,
    )


def verdict(manifest: Manifest) -> tuple[str, str]:
    """Return the kind (``good``, ``warn``, ``plain``) and the words of the verdict.

    A speed-up over outputs that no longer resemble the original's is never good.
    """
    latency = manifest["latency"]
    if latency is None:
        words = "not timed: this target cannot be run here"
        if manifest["target"] == "onnx":
            fewer = 1 - manifest["after"]["macs"] / max(manifest["before"]["macs"], 1)
            words = (
                f"portable: {fewer:.0%} fewer multiply-accumulates for any runtime, not timed"
                if fewer > 0
                else "portable: zeros are stored, no runtime is made faster"
            )
        speed = None
    else:
        speed = latency["speedup"]
        threads = "1 thread" if latency["threads"] == 1 else f"{latency['threads']} threads"
        words = f"{speed:.2f} times as fast as dense, measured, {threads}"
    missed = [goal["goal"] for goal in manifest["goals"] if goal["met"] is False]
    if missed:
        return "warn", f"goal missed: {', '.join(missed)} ({words})"
    if manifest["exit_code"] != 0:
        return "warn", f"no gain: {words}"
    if fidelity_warning(manifest):
        return "warn", words
    return ("good" if speed is not None and speed > 1 else "plain"), words


def _totals(manifest: Manifest) -> Html:
    before, after, latency = manifest["before"], manifest["after"], manifest["latency"]
    rows: list[tuple[str | None, ...]] = [
        (title, si(before[key], unit), si(after[key], unit), change(before[key], after[key]))
        for title, key, unit in _ROWS
    ]
    if latency:
        dense, sparse = latency["dense_ms"], latency["sparse_ms"]
        rows.append(
            ("latency, median", f"{dense:.4g} ms", f"{sparse:.4g} ms", change(dense, sparse))
        )
    else:
        rows.append(("latency", "-", "-", "not measured"))
    accuracy = manifest["accuracy"] or {"before": {}, "after": {}}
    for metric, old in accuracy["before"].items():
        new = accuracy["after"][metric]
        rows.append((metric, f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}"))
    for metric, value in manifest["fidelity"].items():
        if value is not None:
            rows.append((f"{metric} with original", "1", f"{value:.4f}", "-"))
    head = ("", "before", "after", "change")
    return element("div", table(head, rows, numbers=head[1:]), _timing(latency), class_="totals")


def _timing(latency: dict[str, Any] | None) -> Html | None:
    """Say how the latency was taken, so that nobody has to guess."""
    if latency is None:
        return None
    return element(
        "p",
        f"Latency: {latency['rounds']} interleaved rounds against the faster of the source file "
        "and its cleaned-up graph in stock ONNX Runtime; speed-up "
        f"x{latency['speedup']:.2f}, 10th to 90th percentile x{latency['speedup_p10']:.2f} to "
        f"x{latency['speedup_p90']:.2f}.",
        class_="soft small",
    )


def _goals(manifest: Manifest) -> Html | None:
    if not manifest["goals"]:
        return None
    met = {True: "met", False: "missed", None: "cannot be measured here"}
    rows: list[tuple[str | None, ...]] = [
        (goal["goal"], _plain(goal["before"]), _plain(goal["after"]), met[goal["met"]])
        for goal in manifest["goals"]
    ]
    head = ("goal", "before", "after", "result")
    return join(element("h3", "Goals"), table(head, rows, numbers=("before", "after")))


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _notes(manifest: Manifest) -> Html | None:
    warning = fidelity_warning(manifest)
    notes = [note for note in manifest["notes"] if note != warning]
    if not notes:
        return None
    return join(element("h3", "Notes"), element("ul", *(element("li", note) for note in notes)))
