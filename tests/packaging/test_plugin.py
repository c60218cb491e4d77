"""A plug-in package is installed and used as a stranger would: by entry points only."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "plugin_example"


def distribution(
    folder: Path, name: str, points: dict[str, dict[str, str]], code: str = ""
) -> None:
    """Lay out a distribution as an installer leaves it."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    groups = (
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for group, entries in points.items()
    )
    (info / "entry_points.txt").write_text("".join(groups))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where pip has put the example."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(EXAMPLE, source)  # building leaves files beside the sources
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    flags = ["--disable-pip-version-check", "--root-user-action=ignore", "--target", str(target)]
    subprocess.run([*pip, *flags, str(source)], check=True, capture_output=True)
    return target


def python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter that sees SparseC and ``paths``."""
    path = os.pathsep.join(map(str, (*paths, ROOT)))
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


USE = """
import json
import numpy as np
from sparsec.backends.targets import targets
from sparsec.ir.sites import weight_sites
from sparsec.passes.base import PassContext
from sparsec.passes.pipeline import Pipeline
from tests.graphs import matmul

rounded = matmul(np.full((8, 4), 0.6, np.float32))
Pipeline.parse(["halves"]).run(rounded, PassContext())
pruned = matmul(np.ones((8, 4), np.float32))
Pipeline.parse(["nm24:criterion=edges"]).run(pruned, PassContext())
assert Pipeline.parse(["channel:sparsity=0.5,criterion=peak"]).passes[0].criterion == "peak"
(a,), (b,) = weight_sites(rounded), weight_sites(pruned)
print(json.dumps([float(a.matrix()[0, 0]), b.matrix()[0].tolist(), targets.get("toaster").title]))
"""


def test_the_example_is_found_and_used(installed):
    done = python(USE, installed)
    assert done.returncode == 0, done.stderr
    rounded, row, title = json.loads(done.stdout)
    assert rounded == 0.5
    assert row == [1, 1, 0, 0, 0, 0, 1, 1]
    assert title == "a kitchen appliance"


def test_without_the_example_its_names_are_unknown():
    done = python("from sparsec.passes.spec import parse_spec; parse_spec('halves')")
    assert "unknown pass 'halves'" in done.stderr


def test_a_name_that_two_distributions_claim_names_both(installed, tmp_path):
    points = {"sparsec.passes": {"round-weights": "rival:Other"}}
    distribution(tmp_path, "rival", points)
    done = python(
        "from sparsec.passes.spec import parse_spec; parse_spec('halves')", installed, tmp_path
    )
    assert "two distributions provide the pass 'round-weights'" in done.stderr
    assert "sparsec-example" in done.stderr
    assert "rival" in done.stderr


def test_a_builtin_name_cannot_be_taken(tmp_path):
    distribution(tmp_path, "thief", {"sparsec.passes": {"nm": "thief:NMPass"}})
    done = python("from sparsec.passes.spec import parse_spec; parse_spec('nm24')", tmp_path)
    assert "two distributions provide the pass 'nm': sparsec and thief" in done.stderr


def test_a_plugin_that_fails_to_import_is_reported_and_the_others_work(tmp_path):
    points = {"sparsec.passes": {"broken": "broken_one:Pass"}}
    distribution(tmp_path, "broken-one", points, "import a_module_that_is_not_there\n")
    fine = python("from sparsec.passes.spec import parse_spec; parse_spec('nm24')", tmp_path)
    assert fine.returncode == 0, fine.stderr
    done = python("from sparsec.passes.spec import parse_spec; parse_spec('broken')", tmp_path)
    assert "'broken' of the distribution broken-one cannot be imported" in done.stderr
    assert "No module named 'a_module_that_is_not_there'" in done.stderr
    assert "Traceback" in done.stderr


def test_a_class_that_is_no_pass_is_refused(tmp_path):
    distribution(tmp_path, "odd", {"sparsec.passes": {"odd": "odd:Odd"}}, "class Odd: pass\n")
    done = python("from sparsec.passes.spec import parse_spec; parse_spec('odd')", tmp_path)
    assert "not a subclass of sparsec.passes.Pass" in done.stderr
