"""``sparsec verify``."""

from __future__ import annotations

from pathlib import Path

import click

from sparsec.cli.console import console, print_json
from sparsec.cli.options import PATH, SOURCE, json_option, verbose_option
from sparsec.quantities import noise


@click.command("verify")
@click.argument("artifact", type=PATH)
@click.option("--model", type=PATH, help="The model that it was compiled from.")
@click.option("--calib", type=SOURCE, help="Inputs to compare on. Default: made up.")
@json_option
@verbose_option
def command(
    artifact: str, model: str | None, calib: str | None, as_json: bool, verbose: bool
) -> int:
    """Check ARTIFACT again, offline: hashes, graph, numerics, certificates."""
    from sparsec.verification import verify_artifact

    result = verify_artifact(Path(artifact), None if model is None else Path(model), calib)
    if as_json:
        print_json(result)
        return 0
    out = console()
    graph, numerics = result["graph"], result["numerics"]
    certificates = result["certificates"]
    how = "" if numerics["with"] == "device" else " (emulated: no such device here)"
    out.print(f"hashes        {result['hashes']['files']} files: ok")
    out.print(f"graph         {graph['nodes']} nodes, {graph['patterns']} patterns: ok")
    out.print(
        f"numerics      max_rel {numerics['max_rel']:.1e}, tolerance "
        f"{numerics['tolerance']:g}{noise(numerics)}{how}: ok"
    )
    out.print(
        f"certificates  {certificates['replayed']} replayed with {certificates['with']} weights, "
        f"{certificates['failed']} failed"
    )
    if "fidelity" in result:
        numbers = [
            f"{key} {value:.4f}" for key, value in result["fidelity"].items() if value is not None
        ]
        out.print(f"fidelity      {', '.join(numbers) or 'nothing to compare'}")
    return 0
