"""``sparsec bench``."""

from __future__ import annotations

from pathlib import Path

import click

from sparsec.cli.console import console, print_json, table, text
from sparsec.cli.options import PATH, SOURCE, json_option, numbers, thread_counts, verbose_option


@click.command("bench")
@click.argument("artifact", type=PATH)
@click.option(
    "--against", type=PATH, help="Dense model. Default: the artifact's own weights, dense."
)
@click.option(
    "--threads",
    type=thread_counts,
    metavar="N[,N...]",
    default="1",
    show_default=True,
    help="Such as 1,2",
)
@click.option("--batch", type=numbers, metavar="N[,N...]", show_default="1", help="Such as 1,8")
@click.option("--calib", type=SOURCE, help="Inputs to time with, instead of --batch.")
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
@verbose_option
def command(
    artifact: str,
    against: str | None,
    threads: tuple[int, ...],
    batch: tuple[int, ...] | None,
    calib: str | None,
    rounds: int,
    as_json: bool,
    verbose: bool,
) -> int:
    """Time ARTIFACT against the dense model: interleaved rounds, medians."""
    from sparsec.benchmark import bench_artifact

    if batch and calib:
        raise click.UsageError("--calib gives the inputs, and so the batch; leave --batch out")
    result = bench_artifact(
        Path(artifact),
        None if against is None else Path(against),
        threads=threads,
        batches=batch or (1,),
        calib=calib,
        rounds=rounds,
    )
    if as_json:
        print_json(result)
        return 0
    out = console()
    machine = result["machine"]
    out.print(
        f"{text(machine['cpu'])}, {machine['cpus']} CPUs, ONNX Runtime {machine['onnxruntime']}"
    )
    names = ("threads", "batch", "dense ms", "sparse ms", "speed-up", "p10", "p90", "rounds")
    rows = table(*names, right=names)
    for row in result["rows"]:
        rows.add_row(
            str(row["threads"]),
            str(row["batch"]),
            f"{row['dense_ms']:.3f}",
            f"{row['sparse_ms']:.3f}",
            f"x{row['speedup']:.2f}",
            f"{row['speedup_p10']:.2f}",
            f"{row['speedup_p90']:.2f}",
            str(row["rounds"]),
        )
    out.print(rows)
    return 0
