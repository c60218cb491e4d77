"""The demo: one real model, three compilations, each verified, and measured where that is possible.

Run by ``make demo``. The commands are printed as a user would type them. Exit code 5 (nothing gained) is a
result here, not a failure: the second compilation is there to show it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from examples.zoo import real
from examples.zoo.cache import UnavailableError
from examples.zoo.calib import minilm_tokenizer
from examples.zoo.feeding import SENTENCES

OUT = Path("demo-out")

COMPILES = (
    (
        "nm24 for an A100: emitted, not measured",
        "minilm-a100",
        ["--pass", "nm24", "--target", "a100"],
    ),
    ("nm24 for this CPU", "minilm-nm24", ["--pass", "nm24", "--target", "cpu"]),
    (
        "90 % unstructured for this CPU",
        "minilm-sparse",
        ["--pass", "unstructured:sparsity=0.9", "--target", "cpu"],
    ),
)


def sparsec(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line and return what it printed; its progress goes to the terminal."""
    command = [sys.executable, "-m", "sparsec", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)


def main() -> int:
    """Compile, verify and measure; 0 unless something is wrong."""
    try:
        model = real.path("minilm")
    except UnavailableError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    OUT.mkdir(exist_ok=True)
    inputs = write_inputs(OUT / "minilm-128.npz")
    rows = []
    for title, name, options in COMPILES:
        artifact = OUT / f"{name}.sparsec"
        line = [
            "compile",
            str(model),
            *options,
            "--calib",
            str(inputs),
            "-o",
            str(artifact),
            "--force",
        ]
        print(f"\n== {title}\n$ sparsec {' '.join(line)}", flush=True)
        start = time.monotonic()
        done = sparsec(*line)
        print(done.stdout, end="")
        if done.returncode not in (0, 5):
            return done.returncode
        verified = sparsec("verify", str(artifact))
        print(f"$ sparsec verify {artifact}\n{verified.stdout}", end="")
        if verified.returncode:
            return verified.returncode
        manifest = json.loads((artifact / "manifest.json").read_text())
        rows.append((title, manifest, time.monotonic() - start))
    table(rows)
    print(f"\nEach artifact holds a report.html; open {OUT}/minilm-sparse.sparsec/report.html")
    return 0


def write_inputs(path: Path) -> Path:
    """Write four inputs of 128 tokens as the file that ``--calib`` reads: one full feed per item."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.permutation(SENTENCES)) for _ in range(4)]
    feeds = [minilm_tokenizer().feed([text], longest=128) for text in texts]
    np.savez(path, **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    return path


def table(rows: list[tuple[str, dict[str, object], float]]) -> None:
    """Print one line for each compilation."""
    from sparsec.cli.console import console
    from sparsec.cli.console import table as new_table

    columns = ("layers lowered", "speed-up", "size", "cosine", "max_rel", "exit", "seconds")
    result = new_table("MiniLM, 22.7 M parameters, 128 tokens, 1 thread", *columns, right=columns)
    for title, manifest, seconds in rows:
        layers: list[dict[str, str]] = manifest["layers"]  # type: ignore[assignment]
        latency: dict[str, float] | None = manifest["latency"]  # type: ignore[assignment]
        before, after = manifest["before"], manifest["after"]
        lowered = sum(layer["code"] in ("measured_faster", "modelled") for layer in layers)
        result.add_row(
            title,
            f"{lowered}/{len(layers)}",
            f"x{latency['speedup']:.2f}" if latency else "not measured",
            f"{after['bytes'] / before['bytes']:.0%}",  # type: ignore[index]
            f"{manifest['fidelity']['cosine']:.3f}",  # type: ignore[index]
            f"{manifest['verify']['max_rel']:.0e}",  # type: ignore[index]
            str(manifest["exit_code"]),
            f"{seconds:.0f}",
        )
    print()
    console().print(result)


if __name__ == "__main__":
    sys.exit(main())
