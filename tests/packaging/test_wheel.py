"""The wheel holds the tree: no module is lost, and nothing else gets in."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("sparsec", "ir", "passes", "backends")
NOT_SOURCES = shutil.ignore_patterns(
    "__pycache__", "*.so", "build", "*.egg-info", ".git*", "*_cache"
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the sources, so that building leaves nothing in the tree."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=NOT_SOURCES)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    if not (copy / "README.md").exists():
        (copy / "README.md").write_text("")
    return copy


def pip(command: str, *arguments: str, python: Path | str = sys.executable) -> None:
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    target = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*target, command, *flags, *arguments], check=True)


def modules(root: Path, package: str) -> set[str]:
    """Return the files of a folder that must be installed, by their path in the wheel."""
    wanted = (".py", ".pyi", ".typed", ".html", ".json")
    return {
        f"{package}/{path.relative_to(root).as_posix()}"
        for path in root.rglob("*")
        if path.suffix in wanted or path.name == "py.typed"
    }


@pytest.mark.slow
def test_the_wheel_is_the_tree(checkout, tmp_path):
    pip("wheel", "--wheel-dir", str(tmp_path), str(checkout))
    (wheel,) = tmp_path.glob("sparsec-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    links = [checkout / "sparsec" / name for name in FOLDERS[1:]]
    expected = {
        name
        for name in modules(checkout / "sparsec", "sparsec")
        if not any(name.startswith(f"sparsec/{link.name}/") for link in links)
    }
    for name in FOLDERS[1:]:
        expected |= modules(checkout / name, f"sparsec/{name}")
    installed = {name for name in names if not name.endswith((".so", ".cc", ".h", ".inc"))}
    assert installed == expected
    assert "sparsec/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "examples/", "benchmarks/"))]


@pytest.mark.slow
def test_an_editable_install_imports_from_the_checkout(checkout, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    # The dependencies of this interpreter, without its own copy of SparseC if there is one.
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    pip("install", "--editable", str(checkout), python=python)
    code = (
        "import sparsec.ir.sites, sparsec.passes.nm, sparsec.backends.targets as t;"
        "print(sparsec.ir.sites.__file__); print(t.targets.get('onnx').name)"
    )
    done = subprocess.run(
        [str(python), "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    file, target = done.stdout.split()
    assert Path(file).resolve() == (checkout / "ir" / "sites.py").resolve()
    assert target == "onnx"
    console = subprocess.run(
        [tmp_path / "venv" / "bin" / "sparsec", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "0.1.0" in console.stdout
