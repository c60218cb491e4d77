"""``python -m benchmarks.cpu.versions COMMIT [--only TEXT] [--threads N] [--seconds S]``: then and now.

Builds the library of another commit in a scratch checkout, lets that checkout lower the networks of the
benchmark its own way, and races its models against those of this checkout and the dense ones, in one
process and in the same rounds. Times of two days, or of two minutes on a busy machine, cannot be
compared; these can.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from benchmarks.cpu.__main__ import FASTEST, ROUNDS
from benchmarks.cpu.cases import CASES, Case
from sparsec.backends.base import LowerContext
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cpu.measure import Contest
from sparsec.backends.targets import CPU

ROOT = Path(__file__).parents[2]

# Run by the other checkout: argv names the case and the file.
_LOWER = """
import sys
import onnx_ir as ir
from benchmarks.cpu.cases import CASES
from sparsec.backends.base import LowerContext
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.cpu.library import library_path
from sparsec.backends.targets import CPU

name, file = sys.argv[1:]
case = next(c for c in CASES if f"{c.network} {c.form} {c.sparsity}" == name)
model, feeds = case.build()
ir.save(CpuBackend().lower(model, CPU, LowerContext([feeds])).model, file)
print(library_path())
"""


def main() -> int:
    """Race the chosen cases and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu.versions")
    parser.add_argument("commit")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="of every race")
    arguments = parser.parse_args()
    if reason := CpuBackend().why_not(CPU):
        print(reason, file=sys.stderr)
        return 4
    known = ["git", "-C", str(ROOT), "rev-parse", "--quiet", "--verify"]
    if subprocess.run(
        [*known, arguments.commit + "^{commit}"], stdout=subprocess.DEVNULL
    ).returncode:
        parser.error(f"{arguments.commit}: no such commit in {ROOT}")
    with checkout(arguments.commit) as other:
        print(f"{'network':24}{'pattern':14}{'sparsity':>9}{'then':>7}{'now':>7}{'now / then':>12}")
        for case in CASES:
            name = f"{case.network} {case.form} {case.sparsity}"
            if arguments.only not in name:
                continue
            times = race(case, name, other, arguments.threads, arguments.seconds)
            then, now = times["dense"] / times["then"], times["dense"] / times["now"]
            print(
                f"{case.network:24}{case.form:14}{case.sparsity:9.2f}{then:7.2f}{now:7.2f}{now / then:12.2f}",
                flush=True,
            )
    return 0


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Lay out a commit of this repository in a scratch folder, with its library built, for a while."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
        try:
            build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
            subprocess.run(build, cwd=folder, check=True)
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def race(case: Case, name: str, other: Path, threads: int, seconds: float) -> dict[str, float]:
    """Return the seconds of the dense model, of the other checkout's and of this one's."""
    model, feeds = case.build()
    file = other / "lowered.onnx"
    lower = [sys.executable, "-c", _LOWER, name, str(file)]
    environment = os.environ | {"PYTHONPATH": str(other)}
    done = subprocess.run(
        lower, cwd=other, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    now = CpuBackend().lower(model.clone(), CPU, LowerContext([feeds])).model
    contest = Contest(threads)
    contest.enter("dense", model, feeds)
    contest.enter("then", ir.load(file), feeds, library=Path(done.stdout.split()[-1]))
    contest.enter("now", now, feeds)
    contest.run(seconds, ROUNDS)
    return {who: float(np.quantile(turns, FASTEST)) for who, turns in contest.times.items()}


if __name__ == "__main__":
    sys.exit(main())
