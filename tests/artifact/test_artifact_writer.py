"""Writing: an artifact is complete under its name or not there, whatever fails and whenever."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import sparsec
from sparsec.artifact import writer
from sparsec.artifact.reader import open_artifact
from sparsec.ir.errors import ArtifactError, UsageError

# Of the interpreter's audit events, those that change the disk, and the index of the path in them.
_CHANGES = {"open": 0, "os.mkdir": 0, "os.rename": 0}


class _Saboteur:
    """Raises at the n-th change below a folder. An audit hook cannot be removed, so there is one."""

    def __init__(self) -> None:
        self.below: tuple[str, ...] = ()
        self.left = 0
        self.error: BaseException | None = None

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.error is None or event not in _CHANGES:
            return
        if event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = arguments[0]
        if not isinstance(path, (str, os.PathLike)) or not str(path).startswith(self.below):
            return
        self.left -= 1
        if self.left == 0:
            error, self.error = self.error, None
            raise error

    @contextmanager
    def failing(self, at: int, error: BaseException, *below: Path) -> Iterator[None]:
        self.below, self.left, self.error = tuple(map(str, below)), at, error
        try:
            yield
        finally:
            self.error = None


_saboteur = _Saboteur()
sys.addaudithook(_saboteur.hook)


def compile_to(mlp: Path, output: Path, **options: Any) -> sparsec.Artifact:
    return sparsec.compile(mlp, passes=["nm24"], target="onnx", output=output, **options)


def content(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, to itself."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_nothing_but_the_artifact_is_left(mlp: Path, tmp_path: Path, scratch: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    compile_to(mlp, out / "a.sparsec")
    assert [file.name for file in out.iterdir()] == ["a.sparsec"]
    assert sorted(content(out / "a.sparsec")) == [
        "manifest.json", "model.onnx", "model.onnx.data", "report.html"
    ]  # fmt: skip
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"),
                                   KeyboardInterrupt()], ids=["full", "interrupt"])  # fmt: skip
@pytest.mark.parametrize("force", [False, True], ids=["new", "replace"])
def test_a_failure_at_any_write_leaves_nothing(
    mlp: Path, tmp_path: Path, scratch: Path, error: BaseException, force: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if force:
        compile_to(mlp, out / "a.sparsec", seed=3)
    before = content(out)
    failures = 0
    for at in range(1, 100):
        done = False
        with _saboteur.failing(at, error, out, scratch):
            try:
                compile_to(mlp, out / "a.sparsec", force=force)
                done = True
            except ArtifactError as caught:
                message = caught.message
            except KeyboardInterrupt:
                message = "interrupted"
        if done:
            break
        if isinstance(error, OSError):
            assert message.startswith(f"{out}/a.sparsec: cannot be written: No space left")
            assert f"{tempfile.gettempdir()} for scratch files" in message
        failures += 1
        assert content(out) == before, f"after a failure at write {at}"
        assert not list(scratch.iterdir())
    assert done
    assert failures >= 10
    open_artifact(out / "a.sparsec")
    assert [file.name for file in out.iterdir()] == ["a.sparsec"]


def test_a_full_disk_while_flushing_leaves_nothing(
    mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="quota exceeded"):
        compile_to(mlp, tmp_path / "a.sparsec")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [100, 2_000, 20_000])
def test_the_system_refusing_more_bytes_leaves_nothing(
    mlp: Path, tmp_path: Path, limit: int
) -> None:
    """A limit on the size of files fails inside write(), where no hook of Python's reaches.

    Without bytecode (-B): Python would cut its own files at the limit, and never run them again.
    """
    command = [sys.executable, "-B", "-m", "sparsec", "compile", str(mlp), "--pass", "nm24"]
    command += ["--target", "onnx", "-o", str(tmp_path / "a.sparsec"), "--json", "-q"]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        check=False,
    )
    assert result.returncode == 1, result
    assert '"ArtifactError"' in result.stdout
    assert "File too large" in result.stdout
    assert not list(tmp_path.iterdir())


def test_an_existing_artifact_needs_force(mlp: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.sparsec"
    compile_to(mlp, output)
    before = content(output)
    with pytest.raises(UsageError, match="--force"):
        compile_to(mlp, output)
    assert content(output) == before
    compile_to(mlp, output, seed=1, force=True)
    assert content(output) != before
    assert [file.name for file in tmp_path.iterdir()] == ["a.sparsec"]


def test_a_damaged_artifact_can_be_replaced(mlp: Path, artifact: Path) -> None:
    (artifact / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        open_artifact(artifact)
    compile_to(mlp, artifact, force=True)
    assert open_artifact(artifact)["target"] == "onnx"


def _file(path: Path) -> None:
    path.write_text("mine")


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("mine")


def _empty(path: Path) -> None:
    path.mkdir()


def _web_app(path: Path) -> None:
    path.mkdir()
    (path / "manifest.json").write_text('{"name": "a web app"}')


def _broken_manifest(path: Path) -> None:
    path.mkdir()
    (path / "manifest.json").write_text('{"format": "sparsec-artifact", ')


def _dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    "make", [_file, _folder, _empty, _web_app, _broken_manifest, _dangling_link]
)
def test_what_is_no_artifact_is_never_replaced(mlp: Path, tmp_path: Path, make: Any) -> None:
    output = tmp_path / "a.sparsec"
    make(output)
    before = content(tmp_path)
    with pytest.raises(UsageError, match=r"exists and .*never replaced"):
        compile_to(mlp, output, force=True)
    assert content(tmp_path) == before
    assert output.is_symlink() or output.exists()


def test_a_file_added_by_the_user_is_never_lost(mlp: Path, artifact: Path) -> None:
    (artifact / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt"):
        compile_to(mlp, artifact, force=True)
    assert (artifact / "notes.txt").read_text() == "mine"


def test_a_link_to_an_artifact_is_not_followed(mlp: Path, artifact: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.sparsec"
    link.symlink_to(artifact)
    with pytest.raises(UsageError, match="never replaced"):
        compile_to(mlp, link, force=True)
    assert link.is_symlink()


def test_what_appears_meanwhile_is_not_overwritten(
    mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "a.sparsec"
    flush = writer._flush

    def late(stage: Path) -> None:
        flush(stage)
        _folder(output)

    monkeypatch.setattr(writer, "_flush", late)
    with pytest.raises(UsageError, match="never replaced"):
        compile_to(mlp, output)
    assert content(tmp_path) == {"a.sparsec/thesis.tex": hashlib.sha256(b"mine").hexdigest()}


def test_a_missing_folder_is_refused_before_any_work(mlp: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        compile_to(mlp, tmp_path / "none" / "a.sparsec")


def test_an_unwritable_folder_is_refused_before_any_work(
    mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(UsageError, match="not writable"):
        compile_to(mlp, tmp_path / "a.sparsec")


def test_permissions_are_those_that_the_user_asks_for(mlp: Path, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        path = compile_to(mlp, tmp_path / "a.sparsec").path
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o750
    assert (path / "model.onnx.data").stat().st_mode & 0o777 == 0o640


def test_an_invalid_manifest_is_not_written(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="format is missing"),
        writer.staging(tmp_path / "a.sparsec", force=False) as stage,
    ):
        writer.write_manifest(stage, {})
    assert not list(tmp_path.iterdir())


def test_plain_onnx_is_byte_identical_for_equal_input(mlp: Path, tmp_path: Path) -> None:
    first = content(compile_to(mlp, tmp_path / "a.sparsec").path)
    second = content(compile_to(mlp, tmp_path / "b.sparsec").path)
    assert first == second
