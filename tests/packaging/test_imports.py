"""Which layer may import which, read from the syntax tree; and how much an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "ir": ("sparsec.ir",),
    "passes": ("sparsec.passes", "sparsec.ir"),
    "backends": ("sparsec.backends", "sparsec.ir"),
}
HEAVY = ("torch", "triton", "onnxruntime", "onnx", "onnx_ir", "onnxscript", "networkx")


def imports(path: Path):
    """Yield the dotted names that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files(folder: str):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ALLOWED)
def test_layers_import_downwards_only(folder):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(folder)
        for name in imports(path)
        if name.split(".")[0] in ("sparsec", *ALLOWED)
        and not any(name == top or name.startswith(f"{top}.") for top in ALLOWED[folder])
    ]
    assert not wrong


@pytest.mark.parametrize("folder", [*ALLOWED, "sparsec"])
def test_nothing_imports_tests_examples_or_benchmarks(folder):
    skip = {ROOT / "sparsec" / name for name in ALLOWED}
    for path in files(folder):
        if not any(parent in skip for parent in path.parents):
            for name in imports(path):
                assert name.split(".")[0] not in ("tests", "examples", "benchmarks"), path


@pytest.mark.parametrize("folder", ALLOWED)
def test_the_folder_cannot_be_imported_by_its_bare_name(folder):
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"import sparsec.{folder}, not {folder}" in done.stderr


@pytest.mark.parametrize("folder", ALLOWED)
def test_links_make_the_checkout_one_package(folder):
    link = ROOT / "sparsec" / folder
    assert link.is_symlink()
    assert link.resolve() == (ROOT / folder).resolve()


def fresh(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_importing_sparsec_loads_nothing_heavy():
    code = f"import sys, sparsec; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert fresh(code).strip() == "[]"


def test_importing_sparsec_is_quick():
    code = "import time; t = time.process_time(); import sparsec; print(time.process_time() - t)"
    assert min(float(fresh(code)) for _ in range(3)) < 0.5


def test_every_public_name_exists():
    fresh("import sparsec; [getattr(sparsec, name) for name in sparsec.__all__]")


def test_loading_a_model_needs_neither_torch_nor_triton():
    code = (
        "import sys, sparsec; sparsec.load_model, sparsec.compile, sparsec.load, sparsec.Pipeline;"
        "print([name for name in ('torch', 'triton') if name in sys.modules])"
    )
    assert fresh(code).strip() == "[]"
