"""``sparsec compile``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sparsec.cli.console import console, print_json, progress, table, text
from sparsec.cli.options import NAME, PATH, SOURCE, json_option, verbose_option
from sparsec.ir.errors import UsageError
from sparsec.quantities import change, noise, options_given, si


@click.command("compile")
@click.argument("model", type=PATH)
@click.option(
    "-o", "--output", type=PATH, help="Artifact to write. Default: MODEL's stem + .sparsec"
)
@click.option("--force", is_flag=True, help="Replace an artifact that exists.")
@click.option(
    "--pass", "passes", multiple=True, metavar="SPEC", help="A pass, such as nm24; in order."
)
@click.option("--recipe", type=PATH, help="Read passes, target and goals from a YAML file.")
@click.option(
    "--target", type=NAME, help="What to compile for; see `sparsec targets`. Default: cpu"
)
@click.option("--calib", type=SOURCE, help="Inputs to calibrate, verify and time with.")
@click.option("--eval", "evaluation", type=SOURCE, help="What to evaluate before and after.")
@click.option(
    "--goal", "goals", multiple=True, metavar="EXPR", help="Such as latency=-40% or top1=-0.01"
)
@click.option("--seed", type=click.IntRange(min=0), help="Of everything random. Default: 0")
@click.option("--cache", type=PATH, help="Folder for statistics and tuning records.")
@click.option("--dry-run", is_flag=True, help="Say what would change; write nothing.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@verbose_option
def command(
    model: str,
    output: str | None,
    force: bool,
    passes: tuple[str, ...],
    recipe: str | None,
    target: str | None,
    calib: str | None,
    evaluation: str | None,
    goals: tuple[str, ...],
    seed: int | None,
    cache: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Make MODEL (.onnx or .pt2) sparse, prove it, measure it and write an artifact."""
    from sparsec.api import plan, run_recipe
    from sparsec.goals import Goal
    from sparsec.passes.pipeline import Pipeline
    from sparsec.recipe import Recipe

    base = Recipe() if recipe is None else Recipe.read(Path(recipe))
    if recipe is not None and passes:
        raise UsageError("give passes by --pass or by --recipe, not both")
    settled = Recipe(
        passes=Pipeline.parse(passes).passes if passes else base.passes,
        target=target or base.target,
        seed=base.seed if seed is None else seed,
        calib=calib or base.calib,
        eval=evaluation or base.eval,
        goals=tuple(Goal.parse(goal) for goal in goals) or base.goals,
    )
    if dry_run:
        summary: dict[str, Any] = dict(plan(model, settled))
    else:
        with progress(quiet or as_json) as report:
            artifact = run_recipe(
                model, settled, output=output, force=force, cache=cache, progress=report
            )
        summary = artifact.summary()
    if as_json:
        print_json(summary)
    else:
        show(summary)
    return int(summary["exit_code"])


def show(summary: dict[str, Any]) -> None:
    """Print what was done as a person wants to read it."""
    out = console()
    for entry in summary["passes"]:
        options = ",".join(options_given(entry["options"]))
        out.print(
            f"{text(entry['name'])}:{text(options)}  changed {len(entry['changed'])} layers, "
            f"left {len(entry['skipped'])} alone"
        )
        _show_skipped(out, entry["skipped"])
    if summary["artifact"] is None:
        out.print("dry run: nothing was written")
        return
    _show_layers(out, summary["layers"])
    _show_change(out, summary)
    verify, fidelity = summary["verify"], summary["fidelity"]
    how = "" if verify["with"] == "device" else " (emulated: no such device here)"
    out.print(
        f"verify    max_rel {verify['max_rel']:.1e} over {verify['samples']} samples, tolerance "
        f"{verify['tolerance']:g}{noise(verify)}{how}: {'passed' if verify['passed'] else 'FAILED'}"
    )
    numbers = ", ".join(
        f"{key} {value:.4f}" for key, value in fidelity.items() if value is not None
    )
    out.print(f"fidelity  to the original: {numbers or 'no floating-point output to compare'}")
    for goal in summary["goals"]:
        met = {True: "met", False: "MISSED", None: "cannot be measured here"}[goal["met"]]
        out.print(f"goal      {text(goal['goal'])}: {met}")
    for note in summary["notes"]:
        out.print(f"note      {text(note)}")
    out.print(f"artifact  {text(summary['artifact'])}")


def _show_skipped(out: Any, skipped: list[dict[str, str]]) -> None:
    """Print why sites were left alone, equal reasons together."""
    reasons: dict[str, list[str]] = {}
    for item in skipped:
        reasons.setdefault(item["reason"], []).append(item["site"])
    for reason, sites in sorted(reasons.items(), key=lambda item: -len(item[1])):
        names = ", ".join(sites[:2]) + (f" and {len(sites) - 2} more" if len(sites) > 2 else "")
        out.print(f"  {len(sites):4d}  {text(reason)}: {text(names)}", style="dim")


def _show_layers(out: Any, layers: list[dict[str, Any]]) -> None:
    """Print how many layers ended how, with one reason each."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for layer in layers:
        groups.setdefault((layer["code"], layer["kernel"], layer["pattern"]), []).append(layer)
    rows = table("layers", "pattern", "kernel", "code", "reason, of the first", right=("layers",))
    for (code, kernel, pattern), members in sorted(groups.items(), key=lambda item: -len(item[1])):
        cells = (str(len(members)), pattern, kernel, code, members[0]["reason"])
        rows.add_row(*map(text, cells))
    out.print(rows)


def _show_change(out: Any, summary: dict[str, Any]) -> None:
    """Print the table of before and after."""
    rows = table("", "before", "after", "change", right=("before", "after", "change"))
    before, after, latency = summary["before"], summary["after"], summary["latency"]
    for key, unit in (("params", ""), ("nonzero", ""), ("bytes", "B"), ("macs", "")):
        rows.add_row(
            key, si(before[key], unit), si(after[key], unit), change(before[key], after[key])
        )
    if latency:
        dense, sparse = latency["dense_ms"], latency["sparse_ms"]
        rows.add_row("latency", f"{dense:.3f} ms", f"{sparse:.3f} ms", f"x{latency['speedup']:.2f}")
    else:
        rows.add_row("latency", "-", "-", "cannot be timed here")
    for metric, value in ((summary["accuracy"] or {}).get("before") or {}).items():
        new = summary["accuracy"]["after"][metric]
        rows.add_row(text(metric), f"{value:.4f}", f"{new:.4f}", f"{new - value:+.4f}")
    out.print(rows)
    if data := (summary["accuracy"] or {}).get("data"):
        out.print(f"evaluated on {text(data)}")
